"""QDPO, arXiv 2407.03051: claims C1 to C5, of which only abstract and summaries could be read.

What is worth having was fixed before the runs: two questions of a hundred (accuracy), since below that no reader would
change a method; a token of a hundred (flips); three questions of a hundred where it is said that there is no
difference, a fifth of the damage that the world was chosen to have.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from lib.harness.claims.claim import NEGATIVE, NOT_SEEN, POSITIVE, Claim
from lib.harness.claims.pool import Pool, tabled

EXAM, TEST, SPLIT = "exam", "test prompts", "first divergence"
WHOLE, CUT = "pairs, whole answers", "pairs, cut at the first divergence"
TABLE = [(EXAM, "accuracy"), (EXAM, "exact match"), (EXAM, "agreement prefix"), (TEST, "flips"), (TEST, "kl")]
claim = partial(Claim, source="arXiv 2407.03051, abstract and summaries", published=NOT_SEEN)
label = partial(claim, arms=("label",), kind="above", bound=0.95)


def small_margins(pool: Pool, c: Claim):
    """Full precision's margin at kept minus flipped positions; nothing unless the flip rate falls over the margin's
    deciles (rank correlation <= -0.9)."""
    kept, flipped = (pool.cells(TEST, f"margin where {x}", "rtn") for x in ("kept", "flipped"))
    cells = kept.join(flipped.rename(columns={"num_a": "num_b", "den_a": "den_b"}), how="inner")
    deciles = pool.metrics[pool.metrics.metric.str.startswith("flip rate, margin decile")]
    rates = deciles.assign(k=deciles.metric.str.split().str[-1].astype(int)).groupby("k").value.mean().sort_index()
    monotone = rates.rank().corr(pd.Series(rates.index, index=rates.index).rank()) <= -0.9
    found = tabled(cells, unit=c.unit)
    return found if monotone else found._replace(value=min(found.value, 0.0))


def lost(pool: Pool, c: Claim):
    """(1 - agreement of a) / (1 - agreement of b): the share of b's loss that a alone explains."""
    a, b = (pool.rows(c.dataset, arm, c.metric).value for arm in c.arms)
    return tabled(pd.DataFrame({"num_a": 1 - a, "den_a": 1 - b}).dropna(), unit=c.unit)


def carried(pool: Pool, c: Claim):
    """The sum of a metric under a over that under b: the share of b's departure that a alone carries."""
    a, b = (pool.rows(c.dataset, arm, c.metric).value for arm in c.arms)
    return tabled(pd.DataFrame({"num_a": a, "den_a": b}).dropna(), unit=c.unit)


def recovered(pool: Pool, c: Claim):
    """(repaired - start) / (full precision - start) of the accuracies, arms (repaired, start): the share of the damage
    taken back. NotRun where there is no damage."""
    mine, start, full = (pool.rows(c.dataset, arm, c.metric).value for arm in (*c.arms, "fp"))
    return tabled(pd.DataFrame({"num_a": mine - start, "den_a": full - start}).dropna(), unit=c.unit)


DAMAGE, AWQ, STILL = ("P0", "P1"), ("P0", "P1 awq"), ("N1",)
gain = partial(claim, dataset=EXAM, metric="accuracy", controls=DAMAGE)


def _details(id: str, said: str, mine: str, rival: str, controls=DAMAGE) -> list[Claim]:
    """The same comparison by fidelity: tokens flipped and KL along full precision's answers to open prompts, and
    answers to the exam that are full precision's to the letter."""
    metrics = ((TEST, "flips"), (TEST, "kl"), (EXAM, "exact match"))
    return [
        gain(id=f"{id} {m}", statement=f"{said}: {m}", dataset=d, metric=m, arms=(mine, rival), controls=controls)
        for d, m in metrics
    ]


def _shares(start: str, controls: tuple[str, ...], *arms: str) -> list[Claim]:
    said = f"takes back more than half of the damage of {start.upper()}: share"
    shared = partial(gain, measure=recovered, kind="above", bound=0.5, controls=controls)
    return [shared(id=f"S {mine}", arms=(mine, start), statement=f"{mine.upper()} {said}") for mine in arms]


