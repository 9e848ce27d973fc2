"""What claims are made of: pooled per-prompt scores of the cited runs, and rules that turn them into verdicts.

A rule sees a `Pool`: the items of all cited runs of one paper and preset, seeds stacked. Intervals are 95 % paired
bootstraps that resample prompts and keep all seeds of a prompt together; where one claim is tested on several metrics,
the level is Bonferroni-corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from lib import stats

LEVEL = 0.95
WINS = "wins by "  # before a metric: which arm's value is larger, prompt by prompt
HIGHER_IS_BETTER = {
    "flips": False, "kl": False, "agreement prefix": True, "exact match": True, "rouge-l": True, "fp likelihood": True,
    "accuracy": True, "net wins": True, "accuracy, primary reference": True, "accuracy, reference-free sum": True,
    "true reward": True, "wins by true reward": True,
    "win rate": True, "win rate, whole run": True, "win rate, held-out oracle": True, "expected reward": True,
    "duel regret": False,
    "forgotten": False, "effective leaves": True, "nearest leaves": True, "worst leaf": True, "Vendi": True,
    "purity": True, "recall": True, "wrong rejected": True,
    "surprise": False, "auc": True,
    **{f"{m}, {j}": False for m in ("expected maximum", "any above one half",
        "share above one half") for j in ("oracle", "second judge")},
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    value: float
    low: float
    high: float
    n: int
    verdict: str


@dataclass(frozen=True)
class Claim:
    id: str
    statement: str
    rule: Callable[[Pool], Outcome]
    source: str
    published: str = "not seen"
    trained: bool = True  # False: no arm of it depends on a seed; all runs repeat one measurement


class NotRun(LookupError):
    """An arm that a rule needs was not run."""


class Pool:
    """Items of several runs side by side: rows dataset, arm, metric, prompt_id, value, weight, seed."""

    def __init__(self, runs: Sequence):
        frames = [r.items().assign(seed=r.manifest["seed"]) for r in runs]
        self.items = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        self.places = self.items.groupby(["dataset", "arm", "metric"]).indices if frames else {}
        self.seeds = sorted({r.manifest["seed"] for r in runs})
        self.used = set(self.seeds)  # seeds that have every row asked for so far
        metrics = [r.metrics() for r in runs]
        self.metrics = pd.concat(metrics, ignore_index=True) if metrics else pd.DataFrame()

    def rows(self, dataset: str, arm: str, metric: str) -> pd.DataFrame:
        """One row a (prompt, seed), indexed by them; NotRun if the arm was not."""
        if (dataset, arm, metric) not in self.places:
            raise NotRun(f"{arm}: no {metric} on {dataset}")
        found = self.items.iloc[self.places[dataset, arm, metric]]
        self.used &= set(found.seed)
        return found.set_index(["prompt_id", "seed"]).sort_index()

    def rate(self, dataset: str, arm: str, metric: str, level: float = LEVEL):
        """Weighted mean and its interval."""
        r = self.rows(dataset, arm, metric)
        return stats.ratio_ci(*sums(r), Resamples(), clusters=prompts(r), level=level)

    def difference(self, dataset: str, metric: str, a: str, b: str, level: float = LEVEL):
        """Weighted mean of arm a minus that of arm b on the (prompt, seed) rows that both have."""
        x, y = self._pair(dataset, metric, a, b)
        return stats.ratio_diff_ci(*sums(x), *sums(y), Resamples(), clusters=prompts(x), level=level)

    def by_seed(self, dataset: str, metric: str, a: str, b: str) -> list[float]:
        """The same difference for each seed alone."""
        x, y = self._pair(dataset, metric, a, b)
        mean = lambda rows: (lambda v, w: v.sum() / w.sum())(*sums(rows))  # noqa: E731
        return [
            mean(x.xs(s, level="seed")) - mean(y.xs(s, level="seed")) for s in x.index.get_level_values("seed").unique()
        ]

    def _pair(self, dataset: str, metric: str, a: str, b: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        if metric == "net wins":  # per prompt: +1 win, -1 lose
            x, y = (self.rows(dataset, arm, "win").assign(weight=1.0) for arm in (a, b))
            x, y = (f.assign(value=f.value - self.rows(dataset, arm, "lose").value) for f, arm in ((x, a), (y, b)))
        elif metric.startswith(
            WINS
        ):  # by whose value is larger, whatever the scale: one absurd value counts like any other
            x, y = self._pair(dataset, metric.removeprefix(WINS), a, b)
            return x.assign(value=(x.value > y.value).astype(float)), y.assign(value=(y.value > x.value).astype(float))
        else:
            x, y = self.rows(dataset, a, metric), self.rows(dataset, b, metric)
        both = x.index.intersection(y.index)
        return x.loc[both], y.loc[both]

    def ratio(self, dataset: str, metric: str, a: str, b: str):
        """(1 - mean of a) / (1 - mean of b): the share of b's loss that a alone explains."""
        x, y = self.rows(dataset, a, metric), self.rows(dataset, b, metric)
        return stats.ratio_ci(
            1 - x.value.to_numpy(), 1 - y.value.to_numpy(), Resamples(), clusters=prompts(x), level=LEVEL
        )


class Resamples:
    """A generator that begins anew at each draw: the same resamples for every claim, so that verdicts do not depend on
    their order, drawn once a number of prompts."""

    def multinomial(self, n: int, shares: np.ndarray, size: int) -> np.ndarray:
        return _drawn(n, len(shares), size)


@lru_cache(maxsize=16)
def _drawn(n: int, among: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).multinomial(n, np.full(among, 1 / among), size=size)


def sums(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    weight = rows.weight.fillna(1.0).to_numpy(float)
    return rows.value.to_numpy(float) * weight, weight


def prompts(rows: pd.DataFrame) -> np.ndarray:
    return rows.index.get_level_values("prompt_id").to_numpy()


def outcome(interval, verdict: str, sign: float = 1.0) -> Outcome:
    low, high = sorted((sign * interval.low, sign * interval.high))
    return Outcome(sign * interval.value, low, high, interval.n, verdict)


def no_worse(a: str, b: str, metric: str, *, by: float, dataset: str) -> Callable[[Pool], Outcome]:
    """Mean of a minus that of b, turned so that positive is better: holds if the interval stays above -by, fails if it
    lies below."""
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0

    def rule(pool: Pool) -> Outcome:
        o = outcome(pool.difference(dataset, metric, a, b), "", sign)
        return Outcome(
            o.value, o.low, o.high, o.n, "holds" if o.low > -by else "fails" if o.high < -by else "not resolved"
        )

    return rule


def better(a: str, b: str, metric: str, *, tests: int, dataset: str = "test prompts") -> Callable[[Pool], Outcome]:
    """Improvement of a over b, oriented so that positive is better.

    holds: the corrected interval lies above 0 and every seed alone is on that side; direction holds: at least the
    uncorrected one lies above 0; fails: the uncorrected one lies below 0 (a loss needs no more evidence than a gain's
    direction).
    """
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0

    def rule(pool: Pool) -> Outcome:
        strict = pool.difference(dataset, metric, a, b, level=1 - (1 - LEVEL) / tests)
        plain = pool.difference(dataset, metric, a, b)
        low, high = sorted((sign * plain.low, sign * plain.high))
        agree = all(sign * d > 0 for d in pool.by_seed(dataset, metric, a, b))
        if min(sign * strict.low, sign * strict.high) > 0 and agree:
            verdict = "holds"
        else:
            verdict = "direction holds" if low > 0 else "fails" if high < 0 else "not resolved"
        return outcome(strict, verdict, sign)

    return rule
