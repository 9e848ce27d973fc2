"""MRPO, arXiv 2405.16388. Its tables could not be read; the release (thaihungle/MRPO) and the follow-up arXiv
2512.10040 could."""

from collections.abc import Mapping
from typing import Any

from lib.harness.presets.base import AUTO, BAD_ROWS, DEVICE, DEVICE_HELP, Setting, columns, split

OURS = "ours"
CODE = "release code, README and scripts"
ARMS = ["base", "dpo", "multi-dpo", "kd", "mrpo", "geometric", "single", "mrpo-uniform", "mrpo-unclipped"]
ABLATIONS = ["arithmetic", "mrpo-swapped", "mrpo-vaw", "mrpo-vdw", "mrpo-normalized"]
MORE = ["mrpo-0.1", "mrpo-0.9", "mrpo-swcw", "mrpo-swcw-onehot", "mrpo-tsw"]

RULES = ["mrpo-uniform", "mrpo-0.1", "mrpo-0.9", "mrpo-vaw", "mrpo-vdw", "mrpo-swcw", "mrpo-swcw-onehot"]
EXACT = {  # the exact world's cells whose every world is recorded -> arms
    "exact scarce, good second": [*ARMS, "arithmetic", "multi-dpo-unclipped", *RULES[3:6], "second, untrained",
        "dpo, flipped labels"],
    "exact scarce, wrong second": [*ARMS, "multi-dpo-unclipped", *RULES[3:6], "second, untrained"],
    "exact scarce, mis-scored second": ["dpo", "mrpo", "mrpo-unclipped", "mrpo-vaw", "single"],
    "exact abundant, good second": ["dpo", "multi-dpo", "mrpo", "mrpo-unclipped", "single"],
    "exact scarce, sure labels": ["dpo", "multi-dpo", "mrpo", "mrpo-unclipped", "single"],
    "exact scarce, the truth second": ["dpo, no labels", "mrpo-unclipped, no labels"],
    "exact scarce, the same second": ["dpo", "mrpo", "multi-dpo", "single"],
}  # fmt: skip
PER_TOKEN = ["dpo, per token", "single, per token", "mrpo, per token"]
TILTS = {  # the tilted language model's cells -> arms
    "complementary second": ["dpo", "multi-dpo", "mrpo", "mrpo-unclipped", "mrpo-uniform", "mrpo-vaw", "geometric",
        "single", *PER_TOKEN, "dpo, flipped labels", "dpo, 50 nats added"],
    "foreign second": ["dpo", "multi-dpo", "mrpo", "mrpo-unclipped", "mrpo-uniform", "geometric", "single", *PER_TOKEN],
    "mis-scored second": ["dpo", "multi-dpo", "mrpo", "mrpo-unclipped", "mrpo-uniform", "mrpo-vaw", "geometric",
        "single"],
    "complementary second, many pairs": ["dpo", "multi-dpo", "mrpo", "mrpo-unclipped", "single"],
    "the same second": ["dpo", "multi-dpo", "mrpo", "single"],
}  # fmt: skip
RULED = ["plain", "direct", "varied", "full", "rich", "content", "plain+varied"]
SEEDS = range(8)  # of preset study
ROOM = (
    "ours: the loss sees beta times log-probs; an answer of some 150 tokens has about 150 nats, a second model's lies \
tens from it, so that beta 0.1 gives margins of a few; here log-probs are a tenth of that and beta ten times as large"
)

