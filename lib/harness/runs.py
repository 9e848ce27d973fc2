"""A run being made: its folder, its manifest and its tables.

A run folder is results/runs/<paper>-<preset>-s<seed>-<date>-<commit7>. Everything is written as it is known, each file
whole or not at all, so a crash leaves what was computed and a manifest that says where it stopped. A cell that runs
again replaces what it recorded (`lib.harness.rows`). `finish` takes only a run whose stages all ended well and that has
rows of every arm its settings name.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import re
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from lib.harness import commit, fits, machine, paths, results, rows
from lib.harness.progress import peak_memory

NO_VALUE = float("nan")
_begun: list[Run] = []  # the run that this process begun last


def now() -> str:
    """The time as manifests have it: UTC, ISO."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def new_run_dir(paper: str, preset: str, seed: int) -> Path:
    """A new folder of its own, even for two runs that start at the same moment."""
    paths.check_writable(paths.RUNS)
    name = f"{paper}-{preset}-s{seed}-{dt.date.today():%Y%m%d}-{results.git_state()[0][:7]}"
    for k in range(1, 1000):
        folder = paths.RUNS / (name if k == 1 else f"{name}-{k}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"{name} exists a thousand times in {paths.RUNS}")


def start(cfg, notebook: str) -> Run:
    """Begin a run: in the folder that the runner names (PLUMBLINE_RUN_DIR), else in a new one, and choose what its
    settings leave to the machine. Says in one line if the run will not be cited, and why; a run that was begun before
    and not finished is marked abandoned."""
    fits.check_device(cfg)
    fits.settle(cfg)
    given = os.environ.get("PLUMBLINE_RUN_DIR", "").strip()
    folder = Path(given) if given else new_run_dir(cfg.paper, cfg.preset, cfg.seed)
    paths.check_writable(folder)
    while _begun:
        _begun.pop().abandon(f"another run was begun in the same process: {folder.name}")
    run = Run(folder, cfg, notebook)
    _begun.append(run)
    if why := results.uncited(run.manifest):
        print(f"This run is recorded but will not be cited: {'; '.join(why)}.", flush=True)
    return run


class Run:
    """One run being made."""

    def __init__(self, folder: Path, cfg, notebook: str):
        at, dirty = results.git_state()
        self.dir, self.began = folder, time.perf_counter()
        self._memory = 0.0  # the largest process that worked for it, GB
        self._groups = {kind: {} for kind in rows.KINDS}
        self._packed: dict = {}  # compressed items by group
        self._stages: dict[str, int] = {}  # the execution in which a stage's time was taken
        self._failed: dict[str, None] = {}  # stages that failed and have not ended well since, in order
        self._apart = False
        self.manifest = {
            "schema": 1, "run_id": folder.name, "paper": cfg.paper, "notebook": notebook, "preset": cfg.preset,
            "seed": cfg.seed,
            "status": "running", "settings": cfg.as_dict(), "overrides": list(cfg.overrides), "chosen": cfg.chosen(),
            "fingerprint": cfg.fingerprint(),
            "commit": at, "dirty": dirty, "changed files": _changed() if dirty else [],
            "start": now(),
            "stages": {},
            "versions": machine.versions(), "machine": machine.description(),
            "device": cfg.get("device", "cpu"), "dtype": cfg.get("dtype", ""), "threads": machine.threads(),
            "processes": int(os.environ.get("PLUMBLINE_RANKS", "0 of 1").split()[-1]),
            "process": machine.process(), "runner": os.environ.get("PLUMBLINE_RUNNER", ""),
        }  # fmt: skip
        self._save()

    # ---- stages

    @contextmanager
    def stage(self, name: str):
        """Time a stage; it is in the manifest when it ends, and as the place of failure when it raises, until it runs
        again and ends well."""
        self._reopen()
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self._failed[name] = None
            raise
        else:
            self._failed.pop(name, None)
        finally:
            at = rows.execution()
            before = self.manifest["stages"].get(name, 0.0) if self._stages.get(name) == at else 0.0
            self._stages[name] = at
            self.manifest["stages"][name] = round(before + time.perf_counter() - began, 2)
            self._save()

    def failed(self, stage: str) -> None:
        """Note a stage as failed that could not do so itself: its process has died."""
        self._failed[stage] = None
        self._save()

    # ---- rows

    def metric(self, exhibit, dataset, arm, metric, value, low=None, high=None, n=None) -> None:
        """One number; fractions, never percents. Raises ValueError if it is not finite, or if this execution of the
        cell has recorded it already."""
        m = self.manifest
        if not math.isfinite(float(value)):
            raise ValueError(f"{arm}, {metric} on {dataset} is {value}, which is no measurement")
        key = m["paper"], exhibit, dataset, arm, metric
        self._add(metrics=[(*key, float(value), low, high, n, m["seed"], m["preset"], m["device"], m["run_id"])])

    def items(self, dataset, arm, metric, ids: Sequence, values: Sequence, weights: Sequence | None = None) -> None:
        """Per-prompt scores, from which intervals are computed. A weight (tokens) makes the mean over prompts a
        rate. Raises ValueError for an id that this execution of the cell has recorded already."""
        weights = [NO_VALUE] * len(values) if weights is None else weights
        found = zip(ids, map(float, values), map(float, weights), strict=True)
        self._add(items=[(dataset, arm, metric, str(i), v, w) for i, v, w in found])

    def curve(self, arm: str, rows: Sequence[dict]) -> None:
        """Training curve of one arm, long format: arm, step, name, value."""
        self._add(curves=[(arm, r["step"], k, v) for r in rows for k, v in r.items() if k not in ("step", "seconds")])

    def samples(self, rows: Sequence[dict]) -> None:
        """Sample answers, one JSON object a line."""
        _write({self.dir / "samples.jsonl": "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()})

    def _add(self, **new: Sequence[tuple]) -> None:
        """All of these rows or, where one of them may not be recorded, none."""
        at = rows.execution()
        fresh = {kind: rows.joined(rows.KINDS[kind], self._groups[kind], found, at) for kind, found in new.items()}
        self._reopen()
        for kind, groups in fresh.items():
            self._groups[kind] |= groups
        if not self._apart:
            self._packed |= {
                key: rows.packed([row for _, row in g.values()]) for key, g in fresh.get("items", {}).items()
            }
            _write({self.dir / rows.KINDS[kind].file: self._content(kind) for kind, groups in fresh.items() if groups})

    def _content(self, kind: str) -> bytes:
        columns = rows.KINDS[kind].columns
        if kind == "items":
            return b"".join([rows.packed([columns]), *(self._packed[key] for key in self._groups[kind])])
        listed = pd.DataFrame(rows.listed(self._groups[kind]), columns=columns)
        return listed.to_csv(index=False, float_format="%.8g").encode()

    # ---- forked processes

    def apart(self) -> None:
        """In a forked process: from now on record for `notes` only and leave the folder to the process it belongs
        to."""
        self._groups, self._apart = {kind: {} for kind in rows.KINDS}, True
        self._stages, self._failed, self.manifest = {}, {}, self.manifest | {"stages": {}}

    def notes(self) -> dict:
        """What was recorded `apart`."""
        return {
            "rows": {kind: rows.listed(groups) for kind, groups in self._groups.items()},
            "stages": self.manifest["stages"],
            "failed": list(self._failed),
            "memory": peak_memory(),
        }

    def take(self, notes: dict) -> None:
        """Record what another process noted: all of it or, with a ValueError, none of its rows."""
        for name in notes["stages"]:
            self._stages[name] = rows.execution()
            self._failed.pop(name, None)
        self._failed |= dict.fromkeys(notes["failed"])
        self.manifest["stages"] |= notes["stages"]
        self._memory = max(self._memory, notes["memory"])
        self._save()
        self._add(**notes["rows"])

    # ---- its end

    def record(self) -> results.RunRecord:
        """This run as a reader sees it, so far."""
        return results.RunRecord(self.dir, self.manifest)

    def finish(self, **extra) -> None:
        """Mark the run done; `extra` (model, data, judge) goes into the manifest.

        Raises RuntimeError while a stage has failed, or an arm that the settings name has no rows, and says which.
        """
        lacks = [f"stage {name!r} failed" for name in self._failed]
        if absent := results.missing(self.record()):
            more = f" and {len(absent) - 12} more" if len(absent) > 12 else ""
            lacks.append(f"nothing is recorded of {'; '.join(absent[:12])}{more}")
        if lacks:
            raise RuntimeError(f"the run is not complete: {', '.join(lacks)}. Run those cells again, then this one.")
        self.manifest.pop("reason", None)
        self.manifest |= extra | {
            "files": {
                p.name: rows.digest(p.read_bytes()) for k in rows.KINDS.values() if (p := self.dir / k.file).exists()
            },
            "seconds": round(time.perf_counter() - self.began, 1),
            "peak memory GB": round(max(self._memory, peak_memory()), 2),
            "status": "done",
        }
        self._save()

    def abandon(self, reason: str) -> None:
        """Mark a run that nobody will finish, unless it is finished or another has taken its folder."""
        try:
            if self.manifest["status"] == "running" and (self.dir / "manifest.json").exists():
                self.manifest |= {"status": "abandoned", "reason": reason}
                self._save()
        except OSError:  # its folder cannot be written any more: it reads as abandoned when this process ends
            pass

    def _reopen(self) -> None:
        """Something happens after the end: the run is not done until it is finished again."""
        if self.manifest["status"] in ("done", "abandoned"):
            self.manifest["status"] = "running"
            self.manifest.pop("files", None)
            self._save()

    def _save(self) -> None:
        self.manifest.pop("failed stage", None)
        if self._failed:
            self.manifest["failed stage"] = "; ".join(self._failed)
        if not self._apart:
            _write_manifest(self.dir, self.manifest)


def reserve(folder: Path, cfg, notebook: str) -> None:
    """Say in a run's folder, before its notebook does, that this process runs it."""
    _write_manifest(folder, {
        "schema": 1, "run_id": folder.name, "paper": cfg.paper, "notebook": notebook, "preset": cfg.preset,
        "seed": cfg.seed, "status": "running", "start": now(),
        "process": machine.process(), "runner": str(os.getpid()),
    })  # fmt: skip


def fail(folder: Path, reason: str, cell: str = "", tail: str = "") -> None:
    """Mark a run failed, also one whose notebook never got to write a manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = _named(folder)
    _write_manifest(folder, manifest | {"status": "failed", "reason": reason, "failed cell": cell, "tail": tail})


def _named(folder: Path) -> dict:
    """What a run's folder says of it where its manifest cannot be read."""
    found = re.fullmatch(r"(\w+)-(\w+)-s(\d+)-.*", folder.name)
    known = {"paper": found[1], "preset": found[2], "seed": int(found[3])} if found else {}
    return {"schema": 1, "run_id": folder.name, "start": now(), **known}


def bury(runner: int, since: str, reason: str) -> list[Path]:
    """Mark failed what process `runner` of this machine began after `since` (UTC, ISO) and left running when it died,
    and stop its kernel: the folders."""
    here, found = machine.process()["host"], []
    for run in results.load_runs():
        m = run.manifest
        if m.get("status") not in ("running", "abandoned") or m.get("runner") != str(runner):
            continue
        if m.get("start", "") < since:  # of an earlier process that had the same number
            continue
        if m.get("process", {}).get("host") == here:
            machine.stop(m["process"])
            fail(run.dir, reason)
            found.append(run.dir)
    return found


def _changed() -> list[str]:
    try:
        return commit.changed()[:50]
    except Exception:  # outside of git there is no telling
        return []


def _write_manifest(folder: Path, manifest: dict) -> None:
    _write({folder / "manifest.json": (json.dumps(manifest, indent=1, default=str) + "\n").encode()})


def _write(files: dict[Path, bytes]) -> None:
    """Each file whole or not at all, and all of them before any is replaced."""
    waiting = []
    for path, content in files.items():
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        waiting.append((temporary, path))
    for temporary, path in waiting:
        os.replace(temporary, path)
