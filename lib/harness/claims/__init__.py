"""Claims of each paper as data, written before the runs they judge, and the verdicts computed from the cited runs.

One module a paper that has a notebook: its CLAIMS (`claim.Claim`), PLAIN, its headlines in plain words, TABLE, the
columns of its table of arms, METHOD, the arm that figures set off, and RIVAL, the one that they compare with. `pool`
takes estimates from runs, `verdicts` decides; the card of a notebook, the board, the terminal and results/ all read
`card`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib import stats
from lib.harness import notebooks, presets, results
from lib.harness.claims import verdicts
from lib.harness.claims.claim import CLAIM, Claim, metric_of
from lib.harness.claims.pool import NotRun, Pool

__all__ = ["PAPERS", "Agreement", "Claim", "NotRun", "Pool", "agreement", "arms_table", "beside", "card", "check",
           "evaluate", "power", "published", "sentence", "units"]  # fmt: skip

_there = {module.name for module in pkgutil.iter_modules(__path__)}
PAPERS = {p: importlib.import_module(f"{__name__}.{p}") for p in notebooks.papers() if p in _there}
MOST_HEADLINES = 5
COLUMNS = [
    "claim",
    "paper",
    "headline",
    "role",
    "statement",
    "source",
    "published",
    "ours",
    "low",
    "high",
    "smallest",
    "detectable",
    "n",
    "seeds",
    "preset",
    "verdict",
    "why",
]
SHOWN = ["ours", "low", "high", "verdict"]


def card(paper: str, runs: Sequence) -> pd.DataFrame:
    """One row a claim, columns as results/tables/claims.csv: headlines first, then details, then controls; `runs` are
    of one paper, one preset and the same settings (ValueError)."""
    preset = runs[0].manifest["preset"] if runs else ""
    found = verdicts.rows(PAPERS[paper].CLAIMS, Pool(runs), smoke=preset == "smoke")
    found = sorted(found, key=lambda r: (r.claim.role != CLAIM, not r.claim.headline))
    rows = []
    for r in found:
        c, nan = r.claim, float("nan")
        ours = r.interval or stats.Interval(nan, nan, nan, 0)
        worth = nan if c.bound is not None else c.worth
        rows.append((c.id, paper, c.headline, c.role, c.statement, c.source, published(paper, c), *ours[:3], worth,
            r.detectable, ours.n, r.seeds, preset, r.verdict, r.why))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def evaluate(runs: Sequence) -> pd.DataFrame:
    """All papers' claims from their evidence among `runs`. A paper without any is left out where others have some, so
    that a new one changes no page before its first study; where none has, all read "not run"."""
    found = {p: results.evidence(runs, p) for p in PAPERS}
    return pd.concat([card(p, mine) for p, mine in found.items() if mine or not any(found.values())], ignore_index=True)


def published(paper: str, claim: Claim) -> str:
    """What the paper printed for a claim, with its place; or that it gives no number, or could not be read.

    ValueError for a key that results/paper does not have.
    """
    if isinstance(claim.published, str):
        return claim.published
    table = results.published(paper)
    found = []
    for key in claim.published:
        row = table[(table[["exhibit", "dataset", "arm", "metric"]] == list(key)).all(axis=1)]
        if len(row) != 1:
            raise ValueError(f"{paper}.csv has {len(row)} rows for {', '.join(key)}, claim {claim.id} needs one")
        found.append(row.iloc[0])
    first = found[0]
    unit = f" {first.unit}" if isinstance(first.unit, str) else ""
    values = " against ".join(f"{r.value:g}" for r in found)
    return f"{values}{unit} ({first.dataset}, {first.metric}; {first.exhibit})"


def beside(paper: str, run, cited: Sequence) -> pd.DataFrame:
    """Every headline claim: what this run alone gives beside the cited value, its interval and verdict, and whether it
    agrees: lies inside the 95 % interval in which one more seed is predicted. Where all n cited rows are alike, as of a
    share that is 1, they show no spread, which is not to say that there is none: the rule of three, 3 / n either way
    (Hanley and Lippman-Hand, JAMA 249, 1983)."""
    cited = [r for r in cited if r.manifest.get("run_id") != run.manifest.get("run_id", "")]
    mine, pool, pooled = Pool([run]), Pool(cited), card(paper, cited).set_index("claim")
    rows = []
    for c in (c for c in PAPERS[paper].CLAIMS if c.role == CLAIM and c.headline):
        row = pooled.loc[c.id]
        try:
            here = mine.of(c)
        except NotRun:
            rows.append((c.id, c.statement, row.published, np.nan, *row[SHOWN], "not run here"))
            continue
        try:
            _, low, high, _ = pool.predicted(c, mine.table(c).prompts)
            if low == high:
                low, high = low - 3 / row.n, high + 3 / row.n
            agrees = "agrees" if low <= here.value <= high else f"outside [{low:.3f}, {high:.3f}]"
        except (NotRun, ValueError):
            agrees = "nothing cited to compare with"
        rows.append((c.id, c.statement, row.published, here.value, *row[SHOWN], agrees))
    columns = ["claim", "statement", "published", "this run", "cited", "low", "high", "verdict", "one more seed"]
    return pd.DataFrame(rows, columns=columns)


class Agreement(NamedTuple):
    """How a run's headline claims lie to the cited ones: how many agree, which do not, how many could not be
    compared."""

    agree: int
    outside: list[str]
    open: int

    @property
    def compared(self) -> int:
        return self.agree + len(self.outside)


def agreement(table: pd.DataFrame) -> Agreement:
    """What the rows of `beside` come to."""
    told = table["one more seed"]
    agree, outside = int((told == "agrees").sum()), list(table.claim[told.str.startswith("outside")])
    return Agreement(agree, outside, len(table) - agree - len(outside))


def power(paper: str, runs: Sequence, seeds: int | None = None) -> pd.DataFrame:
    """Every headline claim: the effect that `seeds` seeds with the prompts of these runs detect with 80 % power at the
    strictest level of its family, beside the effect worth having. From pilots among `runs` if there are any.

    ValueError without pilots or evidence of two seeds.
    """
    pilots = [r for r in runs if r.manifest["seed"] >= results.PILOTS and r.manifest.get("status") == "done"]
    pool = Pool(pilots or results.evidence(runs, paper))
    seeds = len(presets.seeds(paper, "study")) if seeds is None else seeds
    if seeds < 2:
        raise ValueError(f"a study has two seeds at least, given {seeds}: one does not show how far seeds differ")
    heads = [c for c in PAPERS[paper].CLAIMS if c.role == CLAIM and c.headline]
    level = 1 - (1 - verdicts.LEVEL) / len(heads)
    rows = []
    for c in heads:
        try:
            table = pool.table(c)
        except NotRun:
            continue
        n, of = table.there.shape[1], table.z.var(ddof=1)
        if c.unit == "prompt":
            found = stats.detectable(stats.components(table), seeds=seeds, prompts=n, level=level)
        else:
            n = n if c.unit == "fixed" else round(n / len(pool.seeds) * seeds)
            found = stats.detectable(stats.Components(0.0, of, 0.0), seeds=1, prompts=n, level=level)
        rows.append((c.id, c.unit, seeds, n, found, np.nan if c.bound is not None else c.worth))
    return pd.DataFrame(rows, columns=["claim", "unit", "seeds", "n", "detectable", "smallest"])


def units(paper: str) -> dict[str, str]:
    """Datasets each row of which is a world of its own."""
    return {c.dataset: c.unit for c in PAPERS[paper].CLAIMS if c.unit == "world"}


def arms_table(paper: str, runs: Sequence) -> pd.DataFrame:
    """One row an arm: pooled mean [95 % interval] of each of the paper's metrics over prompts and seeds."""
    pool, worlds = Pool([r for r in runs if r.manifest["paper"] == paper]), units(paper)
    columns = PAPERS[paper].TABLE
    datasets = list(dict.fromkeys(d for d, _ in columns))
    rows = []
    for arm in dict.fromkeys(pool.items[pool.items.dataset.isin(datasets)].arm):
        row = {"arm": arm}
        for dataset, metric in columns:
            name = metric if len({d for d, m in columns if m == metric}) == 1 else f"{dataset}: {metric}"
            try:
                i = pool.level(dataset, arm, metric, unit=worlds.get(dataset, "prompt")).interval()
                row[name] = f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]"
            except NotRun:
                row[name] = ""
        for metric, digits in (("bits per weight", 2), ("codes changed", 4)):
            values = pool.metrics[(pool.metrics.arm == arm) & (pool.metrics.metric == metric)].value
            if (pool.metrics.metric == metric).any():
                row[metric] = f"{values.mean():.{digits}f}" if len(values) else ""
        rows.append(row)
    return pd.DataFrame(rows)


