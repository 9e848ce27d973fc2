"""Fresh runs beside the committed evidence: whether the headline claims agree, and which numbers moved.

Committed is what the last commit holds under results/runs. Fresh are the finished runs of a preset, the newest a paper
and seed, in a folder that is named, or else those under results/runs that are not committed; a run with a setting
overridden is another experiment and left out. A headline is read by `claims.beside`. Numbers are set beside those of
the committed run of the same paper, seed and settings, on whatever device, by `comparison.compare`; one has moved when
it differs by more than the smallest difference worth having of its metric, or by more than RELATIVE of the committed
value where no claim is made of that metric.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lib import stats
from lib.harness import board, claims, commit, paths, results
from lib.harness.claims.claim import metric_of
from lib.harness.comparison import Comparison, compare
from lib.harness.presets.base import PRESETS, nearest
from lib.harness.results import RunRecord

RELATIVE = 0.02
SHOWN = 12  # numbers that moved, of one run
MOVED = ["dataset", "arm", "metric", "a", "b", "b - a", "low", "high", "tolerance"]
RULE = (
    "A number moved when it differs by more than the smallest difference worth having of its metric, or by more than "
    f"{100 * RELATIVE:.0f} % of the committed one where no claim is made of that metric. a: committed, b: fresh; low "
    "and high cover prompts only."
)


class Drift(NamedTuple):
    """One fresh run: `claims.beside`; the committed run of its seed and settings beside it, or why there is none."""

    run: RunRecord
    headlines: pd.DataFrame
    twin: Comparison | str

    def moved(self) -> pd.DataFrame:
        """The numbers beyond their tolerance (MOVED), the farthest first."""
        if isinstance(self.twin, str):
            return pd.DataFrame(columns=MOVED)
        table = self.twin.differences
        table = table.assign(tolerance=[tolerance(m, a) for m, a in zip(table.metric, table.a)])
        table = table[table["b - a"].abs() > table.tolerance]
        far = table["b - a"].abs() / table.tolerance.clip(lower=1e-12)
        return table.loc[far.sort_values(ascending=False).index, MOVED]


def tolerance(metric: str, committed: float) -> float:
    """By how much a number may differ from the committed one."""
    try:
        return metric_of(metric).smallest
    except KeyError:
        return RELATIVE * abs(committed)


def check(which: Sequence[str], preset: str, folder: Path | None = None) -> list[Drift]:
    """Every fresh run of these papers and this preset beside the committed ones. ValueError, in one sentence, for a
    paper without headline claims, a preset that measures nothing, and where nothing is fresh or committed."""
    for paper in which:
        if paper not in claims.PAPERS:
            near = nearest(paper, claims.PAPERS)
            raise ValueError(f"drift is told for {', '.join(claims.PAPERS)} or all, given {paper!r}{near}")
    measuring = [name for name in PRESETS if name != "smoke"]
    if preset not in measuring:
        raise ValueError(f"drift is told for the presets {', '.join(measuring)}, given {preset!r}")
    committed = _committed()
    if not (known := results.evidence(committed)):
        raise ValueError(f"no run under {paths.RUNS} is committed and cited: there is nothing to compare with")
    out = []
    for run in _fresh(which, preset, folder, committed):
        mine = [r for r in known if r.manifest["paper"] == run.manifest["paper"]]
        out.append(Drift(run, claims.beside(run.manifest["paper"], run, mine), _twin(run, committed)))
    return out


def _committed() -> list[RunRecord]:
    names = commit.holds(paths.RUNS)
    return [r for r in results.load_runs() if r.dir.name in names]


def _fresh(which: Sequence[str], preset: str, folder: Path | None, committed: Sequence[RunRecord]) -> list[RunRecord]:
    """The newest finished run of each paper and seed; ValueError if there is none."""
    where = paths.RUNS if folder is None else folder.expanduser()
    if not where.is_dir():
        raise ValueError(f"there is no folder {where}: name one that holds runs")
    known = {r.dir.name for r in committed} if folder is None else set()
    there = [r for r in results.load_runs(under=where) if r.dir.name not in known]
    newest = {
        (which.index(r.manifest["paper"]), r.manifest["seed"]): r
        for r in there
        if r.manifest.get("paper") in which and r.manifest.get("preset") == preset and _whole(r)
    }
    if newest:
        return [newest[k] for k in sorted(newest)]
    other = sorted({f"{r.manifest.get('paper')} at {r.manifest.get('preset')}" for r in there})
    has = f"it holds runs of {', '.join(other)}" if other else "it holds no run"
    if folder is None:
        has = "those that are committed are read with --runs results/runs" + (f"; besides them {has}" if other else "")
    raise ValueError(
        f"{where} has no {'fresh ' if folder is None else ''}finished run, without a setting overridden, of "
        f"{', '.join(which)} at preset {preset}: {has}"
    )


def _whole(run: RunRecord) -> bool:
    """Whether a run is done and its preset's own, wherever it was computed."""
    m = run.manifest
    return m.get("status") == "done" and not [n for n in m.get("overrides", ()) if n not in results.HARMLESS]


