"""SEA, arXiv 2411.01493 v2, and its release oat (defaults of its scripts)."""

from collections.abc import Mapping
from typing import Any

from lib.harness.presets.base import AUTO, BAD_ROWS, DEVICE, DEVICE_HELP, Setting, columns, split

OURS = "ours"
PAPER = "section 6 and appendix D"
CODE = "release code"
LOSSES = ["dpo", "slic", "ipo", "ipo-mean"]
CORE = [  # in every cell of the grid of exact worlds: what is compared, then the controls
    "passive",
    "passive-matched",
    "random-sea",
    "sea-logit",
    "drts",
    "deltaucb",
    "passive-again",
    "sea-truth",
    "sea-coins",
]
MORE = [  # in the first cell only: the paper's variants, losses, rivals and rules
    "passive-twice",
    "offline",
    "random",
    "bai-logit",
    "sea",
    "passive-bon",
    "bai-bon",
    "sea-bon",
    "heads-only",
    "ets",
    "uncertainty-logit",
    "xpo",
    "apl-certainty",
    "passive-slic",
    "sea-logit-slic",
    "passive-ipo",
    "sea-logit-ipo",
]
EXACT_ONLY = ("passive-twice", "sea-truth")  # controls of the exact worlds: twice the budget, and the truth told
METHODS = CORE + MORE + ["bai", "sea-ets", "uncertainty", "selm", "apl-entropy"]
BASE, TINY = "noisy hard", "tiny"
HEADLINE = "noisy hard 2 a round"  # of the headlines: a cell in which the pilots saw SEA save queries
CELLS = [
    BASE,
    "noisy easy",
    "clean hard",
    "clean easy dim 64",
    HEADLINE,
    "noisy hard dim 8",
    "noisy hard 50 answers",
    "noisy hard 24 prompts",
]
MAIN = [
    "sea-logit",
    "sea-ets",
    "apl-certainty",
    "xpo",
    "passive-matched",
    "passive",
    "offline",
]  # the longest first: they run side by side
RULES = "plain, direct, varied, full, rich, content, cheerful, afinn, or a reward model (folder or hub id)"
ASKED = "; person asks you, and an address (http://...) whoever answers there (lib/scoring/asked.py)"

SEEDS = range(8)  # of preset study