def sentence(paper: str, runs: Sequence) -> str:
    """The headline claims in words: how many ended with each verdict, and every one that fails, by name."""
    table = card(paper, runs)
    table = table[table.headline]
    said = ", ".join(f"{n} {v}" for v, n in table.verdict.value_counts().items())
    fails = table[table.verdict == verdicts.FAILS]
    tail = f" Fails: {'; '.join(fails.claim)}." if len(fails) else ""
    return (
        f"Of {len(table)} headline claims: {said} ({table.seeds.max()} seed(s), preset {table.preset.iloc[0]}).{tail}"
    )


def check() -> list[str]:
    """What is wrong with the claims as they are written: names twice, metrics nobody defines, arms and datasets that
    no study records, controls that are none, families that are empty or too large, numbers that are not there."""
    return [f"{paper}: {problem}" for paper, module in PAPERS.items() for problem in _problems(paper, module.CLAIMS)]


def _problems(paper: str, claims: Sequence[Claim]) -> list[str]:
    ids = [c.id for c in claims]
    out = [f"claim {i} stands twice" for i in sorted({i for i in ids if ids.count(i) > 1})]
    controls = {c.id for c in claims if c.role != CLAIM}
    recorded = set(presets.needed(paper, presets.resolve(paper, {"PRESET": "study", "SEED": 0})))
    for r in results.evidence(results.load_runs(paper), paper)[:1]:
        items = r.items()
        recorded |= set(zip(items.dataset, items.arm))
    datasets = {d for d, _ in recorded}
    for c in claims:
        if c.bound is None:
            try:
                metric_of(c.metric)
            except KeyError as error:
                out.append(f"claim {c.id}: {error.args[0]}")
        if c.dataset not in datasets:
            out.append(f"claim {c.id}: no study records dataset {c.dataset!r}")
        out += [f"claim {c.id}: no study records arm {a!r} on {c.dataset}" for a in c.arms
            if c.dataset in datasets and (c.dataset, a) not in recorded]  # fmt: skip
        out += [f"claim {c.id}: no control is called {k!r}" for k in c.controls if k not in controls]
        if c.role == CLAIM and c.headline and not c.controls and c.bound is None:
            out.append(f"claim {c.id} is a headline and names no control")
        if c.kind not in verdicts.KINDS or (c.kind in ("above", "below")) != (c.bound is not None):
            out.append(
                f"claim {c.id}: kind is one of {', '.join(verdicts.KINDS)}, and a bound goes with above and below"
            )
        try:
            published(paper, c)
        except ValueError as error:
            out.append(str(error))
    heads = [c for c in claims if c.role == CLAIM and c.headline]
    if not 1 <= len(heads) <= MOST_HEADLINES:
        out.append(f"{len(heads)} headline claims, a paper has 1 to {MOST_HEADLINES}")
    return out