SETTINGS = {
    "model": Setting(smoke="tiny-random", small="embedded", paper="meta-llama/Llama-2-7b-chat-hf",
        published="Llama-2-7b-chat, OpenHermes-2.5-Mistral-7B", source=CODE,
        help="policy and primary reference: tiny-random, embedded, a local folder, or a hub id"),
    "template": Setting(smoke="none", small="none", paper="none", published=None,
        source="its own",
        help="chat template of the model: none is its tokenizer's own; vicuna, llama-2, chatml, plain, lab, or a jinja "
        "file"),
    "prompts": Setting(smoke="prompts.jsonl", small="prompts.jsonl", paper="prompts.jsonl",
        published="six preference sets", source="reproducibility page; names of four in the release",
        help="file, folder or data set (id:split) of prompts, under data/ or anywhere"),
    "columns": columns("the preferences of PAIRS and TRANSFER (else the prompts)"),
    "bad_rows": BAD_ROWS,
    "dtype": Setting(smoke="float32", small="bfloat16", paper="bfloat16", published="fp16", source=CODE, help="compute "
        "type; masters are float32", allowed=["float32", "bfloat16"]),
    "device": Setting(smoke="cpu", small="cpu", paper="cuda", published=None, source=OURS, help=DEVICE_HELP,
        form=DEVICE),
    "second_model": Setting(smoke="none", small="none", paper="teknium/OpenHermes-2.5-Mistral-7B",
        published="OpenHermes-2.5-Mistral-7B, and the other way round", source=CODE,
        help="a reference of another family, under its own tokenizer: none, gemma3-270m, a local folder, or a hub id"),
    "gemma_terms": Setting(smoke="not accepted", small="not accepted", paper="not accepted", published=None,
        source="https://ai.google.dev/gemma/terms", help="accepted, "
        "after reading Gemma's terms of use: only then is gemma3-270m fetched", allowed=["not accepted", "accepted"]),
    "blocks": Setting(smoke=1, small=2, paper=32, published="LoRA rank 8 on q and v of every "
        "block", source=CODE + "; ours: "
        "the last blocks in full, so that a seed takes minutes", help="last blocks that train", allowed=(1, 1000)),
    "targets": Setting(smoke="all", small="all", paper="q_proj,v_proj", published="q_proj, v_proj", source=CODE,
        help="linear layers of those blocks that train: all, or their names", many=True),
    "rank": Setting(smoke=0, small=0, paper=8, published=8, source=CODE, help="LoRA rank; 0 trains the weights "
        "themselves", allowed=(0, 1024)),
    "store": Setting(smoke="none", small="none", paper="none", published=None, source="ours; QLoRA where nf4",
        help="how the frozen weights are kept beside adapters: none (as they are), nf4 or int8",
        allowed=["none", "nf4", "int8"]),
    "alpha": Setting(smoke=16, small=16, paper=16, published=16, source=CODE, help="LoRA alpha", allowed=(1, 4096)),
    "n_train": Setting(smoke=16, small=160, study=240, paper=320, published=None, source=OURS,
        help="training prompts", allowed=(2, 100000)),
    "n_test": Setting(smoke=8, small=112, study=320, paper=320, published=None, source="ours: answers to a prompt may "
        "tie, and 300 prompts are to have pairs", help="held-out prompts", allowed=(1, 100000)),
    "n_validation": Setting(smoke=8, small=48, study=64, paper=64, published=None, source=OURS, help="prompts that "
        "weights VDW and VAW and the settings are chosen on", allowed=(1, 100000)),
    "tokens": Setting(smoke=12, small=24, paper=256, published="1024 in all", source=CODE, help="longest sampled "
        "answer, tokens", allowed=(1, 4096)),
    "temperature": Setting(smoke=1.0, small=1.0, paper=1.0, published=None, source="ours: at 1 answers are draws of "
        "the model itself; pairs of two temperatures would be told apart by these", help="temperature of the "
        "candidates", allowed=(0.01, 10.0)),
    "each": Setting(smoke=4, small=6, paper=6, published=None, source=OURS, help="candidates a prompt",
        allowed=(2, 64)),
    "tilt_rewards": Setting(smoke="plain", small="rich", study="rich,full", paper="rich,full", published="S1, S2, S3",
        source="ours: rules that the model's features predict on pairs they have not seen; plain, direct and varied "
        "are not predicted", help="rewards of the tilted language model", allowed=RULED, many=True),
    "tilt_dim": Setting(smoke=4, small=16, paper=16, published=None, source="ours: as in the exact world, four pairs "
        "a feature", help="features of an answer: "
        "principal components of the last hidden states", allowed=(1, 4096)),
    "tilt_draws": Setting(smoke=2, small=8, study=16, paper=16, published=None, source="ours: the seed decides the "
        "pairs, and a mean over draws of them varies less", help="draws of preference pairs a seed",
        allowed=(2, 1000)),
    "tilt_scarce": Setting(smoke=8, small=64, paper=64, published="1 % of the GPT-4 demo set", source="ours: as in the "
        "exact world", help="pairs of a scarce set", allowed=(1, 4096)),
    "tilt_abundant": Setting(smoke=16, small=512, paper=512, published=None, source="ours: eight times as many",
        help="pairs of an abundant set", allowed=(1, 4096)),
    "tilt_reference": Setting(smoke=16, small=256, paper=256, published=None, source="ours: four times the scarce "
        "set, so that the second model knows more", help="pairs, of other topics, that made the complementary "
        "reference", allowed=(1, 4096)),
    "tilt_anchor": Setting(smoke=100.0, small=100.0, paper=100.0, published=None, source="ours: of 1 to 1000 where "
        "DPO, the rival, is within .005 of its best accuracy on validation prompts; at 1 all arms fit their pairs too "
        "closely",
        help="weight of |beta (theta - start)|^2 / 2, in every arm alike", allowed=(1e-6, 1e6)),
    "tilt_kl": Setting(smoke=0.5, small=0.5, paper=0.5, published=None, source="ours: six answers end at log 6 = 1.8 "
        "nats, where all policies are alike", help="largest KL to the start, nats, at which arms are compared at equal "
        "KL", allowed=(1e-6, 100.0)),
    "tilt_steps": Setting(smoke=2, small=150, paper=150, published=None, source=OURS, help="steps that make the "
        "foreign reference, a thin model that reads bytes, where SECOND_MODEL is none", allowed=(1, 10**6)),
    "trained": Setting(smoke=True, small=False, paper=True, published=True, source="the paper trains by steps; ours: "
        "Adam and clipped gradients cancel the scale of a reference there, and +-50 nats on every margin change no "
        "accuracy", help="whether policies are trained by steps too, with verdicts on none of them; on PAIRS they "
        "always are"),
    "scarce": Setting(smoke="plain", small="plain",
        study="plain,direct,varied", paper="plain,direct,varied", published="S1, S2, S3",
        source="summaries; the rewards are ours", help="rewards of the scarce sets",
        allowed=["plain", "direct", "varied", "full", "plain+varied"], many=True),
    "abundant": Setting(smoke="plain+varied", small="plain+varied", paper="plain+varied", published="HelpSteer, "
        "UltraFeedback, Nectar", source=CODE + "; the reward is ours", help="reward of the abundant set",
        allowed=["plain", "direct", "varied", "full", "plain+varied"]),
    "n_scarce": Setting(smoke=8, small=80, paper=128, published="1 % of the GPT-4 demo set", source=CODE,
        help="pairs of a scarce set", allowed=(1, 100000)),
    "n_abundant": Setting(smoke=16, small=2048, paper=2048, published=None, source=OURS,
        help="pairs of the abundant set", allowed=(1, 10**6)),
    "n_heldout": Setting(smoke=12, small=300, paper=300, published=None, source=OURS,
        help="held-out pairs of every set", allowed=(1, 10**6)),
    "n_reference": Setting(smoke=8, small=80, paper=128, published=None, source=OURS, help="pairs that made the "
        "complementary reference, of other topics", allowed=(1, 10**6)),
    "seconds": Setting(smoke="complementary,equal,mis-scored", small="complementary,mis-scored",
        study="complementary,equal,mis-scored",
        paper="complementary,equal,mis-scored", published="a second chat model", source=CODE,
        help="second references tried", allowed=["complementary", "equal", "mis-scored"], many=True,
        never_first=("mis-scored",)),
    "pairs": Setting(smoke="none", small="none",
        paper="HuggingFaceH4/ultrafeedback_binarized:train_prefs,nvidia/HelpSteer:train", published="six sets, "
        "of these two the names were seen", source=CODE, help="people's "
        "preferences to learn from instead of samples with a known oracle: JSON-lines files of prompt, "
        "chosen, rejected, or data sets as id:split; none", many=True),
    "tasks": Setting(smoke="none", small="none",
        paper="arc_challenge:25,hellaswag:10,mmlu:5,truthfulqa_mc2:0,winogrande:5,gsm8k:5", published="the six "
        "of the Open LLM Leaderboard", source="summaries; shots: its first version", help="tasks of "
        "lm-eval as name:shots, besides the questions here; none", many=True),
    "transfer": Setting(smoke="none", small="none", paper="none", published=None, source=OURS + "; BIG-bench's "
        "hhh_alignment is meant", help="preferences of people to test on: JSON-lines files of prompt, chosen, "
            "rejected, or BIG-bench task.json "
        "files; none", many=True),
    "arms": Setting(smoke=",".join(ARMS), small="base,dpo,mrpo,single,mrpo-unclipped",
        study=",".join(ARMS), paper=",".join(ARMS),
        published="DPO, Multi-DPO, KD, MRPO", source="release "
        "code and summaries; the others are the critics' "
            "and ours", help="losses compared on every set", allowed=ARMS + ABLATIONS + MORE, many=True),
    "keep": Setting(smoke="none", small="none", paper="mrpo", published=None,
        source="ours; cannot change the result", help="arms whose weights stay in the run's folder, "
        "for `plumbline export`; none of them: none",
        allowed=["none", *(a for a in ARMS if a != "base"), *ABLATIONS, *MORE], many=True),
    "ablations": Setting(smoke=",".join(ABLATIONS + MORE), small="mrpo-unclipped", study=",".join(ABLATIONS),
        paper=",".join(ABLATIONS + MORE),
        published=None, source="arXiv 2512.10040 and ours", help="losses tried on the first scarce set only",
        allowed=ARMS + ABLATIONS + MORE, many=True),
    "beta": Setting(smoke=0.1, small=0.1, paper=0.1, published=0.1, source=CODE, help="KL strength",
        allowed=(1e-4, 100.0)),
    "epsilon": Setting(smoke=0.1, small=0.1, paper=0.1, published=0.1, source=CODE, help="CTRO: largest window, "
        "adaptive", allowed=(0.0, 100.0)),
    "epsilons": Setting(smoke="0,0.5", small="0.5", paper="0.01,0.1,0.5", published=None, source="ablated in the "
        "paper, values not seen", help="windows of the ablation", many=True),
    "kd_weight": Setting(smoke=1.0, small=1.0, paper=1.0, published=None, source="ours: the paper's KD baseline was "
        "not seen", help="weight of "
        "KL to the second reference in the KD arm", allowed=(0.0, 1000.0)),
    "prior": Setting(smoke=5.0, small=5.0, paper=5.0, published="5, 10", source="arXiv 2512.10040", help="Beta prior "
        "of the mrpo-tsw arm's bandit", allowed=(0.1, 1000.0)),
    "lr": Setting(smoke=1e-3, small=3e-4, paper=1e-5, published=1e-5, source=CODE + "; small: the best of 1e-4, "
        "3e-4, 1e-3 on the plain and the abundant set's validation pairs, mean of all "
        "tuned arms, with answers of 20 tokens", help="learning rate of every arm", allowed=(1e-9, 1.0)),
    "lrs": Setting(smoke="1e-3,1e-2", small="none", paper="none", published=None, source=OURS, help="learning rates "
        "tried on the validation pairs before the run, by every tuned arm; none: lr was chosen before", many=True),
    "epochs": Setting(smoke=1, small=1, paper=1, published=1, source=CODE, help="passes over a training set",
        allowed=(1, 1000)),
    "batch": Setting(smoke=4, small=8, paper=8, published=8, source=CODE, help="pairs a step (effective "
        "batch)", allowed=(1, 4096)),
    "micro": Setting(smoke=2, small=8, paper=2, published=2, source=CODE + "; cannot change the result",
        help="pairs a forward, where weights do not move from step to step; " + AUTO, allowed=(0, 4096)),
    "warmup": Setting(smoke=1, small=2, paper=0, published=0, source=CODE, help="steps of linear warm-up",
        allowed=(0, 10000)),
    "clip": Setting(smoke=1.0, small=1.0, paper=1.0, published=1.0, source="Trainer default", help="gradient norm is "
        "clipped to this", allowed=(1e-6, 1e6)),
    "generation_batch": Setting(smoke=8, small=96, paper=32, published=None, source=OURS,
        help="prompts decoded together", allowed=(1, 4096)),
    "eval_batch": Setting(smoke=8, small=8, paper=8, published=None, source=OURS, help="rows of a scoring forward",
        allowed=(1, 4096)),
    "worlds": Setting(smoke=4, small=40, paper=40, published=None, source=OURS, help="exact worlds a cell: 320 over "
        "the seeds of study", allowed=(2, 10000)),
    "exact_prompts": Setting(smoke=8, small=32, paper=32, published=None, source=OURS, help="prompts of an exact world "
        "that train, and as many held out", allowed=(1, 10000)),
    "exact_answers": Setting(smoke=8, small=32, paper=32, published=None, source=OURS, help="answers of a prompt",
        allowed=(2, 1000)),
    "exact_dim": Setting(smoke=4, small=16, paper=16, published=None, source=OURS, help="features of an answer",
        allowed=(2, 1000)),
    "exact_noise": Setting(smoke=0.5, small=0.5, paper=0.5, published=None, source=OURS, help="deviation of what no "
        "policy can learn of the reward, of 1 for what it can", allowed=(0.0, 100.0)),
    "exact_scarce": Setting(smoke=16, small=64, paper=64, published=None, source="ours: four pairs a feature",
        help="pairs of a scarce set", allowed=(1, 4096)),
    "exact_abundant": Setting(smoke=64, small=1024, paper=1024, published=None, source="ours: DPO gains little more "
        "from twice as many", help="pairs of an abundant set", allowed=(1, 4096)),
    "exact_good": Setting(smoke=0.9, small=0.9, paper=0.9, published=None, source=OURS, help="quality of the good "
        "second reference, its negative that of the wrong one: correlation of its logits with the learnable part of "
        "the truth", allowed=(-1.0, 1.0)),
    "exact_start": Setting(smoke=0.3, small=0.3, paper=0.3, published=None, source=OURS, help="quality of the primary",
        allowed=(-1.0, 1.0)),
    "exact_scale": Setting(smoke=1.0, small=1.0, paper=1.0, published=None, source=ROOM, help="deviation of a "
        "reference's logits over answers, nats", allowed=(0.0, 1000.0)),
    "exact_rest": Setting(smoke=10.0, small=10.0, paper=10.0, published=None, source=ROOM, help="nats of an answer's "
        "log-prob in which all references agree: CTRO's window is a share of the whole", allowed=(0.0, 1000.0)),
    "exact_beta": Setting(smoke=1.0, small=1.0, paper=1.0, published=0.1, source=ROOM, help="KL strength",
        allowed=(1e-4, 1000.0)),
    "exact_anchor": Setting(smoke=1.0, small=1.0, paper=1.0, published=None, source="ours: a prior of deviation 1 on "
        "the implicit reward's weights, whose truth has length near 1; stands for stopping early, and without it few "
        "pairs have no optimum", help="weight of |beta (theta - start)|^2 / 2, in every arm alike",
        allowed=(0.0, 1e6)),
    "exact_kd_weight": Setting(smoke=0.1, small=0.1, paper=0.1, published=None, source="ours, a tenth of a pair's "
        "weight", help="weight of KL to the second reference in KD, each pair's prompt", allowed=(0.0, 1000.0)),
    "exact_pairs": Setting(smoke="16,64", small="16,64,256,1024", study="16,32,64,128,256,512,1024",
        paper="16,32,64,128,256,512,1024", published=None, source=OURS, help="pairs of the map's rows", many=True),
    "exact_qualities": Setting(smoke="-0.9,0.9", small="-0.9,-0.3,0.3,0.9", study="-0.9,-0.6,-0.3,0,0.3,0.6,0.9",
        paper="-0.9,-0.6,-0.3,0,0.3,0.6,0.9", published=None, source=OURS, help="qualities of the second reference: "
        "the map's columns", many=True),
    "exact_epsilons": Setting(smoke="0,0.1,none", small="0,0.03,0.1,0.3,1,none", paper="0,0.03,0.1,0.3,1,none",
        published=None, source=OURS, help="CTRO windows tried; none: no clipping", many=True),
}  # fmt: skip