SETTINGS = {
    "model": Setting(smoke="tiny-random", small="embedded", paper="trl-lib/pythia-1b-deduped-tldr-sft",
        published="pythia 1b, 2.8b, 6.9b deduped, SFT on TL;DR", source=PAPER,
        help="start model: tiny-random, embedded, a local folder, or a hub id"),
    "template": Setting(smoke="none", small="none", paper="plain", published=None,
        source="ours: the SFT model was taught bare TL;DR prompts",
        help="chat template of the model: none is its tokenizer's own; vicuna, llama-2, chatml, plain, lab, or a jinja "
        "file"),
    "prompts": Setting(smoke="prompts.jsonl", small="prompts.jsonl", paper="lkevinzc/tldr-with-sft-reference:train",
        published="lkevinzc/tldr-with-sft-reference", source=CODE,
        help="file, folder or data set (id:split) of prompts, under data/ or anywhere"),
    "columns": columns("the prompts"),
    "bad_rows": BAD_ROWS,
    "dtype": Setting(smoke="float32", small="bfloat16", paper="bfloat16", published="bfloat16", source=CODE,
        help="compute "
        "type; masters are float32", allowed=["float32", "bfloat16"]),
    "device": Setting(smoke="cpu", small="cpu", paper="cuda", published=None, source=OURS, help=DEVICE_HELP,
        form=DEVICE),
    "reward": Setting(smoke="full", small="cheerful", paper="Skywork/Skywork-Reward-Llama-3.1-8B",
        published="Skywork-Reward-Llama-3.1-8B", source=PAPER, help="what the oracle prefers: " + RULES + ASKED),
    "held_out_reward": Setting(smoke="varied", small="afinn", paper="afinn", published=None, source=OURS,
        help="a second "
        "reward nobody is trained on: " + RULES),
    "yardstick": Setting(smoke=2, small=1, paper=1, published="the SFT model's one answer", source=CODE,
        help="held-out answers are compared with the best, by the oracle, of so many of the start's, which is not soon "
        "beaten every time; 1: with its greedy one", allowed=(1, 1000)),
    "labels": Setting(smoke="deterministic", small="deterministic", paper="deterministic", published="deterministic",
        source=CODE, help="the likelier side wins, or drawn", allowed=["deterministic", "bernoulli"]),
    "flip": Setting(smoke=0.0, small=0.0, paper=0.0, published=0.0, source=CODE, help="share of labels turned round",
        allowed=(0.0, 0.49)),
    "blocks": Setting(smoke=1, small=4, paper=4, published="all", source="ours: the last blocks, so that one pass of "
        "the others serves everything", help="last blocks that learn", allowed=(1, 1000)),
    "n_train": Setting(smoke=16, small=320, paper=320, published=50000, source=PAPER, help="training prompts",
        allowed=(2, 10**6)),
    "n_validation": Setting(smoke=4, small=48, paper=48, published=None, source=OURS, help="prompts that the "
        "learning rate is chosen on", allowed=(1, 10**6)),
    "n_test": Setting(smoke=6, small=96, paper=96, published=1000, source=CODE, help="held-out prompts",
        allowed=(1, 10**6)),
    "tokens": Setting(smoke=6, small=20, paper=53, published=53, source=CODE, help="longest answer, tokens",
        allowed=(1, 4096)),
    "temperature": Setting(smoke=0.7, small=1.0, paper=0.7, published=0.7, source=CODE, help="of the answers",
        allowed=(0.01, 10.0)),
    "candidates": Setting(smoke=4, small=8, paper=20, published=20, source=PAPER, help="M, answers a prompt of "
        "methods that choose", allowed=(2, 1000)),
    "best_of": Setting(smoke=3, small=10, paper=10, published=10, source=CODE, help="N of the best-of-N variants",
        allowed=(1, 1000)),
    "batch": Setting(smoke=4, small=16, paper=128, published=128, source=CODE, help="prompts a round, one policy "
        "step each", allowed=(1, 10**5)),
    "oversample": Setting(smoke=2, small=4, paper=4, published=4, source="arXiv 2402.08114", help="APL: prompts "
        "drawn a prompt kept", allowed=(1, 100)),
    "budget": Setting(smoke=12, small=224, paper=50000, published=50000, source=PAPER, help="oracle queries a method",
        allowed=(1, 10**7)),
    "every": Setting(smoke=8, small=80, paper=2560, published=2560, source=CODE, help="queries between evaluations",
        allowed=(1, 10**7)),
    "burn_in": Setting(smoke=1, small=4, paper=5, published="5 rounds, text: 1,000 samples", source=CODE,
        help="rounds before synthetic pairs", allowed=(0, 10**5)),
    "heads": Setting(smoke=4, small=20, paper=20, published=20, source=PAPER, help="K reward heads", allowed=(2, 1000)),
    "hidden": Setting(smoke=8, small=32, paper=128, published=128, source=PAPER, help="width of a head's two hidden "
        "layers", allowed=(1, 10**5)),
    "heads_lr": Setting(smoke=1e-2, small=1e-3, paper=1e-3, published=1e-3, source=CODE, help="Adam rate of the heads",
        allowed=(1e-9, 1.0)),
    "heads_batch": Setting(smoke=4, small=32, paper=128, published=128, source=CODE, help="pairs a step of the heads",
        allowed=(1, 10**5)),
    "heads_steps": Setting(smoke=2, small=5, paper=5, published=5, source=PAPER, help="steps of the heads a round",
        allowed=(1, 1000)),
    "anchor": Setting(smoke=0.1, small=0.1, paper=0.1, published=0.5, source=PAPER + "; there a mean over all "
        "weights, which is inactive", help="pull of "
        "each head to its own start, over queries seen", allowed=(0.0, 1e6)),
    "buffer": Setting(smoke=100, small=5000, paper=50000, published=50000, source=CODE,
        help="pairs the heads remember", allowed=(1, 10**7)),
    "loss": Setting(smoke="dpo", small="dpo", paper="dpo", published="dpo, ipo, slic", source=PAPER,
        help="policy loss", allowed=LOSSES),
    "beta": Setting(smoke=0.1, small=0.1, paper=0.1, published=0.1, source=PAPER, help="KL strength of DPO",
        allowed=(1e-4, 100.0)),
    "slic_beta": Setting(smoke=0.2, small=0.2, paper=0.2, published=0.2, source=PAPER, help="beta of SLiC",
        allowed=(1e-4, 100.0)),
    "ipo_beta": Setting(smoke=0.2, small=0.2, paper=0.2, published="0.2, 0.3, 0.5, 1, the best", source=PAPER,
        help="beta of IPO", allowed=(1e-4, 100.0)),
    "optimism": Setting(smoke=1e-3, small=1e-4, paper=5e-6, published=5e-6, source=CODE, help="XPO's alpha",
        allowed=(0.0, 1.0)),
    "lr": Setting(smoke=1e-3, small=1e-3, paper=5e-7, published=5e-7, source=PAPER + "; small: the best of 3e-4, "
        "1e-3, 3e-3 on validation prompts, mean of four "
            "methods", help="learning rate of the policy, every method, at its peak", allowed=(1e-9, 1.0)),
    "lrs": Setting(smoke="1e-3", small="none", paper="none", published=None, source=OURS, help="learning rates tried "
        "on validation prompts before the run, by every method; none: lr was chosen before", many=True),
    "warmup": Setting(smoke=1, small=2, paper=12, published="3 % of the steps, cosine "
        "after", source=CODE, help="steps of "
        "linear warm-up, a cosine to a tenth after", allowed=(0, 10**5)),
    "clip": Setting(smoke=1.0, small=1.0, paper=1.0, published=1.0, source=CODE, help="gradient norm is clipped "
        "to this", allowed=(1e-6, 1e6)),
    "micro": Setting(smoke=4, small=8, paper=8, published=None, source=OURS, help="pairs a forward; " + AUTO,
        allowed=(0, 4096)),
    "generation_batch": Setting(smoke=8, small=96, paper=32, published=32, source=CODE,
        help="prompts decoded together", allowed=(1, 4096)),
    "eval_batch": Setting(smoke=8, small=8, paper=8, published=None, source=OURS, help="rows of a scoring forward",
        allowed=(1, 4096)),
    "arms": Setting(smoke=",".join(["passive", "xpo", "sea"]), small="sea-logit,passive-matched,passive,offline",
        study=",".join(MAIN), paper=",".join(MAIN),
        published="Offline, "
        "Online, APL, XPO, SEA", source=PAPER + "; the others are controls", help="methods in the language world",
        allowed=[m for m in METHODS if m not in EXACT_ONLY], many=True),
    "keep": Setting(smoke="none", small="sea-logit", study="none", paper="sea-logit", published=None,
        source="ours; cannot change the result", help="methods whose weights and preferences stay in the run's folder, "
        "for `plumbline export`; none of them: none",
        allowed=["none", *(m for m in METHODS if m not in EXACT_ONLY)], many=True),
    "worlds": Setting(smoke=2, small=12, study=16, paper=16, published=None, source=OURS, help="exact worlds a "
        "cell and seed", allowed=(2, 10000)),
    "world_cells": Setting(smoke=TINY, small=HEADLINE, study=",".join(CELLS), paper=",".join(CELLS), published=None,
        source=OURS, help="cells of the grid of exact worlds (`lib.studies.sea.cells`)", allowed=[*CELLS, TINY],
        many=True),
    "world_arms": Setting(smoke="passive,sea-logit,sea-truth", small=",".join(CORE), paper=",".join(CORE),
        published="Online, SEA", source=PAPER + "; the others are controls and decompose the gain",
        help="methods in every cell", allowed=METHODS, many=True),
    "world_more": Setting(smoke="none", small="none", study=",".join(MORE), paper=",".join(MORE),
        published="the seven variants of Table 1", source=PAPER, help="more methods, in the first cell only; none: no "
        "more", allowed=["none", *METHODS], many=True),
    "world_rates": Setting(smoke="sea_rates.csv", small="sea_rates.csv", paper="sea_rates.csv", published=None,
        source="ours: python -m lib.studies.sea.tuning", help="table of the learning rate of every method in every "
        "cell, chosen in other worlds; a file under data/ or anywhere"),
}  # fmt: skip


def exact(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(cell, method) of everything that is played in the exact worlds; nothing for a run of before there was a grid."""
    cells, more = split(given.get("world_cells", "")), split(given.get("world_more", "none"))
    rows = [(cell, arm) for cell in cells if cell for arm in split(given["world_arms"])]
    return rows + [(cells[0], arm) for arm in more if arm != "none" and (cells[0], arm) not in rows]


def needed(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every method in the language world, and what is played in the exact ones."""
    played = [(f"exact {cell}", arm) for cell, arm in exact(given)]
    paid = given["reward"] == "person" or "://" in given["reward"]  # nobody is asked beside the budget
    gated = "yardstick" in given and not paid  # what came before had no gate
    gate = [("language", "heads")] if gated else []
    return [("language", arm) for arm in split(given["arms"])] + gate + played
