"""Runs as a reader sees them: load, tell which are evidence, and the numbers a paper published.

A run folder is results/runs/<paper>-<preset>-s<seed>-<date>-<commit7>; `lib.harness.runs` makes it. A run is *cited*
(counted in the index) if it is done and complete, of any preset but smoke, from committed code, with no setting
overridden and no pilot's seed; the newest per paper, preset and seed. Verdicts are computed from `evidence`: the cited
runs of preset study.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from lib.harness import assets, machine, paths, presets, progress, rows
from lib.harness.commit import git_state
from lib.harness.rows import ITEM_COLUMNS, METRIC_COLUMNS

__all__ = ["ITEM_COLUMNS", "METRIC_COLUMNS", "RunRecord", "cited", "data_files", "evidence", "git_state",
           "load_runs", "missing", "published", "uncited", "used"]  # fmt: skip

PILOTS = 200  # seeds from here up try things out and are never cited
HARMLESS = ("device", "keep", "at_once", "per_minute", "prices")  # settings that make no other experiment
MANIFEST: dict[str, type | tuple] = {
    "status": str,
    "paper": str,
    "preset": str,
    "seed": int,
    "start": str,
}  # what every run has
DONE: dict[str, type | tuple] = {  # and one that is done
    "run_id": str, "notebook": str, "settings": dict, "overrides": list, "fingerprint": str, "commit": str,
    "dirty": bool, "device": str, "dtype": str, "machine": dict, "seconds": (int, float),
    "peak memory GB": (int, float),
}  # fmt: skip
STUDY_SINCE = "2026-11-29"  # runs of preset small that began before were made at what is now preset study


def __getattr__(name: str):
    """What a notebook needs to begin a run or to set two beside each other, so that it imports one module for all:
    `results.start`, `results.compare`."""
    if name in ("Run", "start", "new_run_dir", "fail"):
        return getattr(importlib.import_module("lib.harness.runs"), name)
    if name in ("Comparison", "compare"):
        return getattr(importlib.import_module("lib.harness.comparison"), name)
    raise AttributeError(f"lib.harness.results has no {name!r}")


class RunRecord:
    """One run on disk. A run that says it is running, but whose process is dead, reads as abandoned."""

    def __init__(self, folder: Path, manifest: dict | None = None):
        self.dir = folder
        self.manifest = manifest or _manifest(folder)
        process = self.manifest.get("process")
        if process and self.manifest.get("status") == "running" and machine.alive(process) is False:
            reason = f"its process {process['pid']} ended without finishing it"
            self.manifest = self.manifest | {"status": "abandoned", "reason": reason}

    def metrics(self) -> pd.DataFrame:
        """One row a number; empty where nothing was recorded."""
        return self._table("metrics")

    def curve(self) -> pd.DataFrame:
        """Training curves: arm, step, name, value."""
        return self._table("curves")

    def items(self) -> pd.DataFrame:
        """Per-prompt scores; empty where none were recorded."""
        return self._table("items")

    def _table(self, kind: str) -> pd.DataFrame:
        file = rows.KINDS[kind].file
        return rows.table(rows.KINDS[kind], self.dir / file, self.manifest.get("files", {}).get(file))


def _manifest(folder: Path) -> dict:
    """A run's manifest; ValueError, in one sentence, where it is cut short or lacks what readers ask of it."""
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except RecursionError:
        found = None
    except ValueError as error:  # also of what is no UTF-8
        raise ValueError(f"{folder.name}/manifest.json is no JSON: {error}") from None
    wanted = MANIFEST | (DONE if isinstance(found, dict) and found.get("status") == "done" else {})
    if not isinstance(found, dict) or (bad := [k for k, kind in wanted.items() if not _is(found.get(k), kind)]):
        lacks = f": it lacks {', '.join(bad)}" if isinstance(found, dict) else ""
        raise ValueError(f"{folder.name}/manifest.json is no manifest{lacks}")
    return found


def _is(value: object, kind: type | tuple) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def load_runs(paper: str | None = None, preset: str | None = None, under: Path | None = None) -> list[RunRecord]:
    """All runs (of another folder than results/runs: `under`), oldest first, whatever became of them; folders without
    a readable manifest are skipped and named."""
    runs, skipped = [], []
    for folder in sorted(p for p in (under or paths.RUNS).glob("*") if p.is_dir()):
        try:
            runs.append(RunRecord(folder))
        except (OSError, ValueError):
            skipped.append(folder.name)
    if skipped:
        progress.announce(f"skipped, for want of a readable manifest.json: {', '.join(skipped)}")
    keep = [r for r in runs if paper in (None, r.manifest.get("paper")) and preset in (None, r.manifest.get("preset"))]
    return sorted(keep, key=lambda r: r.manifest.get("start", ""))


