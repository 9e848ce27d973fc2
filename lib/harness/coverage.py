"""How often do intervals cover the truth where seeds and prompts both vary? Synthetic tables whose truth is known.

    python -m lib.harness.coverage       the whole grid to results/tables/coverage.csv, seven minutes on one core

A value is seed + prompt + rest, normal, of variances seed_share, half of what is left and half of what is left. Kinds:

    gaussian   the difference of two arms, a normal number for each seed and prompt
    binary     the difference of two accuracies near 0.8: right where ease + value + noise > 0, ease by prompt
    weighted   the difference of two rates over tokens, whose numbers differ twofold between prompts
    accuracy   one accuracy near 0.8

Five null claims make a family: `false_verdicts` is the share of families in which Holm lets one lie beyond 0 or more,
`false_holds` of those in which one lies so on the claimed side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib import stats
from lib.harness import paths

SEEDS, PROMPTS, SHARES = (3, 5, 8), (48, 150, 400), (0.0, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9)
KINDS = ("gaussian", "binary", "weighted", "accuracy")
FAMILY = 5
EASE = 1.4  # of answering right, in standard deviations of the noise
RESAMPLES = 400
AT_ONCE = 300_000  # numbers of one array


class Cell(NamedTuple):
    kind: str
    seeds: int
    prompts: int
    seed_share: float


GRID = [Cell(*c) for c in itertools.product(KINDS, SEEDS, PROMPTS, SHARES)]


class Intervals(NamedTuple):
    """95 % intervals of R replications, and two-sided p values against the truth: (R,) each."""

    value: Any  # where many replications are reckoned at once, an array as `stats.Estimate` holds it
    low: Any
    high: Any
    p: Any


class World(NamedTuple):
    """R tables: arms a and b, each (num, den) of shapes (R, S, P), b None where one rate is asked for."""

    a: tuple
    b: tuple | None
    truth: float


def draw(cell: Cell, replications: int, rng: np.random.Generator) -> World:
    shape = replications, cell.seeds, cell.prompts
    left = (1 - cell.seed_share) / 2

    def values():
        seed, prompt, rest = (rng.normal(size=s) for s in ((*shape[:2], 1), (replications, 1, cell.prompts), shape))
        return math.sqrt(cell.seed_share) * seed + math.sqrt(left) * (prompt + rest)

    def right(ease):
        return (ease + values() + rng.normal(size=shape) > 0) * 1.0

    one = np.ones(shape)
    if cell.kind == "gaussian":
        return World((values(), one), None, 0.0)
    if cell.kind == "accuracy":
        return World((right(EASE), one), None, (1 + math.erf(EASE / 2)) / 2)  # Phi(EASE / sqrt(1 + 1))
    if cell.kind == "binary":
        ease = EASE + rng.normal(size=(replications, 1, cell.prompts))
        return World((right(ease), one), (right(ease), one), 0.0)
    typical = rng.normal(0, 0.7, size=(replications, 1, cell.prompts))
    tokens_a, tokens_b = (np.exp(typical + rng.normal(0, 0.3, size=shape)) for _ in "ab")
    return World((values() * tokens_a, tokens_a), (values() * tokens_b, tokens_b), 0.0)


# ------------------------------------------------------------------------------------------------ methods


def crossed(world: World, rng) -> Intervals:
    """`stats.estimate`: half-widths by seed and by prompt added in quadrature."""
    return _t(world, stats.estimate(_table(world)))


def satterthwaite(world: World, rng) -> Intervals:
    """(MS_seed + MS_prompt - MS_rest) / (S P), t with df = v^2 / sum of v_k^2 / df_k; components floored at 0."""
    table = _table(world)
    S, P = table.there.shape
    c = stats.components(table)
    rest = c.rest / (S * P)
    by_seed, by_prompt = c.seed / S + rest, c.prompt / P + rest
    variance = by_seed + by_prompt - rest
    spread = by_seed**2 / (S - 1) + by_prompt**2 / (P - 1) + rest**2 / ((S - 1) * (P - 1))
    df = np.divide(variance**2, spread, out=np.ones_like(spread), where=spread > 0)
    return _t(world, stats.Estimate(table.value, (variance,), (df,), P, S))


def by_seed(world: World, rng) -> Intervals:
    """t interval of the seeds' means: prompts held fixed."""
    table = _table(world)
    S, P = table.there.shape
    return _t(world, stats.Estimate(table.value, (table.z.mean(-1).var(-1, ddof=1) / S,), (S - 1,), P, S))


