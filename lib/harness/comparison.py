"""Two runs of a paper beside each other: the settings that differ, and paired differences with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from lib import stats
from lib.harness.results import RunRecord

CELL = ["dataset", "arm", "metric"]
COLUMNS = [*CELL, "a", "b", "b - a", "low", "high", "n"]
ABOUT = ("preset", "seed", "commit", "device", "dtype")  # of a manifest, beside its settings


class Comparison(NamedTuple):
    """settings: setting, a, b, for those that differ; differences: COLUMNS, a row a cell that both runs measured on
    the same prompts; notes: what else must be known to read them."""

    names: tuple[str, str]
    settings: pd.DataFrame
    differences: pd.DataFrame
    notes: list[str]

    def apart(self) -> pd.DataFrame:
        """The cells whose interval excludes 0, the clearest first."""
        d = self.differences
        found = d[(d.low > 0) | (d.high < 0)]
        clear = (found["b - a"].abs() / (found.high - found.low).clip(lower=1e-12)).sort_values(ascending=False)
        return found.loc[clear.index]

    def text(self, *, whole: bool = False) -> str:
        """What is printed: settings, differences (all of them if `whole`, else the clear ones), notes."""
        table = lambda t: t.to_markdown(index=False, floatfmt=".4g")  # noqa: E731
        apart = self.apart()
        level, m = stats.LEVEL, len(self.differences)
        said = f"{len(apart)} of {m} intervals exclude 0; about {(1 - level) * m:.0f} would if nothing differed."
        shown = self.differences if whole else apart
        parts = [
            f"a: {self.names[0]}\nb: {self.names[1]}",
            table(self.settings) if len(self.settings) else "The same settings.",
            table(shown) if len(shown) else "No interval excludes 0.",
            " ".join([said, *self.notes]),
        ]
        return "\n\n".join(parts)


def compare(a: RunRecord, b: RunRecord) -> Comparison:
    """b minus a of every score that both measured on the same prompts, with intervals at stats.LEVEL over prompts.

    ValueError, in one sentence, for runs that cannot be compared: of two papers, not done, one and the same, or without
    a score in common.
    """
    names = a.dir.name, b.dir.name
    if a.dir.resolve() == b.dir.resolve():
        raise ValueError(f"{names[0]} would be compared with itself: name two runs")
    papers = [r.manifest.get("paper") for r in (a, b)]
    if papers[0] != papers[1]:
        raise ValueError(f"{names[0]} is of {papers[0]} and {names[1]} of {papers[1]}: runs of one paper are compared")
    for run in (a, b):
        if run.manifest.get("status") != "done":
            raise ValueError(
                f"{run.dir.name} is {run.manifest.get('status')}, and only runs that are done are compared"
            )
    differences, some = _differences(a.items(), b.items())
    if not len(differences):
        raise ValueError(f"{names[0]} and {names[1]} have no score of the same arm on the same prompts")
    return Comparison(names, _settings(a.manifest, b.manifest), differences, [*_notes(a.manifest, b.manifest), *some])


def _settings(a: dict, b: dict) -> pd.DataFrame:
    """What differs: of the settings, of ABOUT, and the versions of packages."""
    sides = [
        {k: m.get(k) for k in ABOUT} | m.get("settings", {}) | {f"{k} (version)": v for k, v in _versions(m).items()}
        for m in (a, b)
    ]
    rows = [(k, *(s.get(k, "-") for s in sides)) for k in dict.fromkeys([*sides[0], *sides[1]])]
    return pd.DataFrame([r for r in rows if r[1] != r[2]], columns=["setting", "a", "b"], dtype=object)


def _versions(manifest: dict) -> dict:
    found = manifest.get("versions", {})
    return found if isinstance(found, dict) else {}


def _differences(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A row a cell, and a note where the two runs share some of a cell's prompts only."""
    both = a.merge(b, on=[*CELL, "prompt_id"], suffixes=("_a", "_b"))
    both = both[both.value_a.notna() & both.value_b.notna()]
    most = max((len(x.drop_duplicates([*CELL, "prompt_id"])) for x in (a, b)), default=0)
    rows = [(*cell, *_paired(part)) for cell, part in both.groupby(CELL, sort=False)]
    left = most - len(both)
    some = [f"{left} of {most} scores have no partner in the other run and are left out."] if left else []
    return pd.DataFrame(rows, columns=COLUMNS), some


def _paired(part: pd.DataFrame) -> tuple:
    """(a, b, b - a, low, high, n) of a cell; a weight makes the mean over prompts a rate. One prompt has no
    interval."""
    weight = {s: part[f"weight_{s}"].fillna(1.0).to_numpy() for s in "ab"}
    total = {s: part[f"value_{s}"].to_numpy() * weight[s] for s in "ab"}
    a, b = (float(total[s].sum() / weight[s].sum()) for s in "ab")
    n = part.prompt_id.nunique()
    if n < 2:
        return a, b, b - a, np.nan, np.nan, n
    found = stats.one_way_difference(total["b"], weight["b"], total["a"], weight["a"], part.prompt_id.to_numpy())
    interval = found.interval()
    return a, b, interval.value, interval.low, interval.high, n


def _notes(a: dict, b: dict) -> list[str]:
    notes = ["Intervals cover prompts only."]
    if a.get("seed") != b.get("seed"):
        notes = ["The seeds differ: what a seed adds is in the differences, and not in the intervals."]
    if a.get("commit") != b.get("commit"):
        notes.append("The code differs.")
    sums = [{f["file"]: f["sha256"] for f in m.get("data") or ()} for m in (a, b)]
    if changed := [name for name in sums[0] if name in sums[1] and sums[0][name] != sums[1][name]]:
        notes.append(f"{', '.join(changed)} had other content.")
    if a.get("model", {}).get("sha256") != b.get("model", {}).get("sha256"):
        notes.append("The models had other weights.")
    return notes