def missing(run: RunRecord) -> list[str]:
    """What the settings of a run ask for and it has no rows of, as "arm (dataset)", or which of its tables is damaged;
    empty for a complete run."""
    files = run.manifest.get("files", {})
    stamps = ((f, s.st_mtime_ns, s.st_size) for f in (run.dir / k.file for k in rows.KINDS.values())
        if f.exists() and (s := f.stat()))  # fmt: skip
    there, damaged = _measured(run.dir, tuple(sorted(files.items())), tuple(stamps))
    needed = presets.needed(run.manifest["paper"], run.manifest["settings"])
    return damaged or [f"{arm} ({dataset})" for dataset, arm in needed if (dataset, arm) not in there]


@lru_cache(maxsize=256)
def _measured(folder: Path, files: tuple, stamps: tuple) -> tuple[frozenset[tuple[str, str]], list[str]]:
    """(dataset, arm) of the per-prompt scores, and what is wrong with a run's tables, told once."""
    if damaged := rows.damaged(folder, dict(files)):
        progress.announce(f"not counted: {'; '.join(damaged)}")
        return frozenset(), damaged
    items = rows.table(rows.KINDS["items"], folder / rows.KINDS["items"].file)
    return frozenset(zip(items.dataset, items.arm)), []


def is_evidence(manifest: dict) -> bool:
    """Whether pages and verdicts are computed from such a run: preset study; small as it was before there was a study,
    and small of the timings, which have none."""
    preset, old = manifest.get("preset"), manifest.get("start", "") < STUDY_SINCE
    return preset == "study" or (preset == "small" and (old or manifest.get("paper") == "speed"))


def evidence(runs: Sequence[RunRecord], paper: str | None = None) -> list[RunRecord]:
    """The cited runs, of one paper or of all, that verdicts are computed from; of a paper's study alone as soon as
    there is one."""
    mine = [r for r in cited(runs) if paper in (None, r.manifest["paper"]) and is_evidence(r.manifest)]
    studied = {r.manifest["paper"] for r in mine if r.manifest["preset"] == "study"}
    return [r for r in mine if r.manifest["preset"] == "study" or r.manifest["paper"] not in studied]


def uncited(manifest: dict) -> list[str]:
    """Why a run is no evidence even when it is done and complete: its preset, its code, its settings."""
    why = ["preset smoke measures nothing"] if manifest.get("preset") == "smoke" else []
    if manifest.get("dirty", True):
        files = manifest.get("changed files") or ["code or data"]
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        one = len(files) == 1 and files != ["code or data"]
        why.append(f"{', '.join(files[:5])}{more} differ{'s' if one else ''} from the last commit")
    if manifest.get("seed", 0) >= PILOTS:
        why.append(f"seeds from {PILOTS} up are pilots")
    if given := [name for name in manifest.get("overrides", ()) if name not in HARMLESS]:
        why.append(f"{', '.join(name.upper() for name in given)} {'is' if len(given) == 1 else 'are'} overridden")
    return why


def cited(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that count as evidence, sorted by paper, preset and seed: of each the newest, and only runs that share
    the settings of the newest run of their paper and preset, so that no table mixes two experiments."""
    newest, settings = {}, {}
    for r in sorted(runs, key=lambda r: r.manifest.get("start", "")):
        m = r.manifest
        if m.get("status") == "done" and not m.get("failed stage") and not uncited(m) and not missing(r):
            where = machine.kind(m) if m["paper"] == "speed" else ""  # timings are of a kind of machine
            of = m["paper"], m["preset"], is_evidence(m), where
            newest[*of, m["seed"]] = r
            settings[of] = used(m["settings"])
    return [newest[k] for k in sorted(newest) if used(newest[k].manifest["settings"]) == settings[k[:4]]]


def used(settings: dict) -> dict:
    """The settings that make an experiment: not HARMLESS ones, not what can only stop a run, and not one that came
    later and is "none"."""
    return {k: v for k, v in settings.items() if v != "none" and k not in (*HARMLESS, "bad_rows")}


def data_files(*names: str) -> list[dict]:
    """Name, sha256 and rows of files under data/ (or anywhere, by path)."""
    out = []
    for name in names:
        path = paths.DATA / name
        out.append({"file": path.name, "sha256": assets.file_sha256(path), "rows": len(path.read_text().splitlines())})
    return out


def published(paper: str) -> pd.DataFrame:
    """Numbers of a paper that were seen in a source; empty for a paper of which none was."""
    path = paths.PAPER / f"{paper}.csv"
    columns = ["exhibit", "dataset", "arm", "metric", "value", "unit", "source", "seen"]
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    if list(table.columns) != columns:
        raise ValueError(f"{path.name} needs the columns {', '.join(columns)}, it has {', '.join(table.columns)}")
    return table[table.seen == "yes"]
