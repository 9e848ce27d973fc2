"""LAB, arXiv 2403.01081 (method and three tables, no appendix), and what InstructLab made of it later (instructlab-sdg
0.8.3)."""

from collections.abc import Mapping
from typing import Any

from lib.harness.presets.base import AUTO, DEVICE, DEVICE_HELP, OPTIMIZER_HELP, OPTIMIZERS, Setting, split

OURS = "ours"
PAPER = "section 3.3, tables 1 and 2"
SDG = "instructlab-sdg 0.8.3; the paper does not say"
SAMPLERS = ["pool", "self-instruct", "leaf", "fake-leaf", "quota"]
FILTERS = ["none", "rules", "likelihood", "two-order", "teacher", "oracle"]
ARMS = [
    "stacked",
    "phased",
    "replay-all",
    "replay-1%",
    "replay-3%",
    "replay-10%",
    "replay-30%",
    "reversed",
    "cosine",
    "carried",
    "replay-epochs",
]
MAIN = [a for a in ARMS if a not in ("replay-1%", "replay-10%", "carried", "replay-epochs")]
ORDERS = ["easy to hard", "hard to easy", "mixed"]

SEEDS = range(8)  # of preset study

SETTINGS = {
    "model": Setting(smoke="tiny-random", small="embedded", paper="mistralai/Mistral-7B-v0.1",
        published="Mistral-7B-v0.1, Llama-2-13b", source=PAPER,
        help="the student: tiny-random, embedded, a local folder, or a hub id"),
    "template": Setting(smoke="none", small="none", paper="lab", published=None,
        source="ours: a base model has none; tags as LAB's models have them",
        help="chat template of the model: none is its tokenizer's own; vicuna, llama-2, chatml, plain, lab, or a jinja "
        "file"),
    "teacher": Setting(smoke="templated", small="templated", paper="http://localhost:8000/v1 "
        "mistralai/Mixtral-8x7B-Instruct-v0.1", published="Mixtral-8x7B-Instruct-v0.1", source="section 3.2",
        help="who writes and judges the student's data: templated, or the address and model of a server that speaks "
            "the "
        "OpenAI protocol"),
    "at_once": Setting(smoke=16, small=16, paper=16, published=None, source="ours; cannot change the result",
        help="requests that a served teacher is asked at a time", allowed=(1, 1024)),
    "per_minute": Setting(smoke=0, small=0, paper=0, published=None, source="ours; cannot change the result",
        help="requests a minute at most; 0: no limit", allowed=(0, 10**6)),
    "prices": Setting(smoke="none", small="none", paper="none", published=None, source="the server's",
        help="prices of a million tokens read and written, as 0.5,1.5, to count what a teacher costs; none",
        form=r"none|\d+(\.\d+)?,\d+(\.\d+)?"),
    "taxonomy": Setting(smoke="taxonomy", small="taxonomy", paper="taxonomy", published="not public",
        source="section 3.1", help="folder under data/ or anywhere with a tree of qna.yaml files"),
    "dtype": Setting(smoke="float32", small="bfloat16", paper="bfloat16", published=None, source=OURS, help="compute "
        "type; masters are float32", allowed=["float32", "bfloat16"]),
    "device": Setting(smoke="cpu", small="cpu", paper="cuda", published=None, source=OURS, help=DEVICE_HELP,
        form=DEVICE),
    "blocks": Setting(smoke=1, small=4, paper=8, published="all", source=OURS + ": the last blocks, so that one pass "
        "of the others serves every arm", help="last blocks of the student that learn", allowed=(1, 1000)),
    "system": Setting(smoke="You answer.", small="You are a careful assistant.", paper="You are a careful assistant.",
        published="one fixed "
        "prompt, its start seen", source="instructlab CLI, issue 1319", help="system prompt of every question, in "
            "all phases and exams"),
    # ---- synthesis
    "calls": Setting(smoke=2, small=5, paper=5, published="one a seed", source=SDG, help="prompts of each leaf",
        allowed=(1, 10**4)),
    "size": Setting(smoke=1, small=1, paper=1, published=1, source=SDG, help="seed examples in a prompt",
        allowed=(1, 100)),
    "questions": Setting(smoke=4, small=12, paper=30, published=30, source=SDG, help="questions asked for in "
        "one call", allowed=(1, 1000)),
    "contexts": Setting(smoke=2, small=5, paper=10, published=10, source=SDG, help="contexts asked for in one call "
        "of a grounded leaf", allowed=(1, 1000)),
    "pairs": Setting(smoke=3, small=8, paper=8, published=None, source=OURS, help="questions with answers asked for "
        "about a chunk", allowed=(1, 1000)),
    "chunk": Setting(smoke=80, small=80, paper=350, published="500 tokens", source=SDG, help="longest chunk of a "
        "document, words", allowed=(5, 10**5)),
    "alike": Setting(smoke=0.9, small=0.9, paper=0.9, published=0.9, source="instructlab CLI 0.14; later exact "
        "duplicates only", help="ROUGE-L F above which a question is a duplicate", allowed=(0.01, 1.0)),
    "per_leaf": Setting(smoke=6, small=24, paper=30, published=30, source=SDG, help="most rows of a skill that are "
        "taught", allowed=(1, 10**5)),
    # ---- A: coverage
    "samplers": Setting(smoke=",".join(SAMPLERS), small="pool,leaf", study=",".join(SAMPLERS), paper=",".join(SAMPLERS),
        published="random pool, leaves", source="section 3.2, figure 2", help="which seeds stand in a prompt",
        allowed=SAMPLERS, many=True),
    "taught": Setting(smoke="pool,leaf", small="pool,leaf",
        study="pool,leaf,fake-leaf", paper=",".join(SAMPLERS), published=None,
        source=OURS, help="samplers "
        "whose questions are also taught to a student", allowed=SAMPLERS, many=True),
    "preferences": Setting(smoke="0.8,0", small="0.8",
        study="0.8,0", paper="0.8,0", published=None, source=OURS, help="b of the "
        "templated teacher: how often its own preference wins when a prompt mixes leaves; 0 assumes "
            "nothing", many=True),
    "draws": Setting(smoke=1, small=3, paper=4, published=None, source=OURS, help="repetitions of every sampler",
        allowed=(1, 1000)),
    "draw_calls": Setting(smoke=12, small=36, paper=96, published=None, source=OURS, help="calls of a sampler in "
        "each repetition", allowed=(1, 10**5)),
    "draw_questions": Setting(smoke=3, small=8, paper=30, published=30, source=SDG, help="questions asked for in "
        "each of them", allowed=(1, 1000)),
    "pool_size": Setting(smoke=3, small=3, paper=3, published=3, source="instructlab CLI 0.14: 2 or 3 "
        "examples", help="examples "
        "in a prompt of every sampler but self-instruct, which takes 8", allowed=(1, 5)),
    "model_teacher": Setting(smoke="yes", small="yes", paper="yes", published=None, source=OURS, help="yes: the "
        "samplers also with the student's start model as teacher, of whom nothing is assumed", allowed=["yes", "no"]),
    "model_draws": Setting(smoke=1, small=2, paper=4, published=None, source=OURS, help="its repetitions of every "
        "sampler", allowed=(1, 1000)),
    "model_calls": Setting(smoke=12, small=32, paper=96, published=None, source=OURS, help="its calls of a sampler "
        "in each repetition", allowed=(1, 10**5)),
    "model_tokens": Setting(smoke=24, small=56, paper=512, published=None, source=OURS, help="longest list it "
        "writes, tokens", allowed=(1, 8192)),
    "model_temperature": Setting(smoke=0.9, small=0.9, paper=0.9, published="0.7, 1", source="instructlab-sdg 0.8.3; "
        "CLI 0.14", help="of what it writes", allowed=(0.01, 10.0)),
    "checks": Setting(smoke=2, small=10, paper=20, published=None, source=OURS, help="questions of every skill, none "
        "of the exam's, by which a second round's quotas and checkpoints are chosen", allowed=(1, 10**4)),
    # ---- B: filters
    "filters": Setting(smoke=",".join(FILTERS), small="none,teacher,oracle",
        study=",".join(FILTERS), paper=",".join(FILTERS),
        published="the teacher", source="section 3.2", help="judges compared", allowed=FILTERS, many=True),
    "noises": Setting(smoke="0.2", small="0,0.5", paper="0,0.2,0.5", published=None, source=OURS, help="shares of "
        "wrong answers at which an unfiltered student is taught; the first judged set has 0.2", many=True),
    "quantile": Setting(smoke=0.1, small=0.1, paper=0.1, published=None, source=OURS, help="share of a leaf's seeds "
        "below a calibrated judge's threshold", allowed=(0.0, 0.99)),
    "n_two_order": Setting(smoke=12, small=64, paper=1000, published=None, source=OURS, help="rows that the "
        "two-order judge sees", allowed=(2, 10**6)),
    "n_faithful": Setting(smoke=12, small=84, paper=1000, published=None, source=OURS, help="knowledge rows of the "
        "faithfulness test", allowed=(4, 10**6)),
    "filter_steps": Setting(smoke=3, small=15, paper=100, published=None, source=OURS, help="steps of each student "
        "of sections A and B", allowed=(1, 10**6)),
    # ---- C: phases
    "arms": Setting(smoke="stacked,phased,replay-all,replay-30%,replay-epochs", small="stacked,phased,replay-all",
        study=",".join(MAIN),
        paper=",".join(ARMS), published="phased with replay", source=PAPER + "; the others are controls",
        help="curricula compared", allowed=ARMS, many=True),
    "keep": Setting(smoke="none", small="data,replay-all", study="none", paper="data,replay-all", published=None,
        source="ours; cannot change the result", help="data (the generated rows) and arms whose weights stay in "
        "the run's folder, for `plumbline export`; none of them: none",
        allowed=["none", "data", *ARMS], many=True),
    "words": Setting(smoke=8, small=8, paper=8, published=None, source=OURS, help="most words of a short answer",
        allowed=(1, 1000)),
    "steps": Setting(repeats=True, smoke="3,3,3", small="28,24,24", paper="50,70,175", published="820, 419, 1003",
        source=PAPER + ", derived "
        "for Labradorite: samples / 3840 x epochs, 5, 7 and 7; ours: as many epochs of 30 rows a leaf",
        help="steps of the three phases", many=True),
    "batch": Setting(smoke=4, small=16, paper=16, published=3840,
        source=PAPER + ": of 1.4 million rows; ours has 30 a leaf", help="rows a step", allowed=(1, 10**5)),
    "lr": Setting(smoke=1e-3, small=1e-3, paper=2e-5, published="2e-5, 1e-6", source=PAPER + "; small: of 3e-4, "
        "1e-3, 3e-3 the best mean of stacked, phased and replay-all on other "
            "questions", help="learning rate of every arm, at its peak", allowed=(1e-9, 1.0)),
    "warmup": Setting(smoke=0.3, small=0.3, paper=0.4, published="385 and 800 steps: 38 to 100 % of a "
        "phase", source=PAPER, help="share of a phase in which the rate rises", allowed=(0.0, 1.0)),
    "clip": Setting(smoke=1.0, small=1.0, paper=1.0, published=1.0, source="instructlab-training", help="gradient "
        "norm is clipped to this", allowed=(1e-6, 1e6)),
    "micro": Setting(smoke=4, small=16, paper=8, published=None, source=OURS, help="sequences a forward; " + AUTO,
        allowed=(0, 4096)),
    "optimizer": Setting(smoke="none", small="none", paper="none", published=None, source="ours", help=OPTIMIZER_HELP,
        allowed=OPTIMIZERS),
    "pack": Setting(smoke=64, small=128, paper=2048, published=None, source=OURS + "; packed rows do not see each "
        "other", help="tokens of "
        "a training sequence, which holds several rows", allowed=(1, 10**6)),
    "watched": Setting(smoke="replay-30%", small="replay-all", paper="replay-all", published=None, source=OURS,
        help="arms whose last phase, of skills, is looked at for checkpoints", allowed=ARMS, many=True),
    "every": Setting(smoke=1, small=6, paper=100, published="each epoch", source="instructlab-training",
        help="steps from one look to the next", allowed=(1, 10**6)),
    "slack": Setting(smoke=0.02, small=0.02, paper=0.02, published=None, source=OURS, help="how far below the best "
        "look an early checkpoint may lie", allowed=(1e-6, 1.0)),
    "check_general": Setting(smoke=8, small=120, paper=120, published=None, source=OURS + ": LAB takes MMLU after "
        "knowledge, MT-Bench after skills", help="general "
        "questions, none of the exam's, by which a checkpoint is chosen", allowed=(1, 10**5)),
    "shares": Setting(smoke="0.5", small="0.5", paper="0.25,0.5,0.75", published="0.5",
        source="instructlab-training's example",
        help="tuned weights' share when they are interpolated with the start model's", many=True),
    "orders": Setting(smoke=2, small=2, paper=3, published=None, source="arXiv 2410.03743", help="data orders of the "
        "stacked arm that are merged", allowed=(1, 100)),
    "contrasts": Setting(smoke=",".join(ORDERS), small="easy to hard",
        study="easy to hard,mixed", paper=",".join(ORDERS),
        published="easy to hard", source="arXiv 2310.02263", help="orders in "
        "which pairs of the judge's best and worse answers are shown afterwards", allowed=ORDERS, many=True),
    "rivalled": Setting(smoke=20, small=96, paper=10**4, published=None, source=OURS, help="taught skill questions "
        "that get several answers, for these pairs", allowed=(2, 10**6)),
    "rivals": Setting(smoke=3, small=4, paper=4, published=None, source=OURS, help="answers a question for these "
        "pairs", allowed=(2, 1000)),
    "contrast_steps": Setting(smoke=2, small=10, paper=100, published=None, source=OURS, help="their steps",
        allowed=(1, 10**6)),
    "contrast_lr": Setting(smoke=1e-4, small=1e-4, paper=5e-7, published=None, source=OURS, help="their learning rate",
        allowed=(1e-9, 1.0)),
    "beta": Setting(smoke=0.1, small=0.1, paper=0.1, published=None, source=OURS, help="KL strength of their DPO",
        allowed=(1e-4, 100.0)),
    # ---- exams
    "exam": Setting(smoke=3, small=16, paper=100, published=None, source=OURS, help="held-out questions of every "
        "skill", allowed=(1, 10**4)),
    "exam_knowledge": Setting(smoke=6, small=48, paper=500, published=None, source=OURS, help="taught statements "
        "asked in another phrasing, of each knowledge part", allowed=(1, 10**5)),
    "exam_general": Setting(smoke=8, small=80, paper=120, published=None, source=OURS, help="general questions asked "
        "after every phase", allowed=(1, 10**5)),
    "exam_text": Setting(smoke=6, small=32, paper=200, published=None, source=OURS, help="lines of general text "
        "whose log-perplexity is followed", allowed=(1, 10**5)),
    "answer_tokens": Setting(smoke=8, small=48, paper=256, published=None, source=OURS, help="longest written "
        "answer, tokens", allowed=(1, 8192)),
    "written": Setting(smoke="replay-all", small="replay-all", paper="stacked,replay-all", published=None, source=OURS,
        help="arms whose answers are also written out and checked, besides the start model", allowed=ARMS, many=True),
    "tasks": Setting(smoke="none", small="none", paper="mmlu:5,arc_challenge:25,hellaswag:10,winogrande:5,gsm8k:5",
        published="MMLU 5, "
        "ARC-C 25, HellaSwag 10, WinoGrande 5, GSM8K 5, MT-Bench", source="section 4", help="tasks of "
        "lm-eval as name:shots, besides the questions here; none", many=True),
    "generation_batch": Setting(smoke=8, small=48, paper=32, published=None, source=OURS,
        help="prompts decoded together", allowed=(1, 4096)),
    "eval_batch": Setting(smoke=8, small=16, paper=8, published=None, source=OURS, help="rows of a scoring forward",
        allowed=(1, 4096)),
}  # fmt: skip


def needed(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every curriculum's exam, every sampler's coverage, every judge's verdicts."""
    samplers = split(given["samplers"])
    rows = [("exam", arm) for arm in ("start", *split(given["arms"]))]
    rows += [(f"coverage, templated {float(b):g}", name) for b in split(given["preferences"]) for name in samplers]
    if given["model_teacher"] == "yes":
        rows += [("coverage, language model", name) for name in samplers if name != "self-instruct"]
    return rows + [("filters", name) for name in split(given["filters"])]
