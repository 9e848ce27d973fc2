"""QDPO, arXiv 2407.03051: claims C1 to C6, of which only abstract and summaries could be read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from lib import stats
from lib.harness.claims import rules
from lib.harness.claims.rules import LEVEL, Outcome, Pool, Resamples, better, outcome, prompts, sums

Claim = partial(rules.Claim, source="arXiv 2407.03051, abstract and summaries")

TABLE = [("test prompts", m) for m in ("flips", "kl", "agreement prefix", "exact match", "rouge-l", "fp likelihood",
    "length ratio")] + [
    ("common knowledge", "accuracy"), ("common knowledge", "answer flips"),
]  # fmt: skip


def _accuracy_hides_flips(pool: Pool) -> Outcome:
    """Holds: the accuracy interval contains 0 and lies within 5 points, while more than 2 % of tokens flip."""
    d = pool.difference("common knowledge", "accuracy", "rtn", "fp")
    flips = pool.rate("test prompts", "rtn", "flips").low > 0.02
    hidden, close = d.low <= 0 <= d.high, -0.05 < d.low and d.high < 0.05
    verdict = "holds" if flips and hidden and close else "not resolved" if flips and hidden else "fails"
    return outcome(d, verdict)


def _small_margins(pool: Pool) -> Outcome:
    """Holds: flipped positions have the smaller margin and the flip rate falls over its deciles (rank correlation <=
    -0.9)."""
    a, b = (pool.rows("test prompts", "rtn", f"margin where {x}") for x in ("flipped", "kept"))
    both = a.index.intersection(b.index)
    d = stats.ratio_diff_ci(
        *sums(a.loc[both]), *sums(b.loc[both]), Resamples(), clusters=prompts(a.loc[both]), level=LEVEL
    )
    deciles = pool.metrics[pool.metrics.metric.str.startswith("flip rate, margin decile")]
    rates = deciles.assign(k=deciles.metric.str.split().str[-1].astype(int)).groupby("k").value.mean().sort_index()
    monotone = rates.rank().corr(pd.Series(rates.index, index=rates.index).rank()) <= -0.9
    return outcome(
        d, ("holds" if monotone else "direction holds") if d.high < 0 else "fails" if d.low > 0 else "not resolved"
    )


def _share(variant: str, *, above: float | None = None, below: float | None = None) -> Callable[[Pool], Outcome]:
    """Agreement lost by one variant over the agreement lost by full quantized decoding: the interval lies above (below)
    a bound."""

    def rule(pool: Pool) -> Outcome:
        r = pool.ratio("first divergence", "agreement", variant, "full quantized decoding")
        holds = r.low > above if above is not None else r.high < below
        fails = r.high < above if above is not None else r.low > below
        return outcome(r, "holds" if holds else "fails" if fails else "not resolved")

    return rule


def _labels(dataset: str, part: str) -> Callable[[Pool], Outcome]:
    """Share of pairs whose quantity is >= 0: the interval lies above 95 %, or below it."""

    def rule(pool: Pool) -> Outcome:
        r = pool.rate(f"pairs, {dataset}", "label", part)
        return outcome(r, "holds" if r.low >= 0.95 else "fails" if r.high < 0.95 else "not resolved")

    return rule


def _exact(pool: Pool) -> Outcome:
    """Share of pairs with Delta >= 0 when both answers are cut at the first divergence: holds only if it is all of
    them."""
    r = pool.rate("pairs, cut at the first divergence", "label", "delta")
    return outcome(r, "holds" if r.value == 1 else "direction holds" if r.low >= 0.95 else "fails")


def _no_tax(pool: Pool) -> Outcome:
    """Holds: not worse than the un-tuned quantized model by more than 3 points."""
    d = pool.difference("common knowledge", "accuracy", "qdpo", "rtn")
    return outcome(d, "holds" if d.low > -0.03 else "fails" if d.high < -0.03 else "not resolved")


REPAIR = ["flips", "kl", "agreement prefix"]
CLAIMS = [
    Claim("C1a", "Quantization flips tokens (more than 2 %) that task accuracy hides: accuracy of round-to-nearest "
        "minus full "
        "precision, within 5 points", _accuracy_hides_flips, trained=False),
    Claim("C1b", "Flips happen where full precision's margin is small: margin at flipped minus kept "
        "positions", _small_margins, trained=False),
    Claim("C2a", "The flipped token alone explains most of the divergence: share of the agreement lost, more "
        "than 0.5", _share("flip only", above=0.5), trained=False),
    Claim("C2b", "The perturbed KV cache alone is small: share of the agreement lost, less "
        "than 0.25", _share("perturbed KV only", below=0.25), trained=False),
    Claim("C3a", "Labels need no annotator: pairs whose full-precision bracket is >= 0, at "
        "least 0.95", _labels("whole answers", "full-precision bracket")),
    Claim("C3b", "Labels need no annotator: pairs whose quantized bracket is >= 0, at "
        "least 0.95", _labels("whole answers", "quantized bracket")),
    Claim("C3c", "Labels need no annotator: pairs with Delta >= 0, at least 0.95", _labels("whole answers", "delta")),
    Claim("C3d", "Cut at the first divergence the label is exact: pairs with Delta >= 0, all of them", _exact),
    Claim("C3e", "Cut at the first divergence, full-precision bracket >= 0, at least 0.95 (all but for "
        "rounding)", _labels("cut at the first divergence", "full-precision bracket")),
    Claim("C3f", "Cut at the first divergence, quantized bracket >= 0, at least 0.95 (all but for "
        "rounding)", _labels("cut at the first divergence", "quantized bracket")),
    *[
        Claim(f"C4 {rival} {metric}", f"QDPO repairs: improvement over {rival.upper()} at equal bits, "
            f"{metric}", better("qdpo", rival, metric, tests=8))
        for rival in ("rtn", "awq")
        for metric in REPAIR
    ],
    *[
        Claim(f"C4 {rival} judge", f"QDPO repairs: net wins against full precision, gain over {rival.upper()} "
            "(judge: likelihood under full "
            "precision)",
              better("qdpo", rival, "net wins", tests=8, dataset="judge vs fp"))
        for rival in ("rtn", "awq")
    ],
    *[
        Claim(f"C5 {metric}", "QDPO beats distillation at equal data and steps: improvement over KD, "
            f"{metric}", better("qdpo", "kd", metric, tests=7))
        for metric in [*REPAIR, "exact match", "rouge-l", "fp likelihood"]
    ],
    Claim("C5 judge", "QDPO beats distillation at equal data and steps: net wins against full precision, gain over "
        "KD (judge: "
        "likelihood under full precision)",
          better("qdpo", "kd", "net wins", tests=7, dataset="judge vs fp")),
    Claim("C6", "No tax: task accuracy of QDPO minus round-to-nearest, not 3 points worse", _no_tax),
]  # fmt: skip
