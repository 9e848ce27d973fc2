"""Runs that outlive the browser tab, the kernel and the terminal: a process of their own, its lines in a file.

`begin` starts one, or finds the one that is under way; `follow` shows its lines until it ends, from anywhere, as often
as one likes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from lib.harness import machine, paths, runner

PATIENCE = 30.0  # seconds that a run has to write down its end
TAIL = 12  # lines from before that `follow` shows first


def begin(paper: str, preset: str = "small", seed: int = 0, **settings) -> str:
    """Start `plumbline run` for these settings, unless it is under way; the name by which to `follow` it. Bad input
    raises here, as it would there."""
    runner.validate(paper, preset, seed, settings)
    name = "-".join([paper, preset, f"s{seed}", *(f"{k.lower()}={v}" for k, v in sorted(settings.items()))])
    command = [sys.executable, "-m", "lib.harness.cli", "run", paper, "--preset", preset, "--seed", str(seed)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return launch(name.replace("/", "_"), command)


def launch(name: str, command: Sequence[str]) -> str:
    """Start a command in a session of its own, unless the one of this name is under way."""
    if under_way(name):
        return name
    folder = _folder()
    paths.check_writable(folder)
    with open(folder / f"{name}.log", "wb") as lines:
        process = subprocess.Popen(
            command, cwd=paths.ROOT, stdin=subprocess.DEVNULL, stdout=lines, stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
        )  # fmt: skip
    state = {"process": machine.process(process.pid), "began": time.time(), "command": list(command)}
    (folder / f"{name}.json").write_text(json.dumps(state))
    return name


def under_way(name: str) -> bool:
    """Whether the process of this name still runs. KeyError, with the names there are, for none of it: `state`."""
    return (_folder() / f"{name}.json").exists() and bool(machine.alive(state(name)["process"]))


def state(name: str) -> dict:
    """What was started under this name, when and as which process; KeyError names those there are."""
    file = _folder() / f"{name}.json"
    if not file.exists():
        there = ", ".join(sorted(p.stem for p in _folder().glob("*.json"))) or "none"
        raise KeyError(f"nothing was begun in the background as {name!r}; there is {there}")
    return json.loads(file.read_text())


def lines(name: str) -> list[str]:
    """What it has said so far."""
    state(name)
    return (_folder() / f"{name}.log").read_text(errors="replace").splitlines()


def follow(name: str, *, seconds: float | None = None, show: Callable[[str], None] = print, every: float = 1.0) -> bool:
    """Show the last lines and then each new one until it ends, or for so many seconds; whether it has ended. Stopping
    this stops nothing else."""
    told, until = max(0, len(lines(name)) - TAIL), None if seconds is None else time.monotonic() + seconds
    while True:
        going = under_way(name)  # before the lines are read: none is missed
        new = lines(name)[told:]
        for line in new:
            show(line)
        told += len(new)
        if not going:
            return True
        if until is not None and time.monotonic() >= until:
            return False
        time.sleep(every)


def stop(name: str) -> None:
    """End it, if it is under way; its run is marked as ended from outside, and what it had recorded stays."""
    process, until = state(name)["process"], time.monotonic() + PATIENCE
    if under_way(name):
        os.kill(process["pid"], signal.SIGTERM)  # the runner writes down how it ended, and ends its kernel
    while under_way(name) and time.monotonic() < until:
        time.sleep(0.05)
    machine.stop(process)


def table() -> pd.DataFrame:
    """A row each: name, whether it is under way, minutes since it began, its last line."""
    names = sorted(p.stem for p in _folder().glob("*.json"))
    rows = [(n, "under way" if under_way(n) else "ended", round((time.time() - state(n)["began"]) / 60),
        (lines(n) or [""])[-1].strip()[:100]) for n in names]  # fmt: skip
    return pd.DataFrame(rows, columns=["name", "is", "minutes ago", "last line"])


def _folder() -> Path:
    folder = paths.CACHE / "background"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