def _twin(run: RunRecord, committed: Sequence[RunRecord]) -> Comparison | str:
    """Beside the newest committed run of the same paper, seed and settings, another than this one."""
    what = lambda m: (m.get("paper"), m.get("seed"), results.used(m.get("settings", {})))  # noqa: E731
    mine = [r for r in committed if _whole(r) and what(r.manifest) == what(run.manifest)]
    mine = [r for r in mine if r.manifest.get("run_id") != run.manifest.get("run_id")]
    if not mine:
        return "No other committed run has this seed and these settings: single numbers cannot be compared."
    try:
        return compare(mine[-1], run)
    except ValueError as error:
        return f"Single numbers cannot be compared: {error}."


# ---- telling


def agrees(found: Sequence[Drift]) -> bool:
    """Whether headlines were compared and none lies outside."""
    got = [claims.agreement(d.headlines) for d in found]
    return any(g.compared for g in got) and not any(g.outside for g in got)


def text(found: Sequence[Drift], *, markdown: bool = False) -> str:
    """What is printed, or written as a summary of a workflow."""
    parts = [_sum(found), *(part for d in found for part in _one(d, markdown))]
    parts += [RULE] if any(len(d.moved()) for d in found) else []
    return "\n\n".join(p if markdown or "\n" in p else textwrap.fill(p, board.WIDTH) for p in parts)


def _sum(found: Sequence[Drift]) -> str:
    got = [(d.run.manifest, claims.agreement(d.headlines)) for d in found]
    compared, left = sum(g.compared for _, g in got), sum(g.open for _, g in got)
    if not compared:
        return "No headline claim could be compared: none was run here, or none has enough committed runs."
    outside = [f"{m['paper']} {claim} (seed {m['seed']})" for m, g in got for claim in g.outside]
    said = f"Of {compared} headline claims compared, {compared - len(outside)} lie where one more seed is predicted"
    said += f"; outside: {', '.join(outside)}" if outside else ""
    said += f". About {(1 - stats.LEVEL) * compared:.1f} would lie outside if nothing had changed."
    return said + (f" {left} could not be compared." if left else "")


def _one(d: Drift, markdown: bool) -> list[str]:
    m = d.run.manifest
    name, why = f"{m['paper']}, seed {m['seed']}, preset {m['preset']}", results.uncited(m)
    place = f"{d.run.dir.name}, on {m.get('device', 'cpu')}" + (f" (not cited: {'; '.join(why)})" if why else "")
    out = [f"### {name}", f"{place}:"] if markdown else [f"{name}: {place}"]
    out.append(_headlines(d.headlines) if markdown else board.beside(d.headlines))
    if isinstance(d.twin, str):
        return [*out, d.twin]
    moved = d.moved()
    differ = ", ".join(f"{r.setting} {r.a} and {r.b}" for r in d.twin.settings.itertuples())
    out.append(
        f"Of {len(d.twin.differences)} numbers that {d.twin.names[0]} has too, of the same seed and settings, "
        f"{len(moved)} moved ({f'what differs: {differ}' if differ else 'of one commit, device and versions'})."
    )
    if len(moved):
        rows = moved.head(SHOWN).map(lambda x: f"{x:.4g}" if isinstance(x, float) else x)
        out.append(board.plain_table(rows) if markdown else rows.to_markdown(index=False, disable_numparse=True))
    if len(moved) > SHOWN:
        out.append(f"... and {len(moved) - SHOWN} more: plumbline compare {' '.join(d.twin.names)}")
    return out


def _headlines(table: pd.DataFrame) -> str:
    return board.plain_table(
        pd.DataFrame(
            {
                "claim": [f"**{r.claim}** {r.statement}" for r in table.itertuples()],
                "this run": ["not run" if x != x else f"{x:.3f}" for x in table["this run"]],
                "cited": [board.number(r) for r in table.rename(columns={"cited": "ours"}).itertuples()],
                "verdict": list(table.verdict),
                "one more seed": [x if x == "agrees" else f"**{x}**" for x in table["one more seed"]],
            }
        )  # fmt: skip
    )
