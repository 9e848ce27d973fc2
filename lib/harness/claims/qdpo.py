"""QDPO, arXiv 2407.03051: claims C1 to C6, of which only abstract and summaries could be read."""

from __future__ import annotations

from functools import partial

import pandas as pd

from lib.harness.claims.claim import NOT_SEEN, POSITIVE, Claim
from lib.harness.claims.pool import Pool, tabled

TEST, TASK, SPLIT, JUDGE = "test prompts", "common knowledge", "first divergence", "judge vs fp"
WHOLE, CUT = "pairs, whole answers", "pairs, cut at the first divergence"
TABLE = [(TEST, m) for m in ("flips", "kl", "agreement prefix", "exact match", "rouge-l", "fp likelihood",
    "length ratio")] + [(TASK, "accuracy"), (TASK, "answer flips")]  # fmt: skip
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


ROTARY = (
    "the cited runs rounded the rotary frequencies of arms that were not trained, which alone flips more tokens than "
    "this gain"
)


def _repairs(id: str, rival: str, said: str, metrics, headlines=(), void: str = "") -> list[Claim]:
    """QDPO against a rival on each metric, and before the judge; where quantization does no damage nothing is
    repaired."""
    told = f"{said}, gain over {rival.upper()}"
    rows = [
        claim(id=f"{id} {m}", statement=f"{told}: {m}", dataset=TEST, metric=m, arms=("qdpo", rival),
            headline=m in headlines, controls=("P1",), void=void)
        for m in metrics
    ]  # fmt: skip
    judge = f"{told}: net wins against full precision (judge: likelihood under full precision)"
    return [
        *rows,
        claim(id=f"{id} judge", statement=judge, dataset=JUDGE, metric="net wins", arms=("qdpo", rival),
            headline="judge" in headlines, controls=("P1",), void=void),
    ]  # fmt: skip


REPAIR = ["flips", "kl", "agreement prefix"]
CLAIMS = [
    claim(id="P1", role=POSITIVE, dataset=TEST, metric="flips", arms=("rtn",), kind="above", bound=0.02,
        unit="fixed", statement="There is damage to repair: tokens flipped by round-to-nearest, more than 2 %",
        source="our controls"),
    claim(id="C1a", headline=True, dataset=TASK, metric="accuracy", arms=("rtn", "fp"), kind="same", smallest=0.05,
        unit="fixed", controls=("P1",),
        statement="Quantization flips tokens (more than 2 %) that task accuracy hides: accuracy of round-to-nearest "
        "minus full precision, within 5 points"),
    claim(id="C1b", dataset=TEST, metric="margin", arms=("rtn",), measure=small_margins, unit="fixed",
        statement="Flips happen where full precision's margin is small: margin at kept minus flipped positions, the "
        "flip rate falling over its deciles"),
    claim(id="C2a", dataset=SPLIT, metric="agreement", arms=("flip only", "full quantized decoding"), kind="above",
        bound=0.5, measure=lost, unit="fixed",
        statement="The flipped token alone explains most of the divergence: share of the agreement lost, more than "
        "0.5"),
    claim(id="C2b", dataset=SPLIT, metric="agreement", arms=("perturbed KV only", "full quantized decoding"),
        kind="below", bound=0.25, measure=lost, unit="fixed",
        statement="The perturbed KV cache alone is small: share of the agreement lost, less than 0.25"),
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
    *_repairs("C4 rtn", "rtn", "QDPO repairs at equal bits", REPAIR, ("flips", "judge"), void=ROTARY),
    *_repairs("C4 awq", "awq", "QDPO repairs at equal bits", REPAIR, void=ROTARY),
    *_repairs("C5", "kd", "QDPO beats distillation at equal data and steps",
        [*REPAIR, "exact match", "rouge-l", "fp likelihood"], headlines=("flips",)),
    claim(id="C6", kind="not worse", smallest=0.03, dataset=TASK, metric="accuracy", arms=("qdpo", "rtn"),
        statement="No tax: task accuracy of QDPO minus round-to-nearest, not 3 points worse"),
]  # fmt: skip
