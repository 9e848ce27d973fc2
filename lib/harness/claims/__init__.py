"""Claims of each paper as rules, written before the runs they judge; verdicts are computed from pooled per-prompt
scores.

Verdicts: holds, direction holds, not resolved, fails, not run (and smoke, which is no evidence). Fewer than three seeds
are never more than not resolved, except where nothing depends on a seed (`trained=False`). One module a paper: its
CLAIMS, and TABLE, the columns of its table of arms.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lib.harness.claims import attribute_control, lab, mrpo, qdpo, sea
from lib.harness.claims.rules import NotRun, Pool

MIN_SEEDS = 3
COLUMNS = [
    "claim",
    "paper",
    "statement",
    "source",
    "published",
    "ours",
    "low",
    "high",
    "n",
    "seeds",
    "preset",
    "verdict",
]
PAPERS = {"qdpo": qdpo, "lab": lab, "attribute_control": attribute_control, "mrpo": mrpo, "sea": sea}


def card(paper: str, runs: Sequence) -> pd.DataFrame:
    """One row a claim, columns as results/tables/claims.csv; `runs` are of one paper and one preset."""
    pool = Pool(runs)
    preset = runs[0].manifest["preset"] if runs else ""
    rows = []
    for c in PAPERS[paper].CLAIMS:
        pool.used = set(pool.seeds)
        try:
            o = c.rule(pool) if runs else None
        except NotRun:
            o = None
        seeds = 0 if o is None else len(pool.used) if c.trained else 1
        verdict = "not run" if o is None else "smoke" if preset == "smoke" else o.verdict
        if o is not None and preset != "smoke" and c.trained and seeds < MIN_SEEDS:
            verdict = "not resolved"
        nan = float("nan")
        numbers = (o.value, o.low, o.high, o.n) if o else (nan, nan, nan, 0)
        rows.append((c.id, paper, c.statement, c.source, c.published, *numbers, seeds, preset, verdict))
    return pd.DataFrame(rows, columns=COLUMNS)


def evaluate(runs: Sequence) -> pd.DataFrame:
    """All papers' claims from the cited runs of preset `small`; a paper without runs reads "not run"."""
    cards = [card(p, [r for r in runs if r.manifest["paper"] == p and r.manifest["preset"] == "small"]) for p in PAPERS]
    return pd.concat(cards, ignore_index=True)


def arms_table(paper: str, runs: Sequence) -> pd.DataFrame:
    """One row an arm: pooled mean [95 % interval] of each of the paper's metrics over prompts and seeds."""
    pool = Pool([r for r in runs if r.manifest["paper"] == paper])
    columns = PAPERS[paper].TABLE
    datasets = list(dict.fromkeys(d for d, _ in columns))
    rows = []
    for arm in dict.fromkeys(pool.items[pool.items.dataset.isin(datasets)].arm):
        row = {"arm": arm}
        for dataset, metric in columns:
            name = metric if len({d for d, m in columns if m == metric}) == 1 else f"{dataset}: {metric}"
            try:
                i = pool.rate(dataset, arm, metric)
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
    """The card in words: how many claims ended with each verdict, and every one that fails, by name."""
    table = card(paper, runs)
    counts = table.verdict.value_counts()
    said = ", ".join(f"{n} {v}" for v, n in counts.items())
    fails = table[table.verdict == "fails"]
    tail = f" Fails: {'; '.join(fails.claim)}." if len(fails) else ""
    return f"Of {len(table)} rows: {said} ({table.seeds.max()} seed(s), preset {table.preset.iloc[0]}).{tail}"
