"""From estimates to verdicts, by the interval that is printed.

Families (a paper's headline claims; its other claims) are corrected by Holm; controls, which gate the instrument, are
not. What a kind of claim needs of its interval [low, high] with the smallest effect worth having d:

better      holds: low > 0 and the value >= d; fails: high < 0 and the value <= -d; no difference: inside (-d, d)
not worse   holds: low > -d; fails: high < -d
same        holds: inside (-d, d); fails: beyond it
above       holds: low > bound; fails: high < bound        below: the other way round
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lib import stats
from lib.harness.claims.claim import CLAIM, NEGATIVE, POSITIVE, Claim
from lib.harness.claims.pool import NotRun, Pool

HOLDS, FAILS, SAME, OPEN = "holds", "fails", "no difference", "not resolved"
CANNOT, NOT_RUN, SMOKE = "cannot tell here", "not run", "smoke"
VERDICTS = (HOLDS, FAILS, SAME, OPEN, CANNOT, NOT_RUN)
MIN_SEEDS = 3
LEVEL = 0.95


class Kind(NamedTuple):
    """The values that an interval must exclude for a decision, and the decision."""

    nulls: Callable[[Claim], tuple[float, ...]]
    decide: Callable[[stats.Interval, Claim], str]


def _same(i: stats.Interval, c: Claim) -> str:
    return HOLDS if -c.worth < i.low and i.high < c.worth else FAILS if i.low > c.worth or i.high < -c.worth else OPEN


def _bound(c: Claim) -> float:
    if c.bound is None:
        raise ValueError(f"claim {c.id} is above or below a bound, and names none")
    return c.bound


def _above(i: stats.Interval, c: Claim) -> str:
    return HOLDS if i.low > _bound(c) else FAILS if i.high < _bound(c) else OPEN


def _below(i: stats.Interval, c: Claim) -> str:
    return {HOLDS: FAILS, FAILS: HOLDS}.get(_above(i, c), OPEN)


KINDS = {
    "better": Kind(lambda c: (0.0,), lambda i, c: stats.verdict(i, c.worth)),
    "not worse": Kind(lambda c: (-c.worth,), lambda i, c: stats.not_worse(i, c.worth)),
    "same": Kind(lambda c: (-c.worth, c.worth), _same),
    "above": Kind(lambda c: (_bound(c),), _above),
    "below": Kind(lambda c: (_bound(c),), _below),
}


class Row(NamedTuple):
    """One claim with what decided it: the interval that is printed, the verdict, and why it is no more than that."""

    claim: Claim
    interval: stats.Interval | None
    seeds: int
    detectable: float  # the effect that this study sees with 80 % power, at the level printed
    verdict: str
    why: str


def rows(claims: Sequence[Claim], pool: Pool, *, smoke: bool = False) -> list[Row]:
    """A verdict on every claim, in their order. Controls are decided first, each at 95 %; then the families."""
    found, missing = {}, {}
    for c in claims:
        try:
            found[c.id] = pool.of(c)
        except NotRun as error:
            missing[c.id] = str(error)
    level = dict.fromkeys((c.id for c in claims), LEVEL)
    for headline in (True, False):
        family = [c for c in claims if c.role == CLAIM and c.headline == headline and c.id in found]
        if family:
            level |= zip([c.id for c in family], stats.holm_levels([_p(found[c.id], c) for c in family], LEVEL))
    out: dict[str, Row] = {}
    for c in sorted(claims, key=lambda c: c.role == CLAIM):
        out[c.id] = _row(c, found.get(c.id), level[c.id], missing.get(c.id, ""), out, smoke)
    return [out[c.id] for c in claims]


def _p(e: stats.Estimate, c: Claim) -> float:
    """The level at which this claim's interval begins to exclude what it must exclude: the largest p of its nulls."""
    return max(e._replace(value=e.value - null).p for null in KINDS[c.kind].nulls(c))


def _row(c: Claim, e, level: float, missing: str, done: dict[str, Row], smoke: bool) -> Row:
    if e is None:
        return Row(c, None, 0, math.nan, NOT_RUN, missing)
    i, seen = e.interval(level), e.detectable(level)
    verdict, why = KINDS[c.kind].decide(i, c), ""
    if smoke:
        verdict, why = SMOKE, "preset smoke measures nothing"
    elif c.void:
        verdict, why = CANNOT, c.void
    elif c.unit == "prompt" and e.seeds < MIN_SEEDS:
        verdict, why = OPEN, f"{e.seeds} seed(s): what varies with the seed is unknown below {MIN_SEEDS}"
    elif silent := [_silent(done[k]) for k in c.controls if _silent(done[k])]:
        verdict, why = CANNOT, "; ".join(silent)
    elif verdict == OPEN:
        why = (
            f"this study sees an effect of {seen:.2g}, {c.worth:.2g} is worth having"
            if c.bound is None
            else f"the interval contains the bound, {c.bound:g}"
        )
    return Row(c, i, e.seeds, seen, verdict, why)


def _silent(row: Row) -> str:
    """Why a control does not license a verdict; empty if it does."""
    c = row.claim
    if row.verdict == NOT_RUN:
        return f"control {c.id} was not run"
    if c.role == POSITIVE and row.verdict != HOLDS:
        return f"control {c.id}, which must move it, does not show that it can"
    # a size worth having, and an interval without 0: that is movement, even where it does not prove more than d
    if c.role == NEGATIVE and row.interval and stats.verdict(row.interval, c.worth) in (HOLDS, FAILS):
        return f"control {c.id}, which must not move it, does"
    return ""
