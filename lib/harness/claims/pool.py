"""Per-prompt scores of the runs of one paper and preset side by side, and the estimates taken from them.

An estimate's interval covers what varies: prompts and seeds, crossed, where training or sampling depends on a seed;
worlds, where every row is one; prompts alone where nothing depends on a seed (`Claim.unit`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.harness import results
from lib.harness.claims.claim import WINS, Claim, metric_of

COLUMNS = ["num_a", "den_a", "num_b", "den_b"]


class NotRun(LookupError):
    """An arm that a claim needs was not run, or of it too little for an interval."""


class Pool:
    """Items of several runs: rows dataset, arm, metric, prompt_id, value, weight, seed."""

    def __init__(self, runs: Sequence):
        _check_alike(runs)
        frames = [r.items().assign(seed=r.manifest["seed"]) for r in runs]
        self.items = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        self.seeds = sorted({r.manifest["seed"] for r in runs})
        metrics = [r.metrics() for r in runs]
        self.metrics = pd.concat(metrics, ignore_index=True) if metrics else pd.DataFrame()
        self._groups = (
            dict(iter(self.items.groupby(["dataset", "arm", "metric"], sort=False))) if len(self.items) else {}
        )

    def rows(self, dataset: str, arm: str, metric: str) -> pd.DataFrame:
        """Value and weight of each (prompt, seed), indexed by them; NotRun if the arm was not."""
        found = self._groups.get((dataset, arm, metric))
        if found is None:
            raise NotRun(f"no run has {metric} of {arm} on {dataset}")
        return found.set_index(["prompt_id", "seed"])[["value", "weight"]].fillna({"weight": 1.0}).sort_index()

    def cells(self, dataset: str, metric: str, a: str, b: str | None = None) -> pd.DataFrame:
        """Sums whose ratio is the weighted mean of an arm, on the (prompt, seed) cells that both have: num_a, den_a
        and, with a second arm, num_b, den_b."""
        if b is None:
            return _sums(self.rows(dataset, a, metric), "a")
        x, y = self._pair(dataset, metric, a, b)
        return _sums(x, "a").join(_sums(y, "b"), how="inner")

    def _pair(self, dataset: str, metric: str, a: str, b: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        if metric == "net wins":  # per prompt: +1 win, -1 lose
            wins, losses = ([self.rows(dataset, arm, kind) for arm in (a, b)] for kind in ("win", "lose"))
            return tuple(w.assign(value=w.value - lost.value) for w, lost in zip(wins, losses))
        if metric.startswith(WINS):  # by whose value is larger, whatever the scale: an absurd value counts like another
            x, y = self._pair(dataset, metric.removeprefix(WINS), a, b)
            both = x.index.intersection(y.index)
            x, y = x.loc[both], y.loc[both]
            return x.assign(value=(x.value > y.value) * 1.0), y.assign(value=(y.value > x.value) * 1.0)
        return self.rows(dataset, a, metric), self.rows(dataset, b, metric)

    def level(self, dataset: str, arm: str, metric: str, *, unit: str = "prompt") -> stats.Estimate:
        """Weighted mean of an arm."""
        return self._counted(tabled(self.cells(dataset, metric, arm), unit=unit))

    def table(self, claim: Claim) -> stats.Table:
        """What decides a claim, cell by cell, a difference turned so that positive is better; NotRun if an arm is
        missing."""
        if claim.measure is not None:
            return claim.measure(self, claim)
        found = tabled(self.cells(claim.dataset, claim.metric, *claim.arms), unit=claim.unit)
        if len(claim.arms) == 1 or metric_of(claim.metric).higher_is_better:
            return found
        return found._replace(value=-found.value, z=-found.z)

    def of(self, claim: Claim) -> stats.Estimate:
        """The value that decides a claim, with what is known of its spread; NotRun if an arm is missing."""
        return self._counted(self.table(claim))

    def _counted(self, table: stats.Table) -> stats.Estimate:
        found = stats.estimate(table)
        return found._replace(seeds=found.seeds if found.seeds > 1 else len(self.seeds))

    def predicted(self, claim: Claim, prompts: Collection[str]) -> stats.Interval:
        """Where the value of one more run will lie in 95 of 100 cases: of one more seed on these prompts, or of as many
        other worlds. ValueError with one seed, NotRun if an arm is missing."""
        table = self.table(claim)
        if claim.unit == "prompt":
            return stats.predict(table, new_prompts=prompts)
        found = stats.estimate(table)
        more = 1 + found.n / len(prompts)
        return found._replace(variances=tuple(v * more for v in found.variances)).interval()


def tabled(cells: pd.DataFrame, *, unit: str) -> stats.Table:
    """The ratio num_a / den_a of the summed columns, or its difference to num_b / den_b, with what varies as `unit`
    says: "prompt" (crossed with seeds), "world" (each cell) or "fixed" (prompts alone)."""
    prompts, seeds = (cells.index.get_level_values(k).to_numpy() for k in ("prompt_id", "seed"))
    columns = [cells[c].to_numpy(float) for c in COLUMNS if c in cells]
    if unit != "prompt":
        prompts = prompts if unit == "fixed" else np.array([f"{p}, {s}" for p, s in zip(prompts, seeds)])
        seeds = np.zeros(len(seeds))
    try:
        reckon: Any = stats.rates if len(columns) == 2 else stats.differences
        return reckon(*columns, prompts, seeds)
    except ValueError as error:  # one prompt, say: no reason to lose the run whose results are shown
        raise NotRun(str(error)) from None


def _sums(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    return pd.DataFrame({f"num_{arm}": rows.value * rows.weight, f"den_{arm}": rows.weight})


def _check_alike(runs: Sequence) -> None:
    """ValueError unless all runs are of one paper and preset and share every setting they both use."""
    for what in ("paper", "preset"):
        if len(found := sorted({r.manifest[what] for r in runs})) > 1:
            raise ValueError(f"runs of different {what}s cannot be pooled: {', '.join(found)}")
    settings = [results.used(r.manifest.get("settings", {})) for r in runs]
    differ = sorted({k for s in settings for k in s if any(o.get(k) != s[k] for o in settings)})
    if differ:
        raise ValueError(
            f"runs of different settings cannot be pooled: they differ in {', '.join(n.upper() for n in differ)}"
        )
