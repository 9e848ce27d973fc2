"""What a run leaves behind: manifest, metrics, per-prompt items, curves, samples; and the index built from them.

A run folder is results/runs/<paper>-<preset>-s<seed>-<date>-<commit7>. Everything is written atomically as it is known,
so a crash leaves what was computed and a manifest that says where it stopped. A run is *cited* (counted in the index)
if it is done, of preset small or paper, from committed code, and with no setting overridden; the newest per paper,
preset and seed.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pandas as pd

from lib.harness import assets, cache, paths
from lib.harness.progress import peak_memory

METRIC_COLUMNS = [
    "paper",
    "exhibit",
    "dataset",
    "arm",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "seed",
    "preset",
    "device",
    "run_id",
]
ITEM_COLUMNS = ["dataset", "arm", "metric", "prompt_id", "value", "weight"]
PACKAGES = ["torch", "transformers", "peft", "bitsandbytes", "lm-eval", "papermill", "numpy", "pandas"]
CODE = ["lib", "notebooks", "data", "pyproject.toml"]  # what a run's numbers can depend on; results/ is not among them
NO_VALUE = float("nan")


def _packed(rows: Sequence[tuple]) -> bytes:
    """Rows of items as one member of a gzip file: members follow each other, so that what is there is not compressed
    again."""
    return gzip.compress(pd.DataFrame(rows).to_csv(index=False, header=False, float_format="%.6g").encode(), mtime=0)


def git_state() -> tuple[str, bool]:
    """(commit, whether code or data differ from it); ("unknown", True) outside a git checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit, bool(_git("status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=paths.ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def new_run_dir(paper: str, preset: str, seed: int) -> Path:
    """A new folder of its own, even for two runs that start at the same moment."""
    paths.check_writable(paths.RUNS)
    name = f"{paper}-{preset}-s{seed}-{dt.date.today():%Y%m%d}-{git_state()[0][:7]}"
    for k in range(1, 1000):
        folder = paths.RUNS / (name if k == 1 else f"{name}-{k}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"{name} exists a thousand times in {paths.RUNS}")


def start(cfg, notebook: str) -> Run:
    """Begin a run: in the folder that the runner names (PLUMBLINE_RUN_DIR), else in a new one."""
    given = os.environ.get("PLUMBLINE_RUN_DIR", "").strip()
    folder = Path(given) if given else new_run_dir(cfg.paper, cfg.preset, cfg.seed)
    paths.check_writable(folder)
    return Run(folder, cfg, notebook)


class Run:
    """One run being made."""

    def __init__(self, folder: Path, cfg, notebook: str):
        commit, dirty = git_state()
        self.dir, self.began, self._memory = (
            folder,
            time.perf_counter(),
            0.0,
        )  # the largest process that worked for it, GB
        self._metrics, self._items, self._curves, self._apart = [], _packed([ITEM_COLUMNS]), [], False
        self.manifest = {
            "schema": 1, "run_id": folder.name, "paper": cfg.paper, "notebook": notebook, "preset": cfg.preset,
            "seed": cfg.seed,
            "status": "running", "settings": cfg.as_dict(), "overrides": list(cfg.overrides),
            "fingerprint": cfg.fingerprint(),
            "commit": commit, "dirty": dirty, "start": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "stages": {},
            "versions": {p: _version(p) for p in PACKAGES} | {"python": platform.python_version()},
            "machine": {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()},
            "device": cfg.get("device", "cpu"), "dtype": cfg.get("dtype", ""), "threads": _threads(),
        }  # fmt: skip
        self._save()

    @contextmanager
    def stage(self, name: str):
        """Time a stage; it is in the manifest when it ends, and as the place of failure when it raises."""
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self.manifest["failed stage"] = name
            raise
        finally:
            seconds = self.manifest["stages"].get(name, 0.0) + time.perf_counter() - began
            self.manifest["stages"][name] = round(seconds, 2)
            self._save()

    def metric(self, exhibit, dataset, arm, metric, value, low=None, high=None, n=None) -> None:
        """One number; fractions, never percents. Raises ValueError if it is not finite or its key is already there."""
        m = self.manifest
        if not math.isfinite(float(value)):
            raise ValueError(f"{arm}, {metric} on {dataset} is {value}, which is no measurement")
        row = (
            m["paper"],
            exhibit,
            dataset,
            arm,
            metric,
            float(value),
            low,
            high,
            n,
            m["seed"],
            m["preset"],
            m["device"],
            m["run_id"],
        )
        if any(r[1:5] == row[1:5] for r in self._metrics):
            raise ValueError(f"{arm}, {metric} on {dataset} ({exhibit}) is already recorded")
        self._metrics.append(row)
        self._write_tables("metrics")

    def items(self, dataset, arm, metric, ids: Sequence, values: Sequence, weights: Sequence | None = None) -> None:
        """Per-prompt scores, from which intervals are computed. A weight (tokens) makes the mean over prompts a
        rate."""
        weights = [NO_VALUE] * len(values) if weights is None else weights
        rows = zip(ids, map(float, values), map(float, weights), strict=True)
        self._items += _packed([(dataset, arm, metric, str(i), v, w) for i, v, w in rows])
        self._write_tables("items")

    def curve(self, arm: str, rows: Sequence[dict]) -> None:
        """Training curve of one arm, long format: arm, step, name, value."""
        self._curves += [(arm, r["step"], k, v) for r in rows for k, v in r.items() if k not in ("step", "seconds")]
        self._write_tables("curve")

    def samples(self, rows: Sequence[dict]) -> None:
        """Sample answers, one JSON object a line."""
        _write(self.dir / "samples.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())

    def apart(self) -> None:
        """In a forked process: from now on record for `notes` only and leave the folder to the process it belongs
        to."""
        self._metrics, self._items, self._curves, self._apart = [], b"", [], True
        self.manifest = self.manifest | {"stages": {}}

    def notes(self) -> dict:
        """What was recorded `apart`."""
        marks = {k: self.manifest[k] for k in ("stages", "failed stage") if k in self.manifest}
        return {
            "metrics": self._metrics,
            "items": self._items,
            "curves": self._curves,
            "marks": marks,
            "memory": peak_memory(),
        }

    def take(self, notes: dict) -> None:
        """Record what another process noted. Raises ValueError, and records nothing, if one of its metrics is already
        there."""
        known = {r[1:5] for r in self._metrics}
        if twice := [r[1:5] for r in notes["metrics"] if r[1:5] in known]:
            raise ValueError(f"already recorded: {twice[0]}")
        self._metrics += notes["metrics"]
        self._items += notes["items"]
        self._curves += notes["curves"]
        self._write_tables(
            *(
                name
                for name, new in (("metrics", notes["metrics"]), ("items", notes["items"]), ("curve", notes["curves"]))
                if new
            )
        )
        stages = self.manifest["stages"] | notes["marks"].pop("stages")
        self.manifest |= notes["marks"] | {"stages": stages}
        self._memory = max(self._memory, notes["memory"])
        self._save()

    def _write_tables(self, *names: str) -> None:
        if self._apart:
            return
        if "metrics" in names:
            _write_csv(self.dir / "metrics.csv", pd.DataFrame(self._metrics, columns=METRIC_COLUMNS))
        if "items" in names:
            _write(self.dir / "items.csv.gz", self._items)
        if "curve" in names:
            _write_csv(self.dir / "curve.csv", pd.DataFrame(self._curves, columns=["arm", "step", "name", "value"]))

    def record(self) -> RunRecord:
        """This run as a reader sees it, so far."""
        return RunRecord(self.dir, self.manifest)

    def finish(self, **extra) -> None:
        """Mark the run done; `extra` (model, data, judge) goes into the manifest."""
        self.manifest |= extra | {
            "seconds": round(time.perf_counter() - self.began, 1),
            "peak memory GB": round(max(self._memory, peak_memory()), 2),
            "status": "done",
        }
        self._save()

    def _save(self) -> None:
        if self._apart:
            return
        _write(self.dir / "manifest.json", (json.dumps(self.manifest, indent=1, default=str) + "\n").encode())


class RunRecord:
    """One run on disk."""

    def __init__(self, folder: Path, manifest: dict | None = None):
        self.dir = folder
        self.manifest = manifest or json.loads((folder / "manifest.json").read_text())

    def metrics(self) -> pd.DataFrame:
        return pd.read_csv(self.dir / "metrics.csv")

    def curve(self) -> pd.DataFrame:
        """Training curves: arm, step, name, value."""
        path = self.dir / "curve.csv"
        return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["arm", "step", "name", "value"])

    def items(self) -> pd.DataFrame:
        text = gzip.decompress((self.dir / "items.csv.gz").read_bytes()).decode()
        return pd.read_csv(io.StringIO(text), dtype={"prompt_id": str})


def fail(folder: Path, reason: str, cell: str = "", tail: str = "") -> None:
    """Mark a run failed, also one whose notebook never got to write a manifest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"schema": 1, "run_id": folder.name}
    manifest |= {"status": "failed", "reason": reason, "failed cell": cell, "tail": tail}
    _write(path, (json.dumps(manifest, indent=1) + "\n").encode())


def load_runs(paper: str | None = None, preset: str | None = None) -> list[RunRecord]:
    """All runs, oldest first; a folder without a readable manifest is skipped."""
    runs = []
    for path in sorted(paths.RUNS.glob("*/manifest.json")):
        try:
            runs.append(RunRecord(path.parent))
        except ValueError:
            continue
    keep = [r for r in runs if paper in (None, r.manifest.get("paper")) and preset in (None, r.manifest.get("preset"))]
    return sorted(keep, key=lambda r: r.manifest.get("start", ""))


def cited(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that count as evidence, sorted by paper, preset and seed: of each the newest, and only runs that share
    the settings of the newest run of their paper and preset, so that no table mixes two experiments."""
    newest, settings = {}, {}
    for r in sorted(runs, key=lambda r: r.manifest.get("start", "")):
        m = r.manifest
        if m.get("status") == "done" and not m["dirty"] and not m["overrides"] and m["preset"] != "smoke":
            newest[m["paper"], m["preset"], m["seed"]] = r
            settings[m["paper"], m["preset"]] = m["settings"]
    used = lambda s: {k: v for k, v in s.items() if v != "none"}  # noqa: E731  a setting that came later and is not used changes nothing
    return [newest[k] for k in sorted(newest) if used(newest[k].manifest["settings"]) == used(settings[k[:2]])]


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


def fingerprint(cfg) -> str:
    """Identity of a run's settings, to find out whether it was already made."""
    return cache.fingerprint(cfg.as_dict())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """Model of the processor, and whether it multiplies bfloat16 matrices in hardware: what timings depend on most."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = next(
        (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    units = [u for u in ("amx_bf16", "avx512_bf16") if u in text]
    return f"{name}, {units[0] if units else 'no bf16 units'}"


def _threads() -> int:
    import sys

    torch = sys.modules.get("torch")  # do not import it just to ask
    return torch.get_num_threads() if torch else 0


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    _write(path, table.to_csv(index=False, float_format="%.8g").encode())
