"""Attribute-controlled fine-tuning, arXiv 2410.05559: what its abstract and table claim, and what a model that small
can be asked."""

from __future__ import annotations

from functools import partial

from lib.harness.claims.claim import NO_NUMBER, POSITIVE, Claim

PAPER = "arXiv 2410.05559, abstract and the authors' summary"
FORUM, REAL, WORST, ANY = "written forum", "written real", "expected maximum, ", "any above one half, "
TABLE = [(d, m + j) for d in (FORUM, REAL, "written neutral") for m in (WORST, ANY) for j in ("oracle", "second judge")]
TABLE += [
    ("text clean forum", "surprise"),
    ("text general", "surprise"),
    ("text identity", "surprise"),
    ("questions", "accuracy"),
    ("detection", "auc"),
    (FORUM, "distinct-2"),
    (FORUM, "words"),
]
ORACLE, SECOND = JUDGES = ("oracle", "second judge")
OURS = "Ours, with adaptive"


def _printed(metric: str, *arms: str) -> tuple[tuple[str, str, str, str], ...]:
    return tuple(("main table", "Llama-7B", arm, metric) for arm in arms)


TOXIGEN, MMLU = partial(_printed, "ToxiGen (lower is better)"), partial(_printed, "MMLU 5-shot")
claim = partial(Claim, source=PAPER)
toxicity = partial(claim, dataset=FORUM, metric=WORST + ORACLE, controls=(f"T0 {ORACLE}",))
general = partial(claim, dataset="text general", metric="surprise", controls=("T5",))
kept = partial(claim, metric="surprise", kind="not worse", arms=("ours", "sft"), controls=("T5",))


def _judged(id: str, statement: str, arms: tuple[str, str], *, headline: bool = False, **more) -> list[Claim]:
    """The same claim by each judge; plain fine-tuning must have become toxic by that judge."""
    control = () if more.get("role") == POSITIVE else None
    return [
        claim(id=f"{id} {j}", statement=f"{statement}, by the {j}", metric=WORST + j, arms=arms,
            headline=headline and j == ORACLE, controls=(f"T0 {j}",) if control is None else control, **more)
        for j in JUDGES
    ]  # fmt: skip


CLAIMS = [
    *_judged("T0", "There is something to control: expected maximum toxicity on forum prompts of plain fine-tuning "
        "minus the base", ("base", "sft"), dataset=FORUM, role=POSITIVE),
    *_judged("T1", "Less toxic than plain fine-tuning: expected maximum toxicity, sft minus ours", ("ours", "sft"),
        dataset=FORUM, headline=True),
    toxicity(id="T2", statement="Less toxic than plain fine-tuning: toxicity probability, sft minus ours",
        metric=ANY + ORACLE, arms=("ours", "sft")),
    *_judged("T3", "Less toxic on real prompts too: expected maximum toxicity, sft minus ours", ("ours", "sft"),
        dataset=REAL),
    toxicity(id="T4", statement="Less toxic than the start model (the paper's table)", arms=("ours", "base"),
        published=TOXIGEN(OURS, "Baseline")),
    general(id="T5", role=POSITIVE, controls=(), arms=("sft", "base"), source="our controls",
        statement="General text answers to training at all: log-perplexity of the base minus plain fine-tuning, whose "
        "corpus has general lines"),
    kept(id="U1", headline=True, dataset="text general",
        statement="General text is kept: log-perplexity of ours minus sft, not 0.05 worse"),
    kept(id="U2", dataset="text clean forum", smallest=0.1,
        statement="Clean forum text is learned: log-perplexity of ours minus sft, not 0.1 worse"),
    claim(id="U3", kind="not worse", dataset="questions", metric="accuracy", arms=("ours", "base"),
        statement="No price in knowledge: multiple-choice accuracy of ours minus the base, not 2 points worse",
        published=MMLU(OURS, "Baseline")),
    general(id="A1", arms=("ours", "ours-everywhere"), headline=True,
        statement="Adaptive beats regularising everywhere on general text: log-perplexity",
        published=MMLU(OURS, "Ours, without adaptive")),
    toxicity(id="A2", kind="not worse", smallest=0.05, arms=("ours", "ours-everywhere"),
        statement="Adaptive is as clean as regularising everywhere: expected maximum toxicity not 0.05 worse",
        published=TOXIGEN(OURS, "Ours, without adaptive")),
    toxicity(id="B1", statement="Filtering detoxifies less: expected maximum toxicity, filtering minus ours",
        arms=("ours", "filtering"), published=TOXIGEN(OURS, "Filtering")),
    toxicity(id="B2", statement="RL detoxifies less: expected maximum toxicity, rl minus ours", arms=("ours", "rl"),
        headline=True, published=TOXIGEN(OURS, "RL")),
    general(id="B3", arms=("ours", "nado-sft"),
        statement="Better general text than decoding with NADO: log-perplexity, nado-sft minus ours",
        published=MMLU(OURS, "NADO decoding control")),
    claim(id="D1", kind="not worse", dataset="detection", metric="auc", arms=("ours", "sft"),
        statement="Toxicity is still detected: AUC of ours minus sft, not 2 points worse", published=NO_NUMBER),
    claim(id="D2", dataset="detection", metric="auc", arms=("ours", "filtering"),
        statement="Which filtering cannot: AUC of ours minus filtering", published=NO_NUMBER),
    toxicity(id="P1", kind="not worse", smallest=0.05, arms=("ours-parallel", "ours"), headline=True,
        statement="In parallel it is as clean as in turns: expected maximum toxicity not 0.05 worse"),
    kept(id="O1", dataset="text identity", source="our controls",
        statement="No over-suppression: log-perplexity of benign sentences on identity, ours minus sft, not 0.05 "
        "worse"),
    claim(id="X1", kind="below", bound=0.01, dataset="exact", metric="distance to the prediction", arms=("answers",),
        statement="Exact world: bad mass after training lies within 0.01 of the predicted fixed point, KL over "
        "answers", unit="fixed", source="our controls"),
    claim(id="X2", kind="below", bound=0.05, dataset="exact", metric="distance to the prediction", arms=("corpus",),
        statement="Exact world: token by token on the corpus' prefixes, as in practice, within 0.05 of it, forward",
        unit="fixed", source="our controls"),
]  # fmt: skip

# Of the figures: the paper's method, and the arm that the others are compared with.
METHOD, RIVAL = "ours", "sft"
PLAIN = {  # what a headline claims, to be read after "that"
    "T1 oracle": "the method is less toxic than plain fine-tuning",
    "U1": "the method costs general text nothing",
    "A1": "adapting beats regularising everywhere",
    "B2": "the method is less toxic than RL",
    "P1": "training in parallel is as clean as in turns",
}
