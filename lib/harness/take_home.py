"""What a finished run can give: an arm as a model folder, or the data that it made, each with its card.

Weights are put together in a process of its own, by `lib.studies.qdpo.take_home` where they are quantized and else by
`lib.engine.keeping`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.harness import cards, paths, results
from lib.harness.presets.base import nearest, split
from lib.harness.results import RunRecord

MAKERS, MAKER = {"qdpo": "lib.studies.qdpo.take_home"}, "lib.engine.keeping"
DATA, KEPT = "data", "kept-"  # an arm's name for what a run made of rows, and how their files' names begin


def export(run: str, arm: str, to: Path) -> str:
    """Write an arm of a run as a model folder and return one line that says so. ValueError or an OSError, in one
    sentence, where that cannot be."""
    record = find(run)
    check(record, arm)
    to = to.expanduser().absolute()
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise FileExistsError(f"{to} holds something already; name a new folder or an empty one")
    if arm == DATA:
        return write_data(record, to)
    maker = MAKERS.get(record.manifest["paper"], MAKER)
    command = [sys.executable, "-m", maker, str(record.dir.absolute()), arm, str(to)]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{arm} of {record.dir.name} cannot be taken home: {last}")
    return done.stdout.strip().splitlines()[-1]


def find(run: str) -> RunRecord:
    """The run of that name under results/runs, or in the folder of that path."""
    for folder in (paths.RUNS / run, Path(run).expanduser()):
        if (folder / "manifest.json").is_file():
            return RunRecord(folder)
    like = nearest(run, [r.dir.name for r in results.load_runs()])
    raise ValueError(f"there is no run {run!r} in {paths.RUNS} (`plumbline list` names the newest){like}")


def wanted(manifest: dict, arm: str) -> bool:
    """Whether a run's settings ask for what an arm has learned, or made, to be kept."""
    return arm in split(manifest["settings"].get("keep", "none"))


def check(run: RunRecord, arm: str) -> None:
    """ValueError unless the run is done and has kept this arm."""
    status, paper = run.manifest.get("status"), run.manifest.get("paper", "PAPER")
    if status != "done":
        raise ValueError(f"{run.dir.name} is {status}, and only a run that is done can be taken home")
    kept = sorted(p.stem for p in run.dir.glob("*.safetensors")) + [DATA] * bool(_files(run))
    if arm not in kept:
        has = f"only of {', '.join(kept)}" if kept else "of none"
        raise ValueError(f"{run.dir.name} keeps nothing of arm {arm!r}, {has}: run {paper} again with KEEP={arm}")


def keep_rows(run, name: str, rows: Sequence[dict], about: str) -> None:
    """Write rows that a run has made as a JSON-lines file beside its tables, which git ignores. about: one sentence of
    what a row is, for the card."""
    path = run.dir / f"{KEPT}{name}.jsonl"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    lines = [json.dumps(row, ensure_ascii=False) for row in ({"about": about}, *rows)]
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(path)


def _files(run: RunRecord) -> list[Path]:
    return sorted(run.dir.glob(f"{KEPT}*.jsonl"))


def write_data(run: RunRecord, folder: Path) -> str:
    """The rows of a run as a folder with a card; one line that says so."""
    found = {}
    for path in _files(run):
        about, *rows = path.read_text(encoding="utf-8").split("\n")[:-1]
        found[path.stem.removeprefix(KEPT)] = json.loads(about)["about"], rows
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:  # the folder appears whole or not at all
        for name, (_, rows) in found.items():
            (part / f"{name}.jsonl").write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        (part / "README.md").write_text(cards.data(run, found), encoding="utf-8")
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return f"{folder}: {', '.join(f'{len(rows)} rows of {name}' for name, (_, rows) in found.items())}"