def prompts_only(world: World, rng) -> Intervals:
    """Percentile bootstrap over prompts: seeds held fixed."""
    return _bootstrap(world, rng, np.ones((world.a[0].shape[1], RESAMPLES)))


def pigeonhole(world: World, rng) -> Intervals:
    """Percentile bootstrap over both factors, each resampled by itself (Owen, Annals of Applied Statistics 1, 2007)."""
    S = world.a[0].shape[1]
    return _bootstrap(world, rng, rng.multinomial(S, np.full(S, 1 / S), size=RESAMPLES).T)


CLOSED = {"crossed": crossed, "satterthwaite": satterthwaite, "by seed": by_seed}
BOOTSTRAPS = {"prompts only": prompts_only, "pigeonhole": pigeonhole}


def _table(world: World) -> stats.Table:
    return stats.linearise(np.ones(world.a[0].shape[1:], bool), world.a, world.b)


def _t(world: World, estimate: stats.Estimate) -> Intervals:
    interval = estimate.interval()
    return Intervals(
        interval.value, interval.low, interval.high, estimate._replace(value=interval.value - world.truth).p
    )


def _bootstrap(world: World, rng, seed_counts: np.ndarray) -> Intervals:
    P = world.a[0].shape[2]
    counts = rng.multinomial(P, np.full(P, 1 / P), size=RESAMPLES).T  # the same for all replications

    def rate(arm):
        num, den = (((x @ counts) * seed_counts).sum(1) for x in arm)
        return num / den

    draws = rate(world.a) - (rate(world.b) if world.b else 0.0)
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    beyond = np.minimum((draws <= world.truth).sum(1), (draws >= world.truth).sum(1))
    return Intervals(_table(world).value, low, high, np.minimum(2 * (beyond + 1) / (RESAMPLES + 1), 1.0))


# ------------------------------------------------------------------------------------------------ the table


def score(methods: dict[str, Callable], cell: Cell, replications: int, seed: int = 0) -> list[dict]:
    """A row for each method, all on the same worlds; the random numbers depend on the cell and on `seed` alone."""
    rng = np.random.default_rng([seed, KINDS.index(cell.kind), cell.seeds, cell.prompts, round(1000 * cell.seed_share)])
    at_once = max(AT_ONCE // (cell.seeds * cell.prompts), 1)
    found = {name: [] for name in methods}
    for start in range(0, replications, at_once):
        world = draw(cell, min(at_once, replications - start), rng)
        for name, method in methods.items():
            found[name].append(method(world, rng))
    rows = []
    for name, parts in found.items():
        got = Intervals(*(np.concatenate(x) for x in zip(*parts)))
        whole = replications - replications % FAMILY
        beyond = np.apply_along_axis(stats.holm, 1, got.p[:whole].reshape(-1, FAMILY)) < 1 - stats.LEVEL
        gain = got.value[:whole].reshape(-1, FAMILY) > world.truth
        rows.append({"method": name} | cell._asdict() | {
            "coverage": ((got.low <= world.truth) & (world.truth <= got.high)).mean(),
            "width": (got.high - got.low).mean(),
            "false_holds": (beyond & gain).any(1).mean(),
            "false_verdicts": beyond.any(1).mean(),
            "replications": replications,
        })  # fmt: skip
    return rows


def compare(cells: Iterable[Cell], methods: dict[str, Callable], replications: int) -> pd.DataFrame:
    return pd.DataFrame([row for cell in cells for row in score(methods, cell, replications)])


def main() -> Path:
    table = pd.concat([compare(GRID, CLOSED, 5000), compare(GRID, BOOTSTRAPS, 400)])
    where = paths.check_writable(paths.TABLES) / "coverage.csv"
    table.sort_values("method", kind="stable").to_csv(where, index=False, float_format="%.4g", lineterminator="\n")
    table["truth"] = np.where(table.kind == "accuracy", "a rate", "a difference")
    print(
        table.groupby(["truth", "method", "seeds"])[["coverage", "false_verdicts"]].agg(["min", "mean", "max"]).round(3)
    )
    return where


if __name__ == "__main__":
    print(main())
