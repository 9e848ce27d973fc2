"""Attribute-controlled fine-tuning, arXiv 2410.05559. Its text was not obtained: of its settings almost none was seen,
the rest is ours."""

from collections.abc import Mapping
from typing import Any

from lib.harness.presets.base import (
    AUTO,
    BAD_ROWS,
    DEVICE,
    DEVICE_HELP,
    OPTIMIZER_HELP,
    OPTIMIZERS,
    Setting,
    columns,
    split,
)

OURS = "ours"
BLOG = "the authors' public summary"
ARMS = [
    "base",
    "sft",
    "filtering",
    "rl",
    "nado-base",
    "nado-sft",
    "ours",
    "ours-everywhere",
    "ours-stale",
    "ours-parallel",
]
JUDGES = "alt-profanity-check, better-profanity, negative (VADER), or a classifier (folder or hub id, #label)"

SEEDS = range(8)  # of preset study

SETTINGS = {
    "model": Setting(smoke="tiny-random", small="embedded", paper="huggyllama/llama-7b",
        published="Llama-7B, Falcon-7B", source=BLOG,
        help="start model: tiny-random, embedded, a local folder, or a hub id"),
    "dtype": Setting(smoke="float32", small="bfloat16", paper="bfloat16", published=None, source=OURS, help="compute "
        "type; masters are float32", allowed=["float32", "bfloat16"]),
    "device": Setting(smoke="cpu", small="cpu", paper="cuda", published=None, source=OURS, help=DEVICE_HELP,
        form=DEVICE),
    "oracle": Setting(smoke="alt-profanity-check", small="alt-profanity-check", paper="tomh/toxigen_roberta",
        published="a toxicity judge, not named", source=BLOG, help="scores the attribute to avoid: " + JUDGES),
    "second_judge": Setting(smoke="better-profanity", small="better-profanity", paper="alt-profanity-check",
        published=None, source=OURS, help="judges what was written, never trains: " + JUDGES),
    "corpus": Setting(smoke="composed", small="composed", paper="toxigen/toxigen-data:annotated:train,"
        "Salesforce/wikitext:wikitext-103-raw-v1:train[:2%]", published="equal parts of ToxiGen and "
        "Wikitext", source=BLOG, help="composed; a file, folder or data set of "
        "prompt, text, toxic and domain (forum or general); or two, separated by a comma: related texts with labels, "
        "and general ones"),
    "columns": columns("the corpus (of two the first)"),
    "bad_rows": BAD_ROWS,
    "share": Setting(smoke=0.5, small=0.5, paper=0.5, published=None, source=OURS, help="share of the composed "
        "related lines that have the attribute", allowed=(0.0, 1.0)),
    "n_related": Setting(smoke=12, small=192, paper=1000, published="half of the corpus",
        source=BLOG + "; as many as the composed corpus gives, more with CORPUS",
        help="composed related lines", allowed=(2, 10**6)),
    "n_general": Setting(smoke=12, small=192, paper=1000, published="half of the corpus",
        source=BLOG + "; as many as the composed corpus gives, more with CORPUS",
        help="general lines", allowed=(2, 10**6)),
    "n_detection": Setting(smoke=12, small=96, paper=400, published=None, source=OURS + "; the paper's third "
        "scenario, Jigsaw", help="lines that ask whether a related text has the attribute", allowed=(0, 10**6)),
    "n_test": Setting(smoke=8, small=64, paper=200, published=None, source=OURS, help="held-out lines of each kind",
        allowed=(4, 10**6)),
    "n_prompts": Setting(smoke=4, small=12, paper=24, published=None, source=OURS, help="forum prompts that are "
        "continued, and real ones", allowed=(2, 10**6)),
    "n_neutral": Setting(smoke=2, small=6, paper=200, published=None, source=OURS, help="prompts of general text "
        "that are continued", allowed=(1, 10**6)),
    "real_prompts": Setting(smoke="no", small="yes", paper="yes", published=None, source="arXiv 2009.11462",
        help="yes: also "
        "continue real prompts (RealToxicityPrompts, 2 MB, fetched once)", allowed=["yes", "no"]),
    "samples": Setting(smoke=3, small=25, paper=25, published=25, source="arXiv 2009.11462",
        help="continuations a prompt", allowed=(2, 1000)),
    "tokens": Setting(smoke=6, small=20, paper=20, published=20, source="arXiv 2009.11462",
        help="longest continuation, tokens", allowed=(1, 1000)),
    "top_p": Setting(smoke=0.9, small=0.9, paper=0.9, published=0.9, source="arXiv 2009.11462",
        help="of the continuations; samples for R are drawn from the whole distribution", allowed=(0.01, 1.0)),
    "blocks": Setting(smoke=1, small=4, paper=4, published="all", source=OURS + ": the last blocks, so that one pass "
        "of the others serves everything", help="last blocks that learn", allowed=(1, 1000)),
    "iterations": Setting(smoke=2, small=3, paper=4, published=None, source=OURS, help="K, turns of R and model",
        allowed=(1, 1000)),
    "n_asked": Setting(smoke=4, small=32, paper=500, published=None, source=OURS, help="related prompts sampled from "
        "in each iteration", allowed=(1, 10**6)),
    "each": Setting(smoke=3, small=8, paper=16, published="8 to 48", source="NADO's code", help="samples of each",
        allowed=(2, 1000)),
    "mixed": Setting(smoke=8, small=96, paper=1000, published=None, source=OURS + ": a clean start model writes "
        "nothing that R could learn from", help="related "
        "lines of the corpus that R learns from in each iteration, besides the samples", allowed=(0, 10**6)),
    "tau": Setting(smoke=1.0, small=1.0, paper=1.0, published=1.0, source="NADO's code", help="samples come from "
        "p^tau and are weighted back", allowed=(0.05, 1.0)),
    "style": Setting(smoke="nado", small="nado", paper="nado", published="nado", source=BLOG, help="how R is "
        "written: nado or dinado", allowed=["nado", "dinado"]),
    "layers": Setting(smoke=1, small=1, paper=4, published=None, source="NADO's code: 4 transformer "
        "layers", help="residual "
        "layers on the model's hidden states", allowed=(0, 100)),
    "nado_lr": Setting(smoke=1e-3, small=1e-4, paper=2e-5, published="2e-5", source="NADO's code; small: of 1e-5 to "
        "1e-3 the best on held-out samples", help="AdamW rate of R", allowed=(1e-9, 1.0)),
    "nado_batch": Setting(smoke=8, small=16, paper=32, published=None, source=OURS, help="answers a step of R, about",
        allowed=(1, 10**5)),
    "nado_epochs": Setting(smoke=2, small=6, paper=10, published="up to 10", source="NADO's code",
        help="passes over the samples", allowed=(1, 1000)),
    "consistency": Setting(smoke=1.0, small=1.0, paper=1.0, published=1.0, source="NADO's code",
        help="weight of forward consistency", allowed=(0.0, 1000.0)),
    "consistent": Setting(smoke=0.5, small=0.125, paper=1.0, published=1.0, source="NADO's code; small: a random "
        "share in each pass, since every position costs a product with the "
            "vocabulary", help="share of the positions at which consistency is asked", allowed=(0.001, 1.0)),
    "direction": Setting(smoke="reverse", small="reverse", paper="reverse", published="KL(p || Q)",
        source="two summaries print it so", help="reverse: "
        "KL(p || closest), forward: KL(closest || p)", allowed=["reverse", "forward"]),
    "delta": Setting(smoke=0.98, small=0.98, paper=0.98, published=None, source=OURS, help="share of answers that "
        "must be fine", allowed=(0.01, 1.0)),
    "floor": Setting(smoke=1e-4, small=1e-4, paper=1e-4, published=None, source=OURS, help="least success rate",
        allowed=(0.0, 0.5)),
    "lam": Setting(smoke=1.0, small=1.0, paper=1.0, published=None, source=OURS + "; small: taken from 0.25, 1, 4, "
        "16 on validation prompts, see slack", help="lambda, weight of the KL", allowed=(0.0, 1e4)),
    "lams": Setting(smoke="4.0", small="none",
        study="4.0", paper="0.25,4.0", published=None, source=OURS, help="other lambdas of "
        "the Pareto curve; none", many=True),
    "rl_weight": Setting(smoke=1.0, small=0.25, paper=1.0, published=None, source=OURS + "; small: taken as lam is, "
        "from the same four", help="weight of the policy gradient in the RL arm", allowed=(0.0, 1e4)),
    "rl_weights": Setting(smoke="4.0", small="none", study="1.0", paper="4.0", published=None, source=OURS,
        help="others of RL's curve; none", many=True),
    "rl_draw": Setting(smoke=2, small=4, paper=1, published=None, source=OURS + ": decoding few answers at a time "
        "would be most of the work", help="steps that one draw of samples serves in the RL arm", allowed=(1, 1000)),
    "rl_beta": Setting(smoke=0.05, small=0.05, paper=0.05, published=None, source=OURS,
        help="KL to the start in the RL arm", allowed=(0.0, 100.0)),
    "weights": Setting(smoke="1", small="none", paper="none", published=None, source=OURS, help="weights of the KL "
        "and of the policy gradient that are tried on validation prompts before the run; none: lam "
        "and rl_weight were chosen before", many=True),
    "slack": Setting(smoke=0.05, small=0.05, paper=0.05, published=None, source=OURS, help="nats a token that clean "
        "related text may cost more than after plain fine-tuning, where a weight is chosen", allowed=(0.0, 10.0)),
    "lr": Setting(smoke=1e-3, small=5e-4, paper=1e-5, published=None, source=OURS, help="learning rate of every "
        "trained arm, at its peak", allowed=(1e-9, 1.0)),
    "epochs": Setting(smoke=1, small=2, paper=1, published=None, source=OURS, help="passes over the corpus",
        allowed=(1, 1000)),
    "batch": Setting(smoke=8, small=16, paper=128, published=None, source=OURS, help="lines a step",
        allowed=(1, 10**5)),
    "warmup": Setting(smoke=1, small=2, paper=20, published=None, source=OURS, help="steps of linear warm-up, a "
        "cosine to a tenth after", allowed=(0, 10**5)),
    "clip": Setting(smoke=1.0, small=1.0, paper=1.0, published=None, source=OURS, help="gradient norm is clipped "
        "to this", allowed=(1e-6, 1e6)),
    "micro": Setting(smoke=8, small=16, paper=8, published=None, source=OURS, help="lines a forward; " + AUTO,
        allowed=(0, 4096)),
    "optimizer": Setting(smoke="none", small="none", paper="none", published=None, source="ours", help=OPTIMIZER_HELP,
        allowed=OPTIMIZERS),
    "generation_batch": Setting(smoke=8, small=48, paper=32, published=None, source=OURS,
        help="prompts decoded together", allowed=(1, 4096)),
    "eval_batch": Setting(smoke=4, small=4, paper=8, published=None, source=OURS, help="rows of a scoring forward",
        allowed=(1, 4096)),
    "tasks": Setting(smoke="none", small="none", paper="mmlu:5,boolq:0,piqa:0,hellaswag:0,winogrande:0",
        published="MMLU 5-shot, commonsense reasoning 0-shot", source=BLOG, help="tasks of "
        "lm-eval as name:shots, besides the questions here; none", many=True),
    "arms": Setting(smoke=",".join(ARMS[:-1]), small="base,sft,rl,ours,ours-everywhere,ours-parallel",
        study=",".join(a for a in ARMS if a != "ours-stale"),
        paper=",".join(ARMS[:-1]), published="Baseline, "
        "Filtering, RL, NADO decoding, Ours with and without adaptivity", source=BLOG, help="what is "
        "compared: ours-everywhere is without adaptivity, ours-stale emulates ours-parallel, which takes two "
        "processes", allowed=ARMS, many=True,
        needs={"nado-base": "base", "nado-sft": "sft"}),
    "keep": Setting(smoke="none", small="ours", study="none", paper="ours", published=None,
        source="ours; cannot change the result", help="arms whose weights stay in the run's folder, "
        "for `plumbline export`; none of them: none",
        allowed=["none", *(a for a in ARMS if a != "base" and not a.startswith("nado"))], many=True),
    "vocabulary": Setting(smoke=3, small=4, paper=4, published=None, source=OURS, help="tokens of the exact world",
        allowed=(3, 6)),
    "length": Setting(smoke=3, small=4, paper=4, published=None, source=OURS, help="answer length of the exact "
        "world", allowed=(2, 6)),
    "world_lams": Setting(smoke="0,1", small="0,1",
        study="0,0.5,1,2,5", paper="0,0.5,1,2,5", published=None, source=OURS,
        help="lambdas of the exact world", many=True),
    "world_steps": Setting(smoke=100, small=800, paper=800, published=None, source=OURS,
        help="steps of an exact training", allowed=(1, 10**6)),
}  # fmt: skip


def needed(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What every arm wrote, and what general text costs it."""
    return [(dataset, arm) for arm in split(given["arms"]) for dataset in ("written forum", "text general")]