CLAIMS = [
    claim(id="P0", role=POSITIVE, dataset=EXAM, metric="accuracy", arms=("fp",), kind="above", bound=0.6,
        unit="fixed", source="our controls",
        statement="Full precision answers most questions of the exam, more than 0.6"),
    claim(id="P1", role=POSITIVE, dataset=EXAM, metric="accuracy", arms=("fp", "rtn"), smallest=0.05,
        unit="fixed", source="our controls",
        statement="There is damage to repair, and full precision put back in moves the metric: accuracy of full "
        "precision minus round-to-nearest, 5 points"),
    claim(id="P1 awq", role=POSITIVE, dataset=EXAM, metric="accuracy", arms=("fp", "awq"), smallest=0.05,
        source="our controls", statement="There is damage to repair in AWQ: accuracy of full precision minus AWQ, 5 "
        "points"),
    claim(id="P2", role=POSITIVE, dataset=TEST, metric="flips", arms=("mild",), kind="above", bound=0.01,
        unit="fixed", source="our controls", statement="The milder format flips more than 1 % of the tokens"),
    claim(id="N1", role=NEGATIVE, dataset=EXAM, metric="accuracy", arms=("random", "rtn"), source="our controls",
        statement="Moves as large as QDPO's, dealt to other weights by chance, repair nothing: accuracy over "
        "round-to-nearest"),
    claim(id="N2", role=NEGATIVE, dataset=TEST, metric="flips", arms=("random", "rtn"), source="our controls",
        statement="Moves as large as QDPO's, dealt to other weights by chance, repair nothing: flips"),
    claim(id="C1a", headline=True, dataset=EXAM, metric="accuracy", arms=("mild", "fp"), kind="same", smallest=0.03,
        unit="fixed", controls=("P0", "P2"),
        statement="Accuracy hides flipped tokens: in a format that flips more than 1 % of them, accuracy minus full "
        "precision's, within 3 points"),
    claim(id="C1b", dataset=TEST, metric="margin", arms=("rtn",), measure=small_margins, unit="fixed",
        statement="Flips happen where full precision's margin is small: margin at kept minus flipped positions, the "
        "flip rate falling over its deciles"),
    claim(id="C2a", headline=True, dataset=SPLIT, metric="forced kl", arms=("flip only", "full quantized decoding"),
        kind="above", bound=0.5, measure=carried, unit="fixed",
        statement="The flipped token explains the divergence: share of the KL after it, along full precision's own "
        "continuation, that the flip alone carries, more than 0.5"),
    claim(id="C2b", dataset=SPLIT, metric="forced kl", arms=("perturbed KV only", "full quantized decoding"),
        kind="below", bound=0.25, measure=carried, unit="fixed",
        statement="The perturbed KV cache alone is small: share of that KL, less than 0.25"),
    claim(id="C2c", dataset=SPLIT, metric="forced flips", arms=("perturbed KV only", "full quantized decoding"),
        kind="below", bound=0.25, measure=carried, unit="fixed",
        statement="The perturbed KV cache alone is small: share of the flips, less than 0.25"),
    claim(id="C2d", dataset=SPLIT, metric="agreement", arms=("flip only", "full quantized decoding"), kind="above",
        bound=0.5, measure=lost, unit="fixed",
        statement="With the cascade, each going on by itself: share of the agreement lost after the flip alone, more "
        "than 0.5"),
    label(id="C3a", dataset=WHOLE, metric="full-precision bracket",
        statement="Labels need no annotator: pairs whose full-precision bracket is >= 0, at least 0.95"),
    label(id="C3b", dataset=WHOLE, metric="quantized bracket",
        statement="Labels need no annotator: pairs whose quantized bracket is >= 0, at least 0.95"),
    label(id="C3c", headline=True, dataset=WHOLE, metric="delta",
        statement="Labels need no annotator: pairs with Delta >= 0, at least 0.95"),
    label(id="C3d", dataset=CUT, metric="delta", bound=0.99,
        statement="Cut at the first divergence the label is exact but for rounding: pairs with Delta >= 0, at least "
        "0.99"),
    label(id="C3e", dataset=CUT, metric="full-precision bracket",
        statement="Cut at the first divergence, full-precision bracket >= 0, at least 0.95 (all but for rounding)"),
    label(id="C3f", dataset=CUT, metric="quantized bracket",
        statement="Cut at the first divergence, quantized bracket >= 0, at least 0.95 (all but for rounding)"),
    gain(id="C4", headline=True, arms=("qdpo", "rtn"), controls=(*DAMAGE, *STILL),
        statement="QDPO repairs what quantization broke: accuracy over round-to-nearest"),
    *_details("C4", "QDPO repairs, gain over round-to-nearest", "qdpo", "rtn"),
    gain(id="C4 awq", arms=("awq-qdpo", "awq"), controls=AWQ, statement="QDPO repairs AWQ: accuracy over AWQ"),
    *_details("C4 awq", "QDPO from AWQ's weights, gain over AWQ", "awq-qdpo", "awq", AWQ),
    gain(id="C4 sft", arms=("qdpo", "sft"),
        statement="The rejected answer adds something: accuracy of QDPO over fine-tuning on the chosen answers"),
    gain(id="C5", headline=True, arms=("qdpo", "kd"),
        statement="QDPO beats distillation at equal data and steps: accuracy"),
    *_details("C5", "QDPO over distillation", "qdpo", "kd"),
    gain(id="C5 awq", arms=("awq-qdpo", "awq-kd"), controls=AWQ, statement="The same from AWQ's weights: accuracy"),
    *_details("C5 awq", "QDPO over distillation from AWQ's weights", "awq-qdpo", "awq-kd", AWQ),
    gain(id="C5 both", arms=("kd+qdpo", "kd"),
        statement="Preference adds to distillation: accuracy of the summed losses over distillation alone"),
    *_details("C5 both", "The summed losses over distillation alone", "kd+qdpo", "kd"),
    gain(id="K1", arms=("kd", "rtn"), statement="Distillation repairs: accuracy over round-to-nearest"),
    *_shares("rtn", DAMAGE, "qdpo", "kd", "kd+qdpo", "sft"),
    *_shares("awq", AWQ, "awq-qdpo", "awq-kd"),
]  # fmt: skip