def needed(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The cells of the tilted language model and of the exact world; what policies are trained on."""
    if given.get("store", "none") != "none" and not given["rank"]:
        raise ValueError(
            f"weights kept as {given['store']} cannot be trained themselves: set RANK for adapters beside them"
        )
    people = [name for name in split(given.get("pairs", "none")) if name != "none"]
    rewards = [] if people else split(given.get("tilt_rewards", ""))
    rows = [(f"language {reward}, {cell}", arm) for reward in rewards for cell, arms in TILTS.items()
        for arm in ("second reference", *arms)]  # fmt: skip
    rows += [(dataset, arm) for dataset, arms in EXACT.items() if given.get("worlds") for arm in arms]
    return rows + (_trained(given, people) if people or given.get("trained") else [])


def _trained(given: Mapping[str, Any], people: list[str]) -> list[tuple[str, str]]:
    """Every arm on the held-out pairs of every scarce set, the ablations on the first, three arms on the abundant."""
    scarce = [f"{name}, few" for name in people] or split(given["scarce"])
    abundant = f"{people[-1]}, many" if people else given["abundant"]
    arms = split(given["arms"])
    rows = [(f"held-out {name}", arm) for name in scarce for arm in arms]
    rows += [(f"held-out {scarce[0]}", arm) for arm in split(given["ablations"]) if arm not in arms]
    return rows + [(f"held-out {abundant}", arm) for arm in ("base", "dpo", "mrpo")]
