"""Time and peak memory of one task, done by us and by a peer, each in a process of its own that waits while the other
works.

`compare` lets the two take turns, so that a slow minute of the machine hits both; what it returns are paired repeats.
With `forked` in a spec its process is a fork that has imported everything already: seconds sooner, but its memory
counts what this process holds, so only smoke, whose numbers mean nothing, asks for it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lib.harness import paths, workers
from lib.harness.progress import track

# ratios we set out for; a dense step may cost at most a quarter less
GOALS = {
    "DPO step": {"per second": 3.0, "peak GB": 1 / 0.6},
    "sampling": {"per second": 3.0},
    "greedy": {"per second": 3.0},
    "scoring": {"per second": 3.0},
    "quantized DPO step": {"per second": 0.8},
}


def compare(task: str, side: str, against: str, *, repeats: int, device: str, **size) -> dict[str, dict]:
    """{"ours": {...}, "peer": {...}} with lists "seconds" and "units" of `repeats` paired pieces of work, "peak GB" and
    more.

    Both sides start and warm up, then take turns; who goes first alternates. A child that fails raises RuntimeError
    with its last lines.
    """
    spec = {"task": task, "device": device, "repeats": repeats, "paired": True, **size}
    with _Child(spec | {"side": side}) as ours, _Child(spec | {"side": against}) as peer:
        for k in track(range(repeats), f"{task}: {side} and {against}"):
            for child in (ours, peer) if k % 2 == 0 else (peer, ours):
                child.turn()
        return {"ours": ours.result(), "peer": peer.result()}


def tune(
    task: str, side: str, name: str, values: Sequence[int], *, device: str, **size
) -> tuple[int, dict[int, float]]:
    """The value of setting `name` at which `side` is fastest, one measurement each, and units per second of all that
    ran."""
    rates: dict[int, float] = {}
    for value in track(values, f"{task}: {side} by {name}"):
        try:
            got = _run({"task": task, "side": side, "device": device, "repeats": 1, **size, name: value})
        except RuntimeError:
            if not rates:
                raise
            continue  # a larger batch did not fit
        rates[value] = got["units"][0] / got["seconds"][0]
    return max(rates, key=rates.__getitem__), rates


def same_losses(*, lr: float, **spec) -> pd.DataFrame:
    """Losses of the same optimizer steps, ours and TRL's, in float32 (where they must agree) and with bfloat16
    compute."""
    spec |= {"task": "dpo", "lr": lr}
    sides = [(side, dtype) for dtype in ("float32", "bfloat16") for side in ("ours", "trl-precomputed")]
    return pd.DataFrame({f"{s}, {d}": _run(spec | {"side": s, "dtype": d})["losses"] for s, d in sides}).rename_axis(
        "step"
    )


def record(run, label: str, peer: str, got: dict[str, dict]) -> None:
    """Put a comparison into a run: units per second and peak memory of both sides, one item a repeat."""
    for side in ("ours", "peer"):
        rate = [u / s for u, s in zip(got[side]["units"], got[side]["seconds"], strict=True)]
        ids = range(len(rate))
        run.items(label, peer, f"{side} per second", ids, rate)
        run.items(label, peer, f"{side} peak GB", ids, [got[side]["peak GB"]] * len(rate))
        run.metric("speed", label, peer, f"{side} per second", statistics.median(rate), n=len(rate))


def goals(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `index.speed` that have a goal, and whether the median ratio reaches it."""
    rows = []
    for r in table.itertuples():
        goal = next((g[r.metric] for name, g in GOALS.items() if r.task.startswith(name) and r.metric in g), None)
        if goal is not None:
            rows.append((r.task, r.peer, r.metric, r.ratio, goal, "reached" if r.ratio >= goal else "not reached"))
    return pd.DataFrame(rows, columns=["task", "peer", "metric", "ratio", "goal", "verdict"])


class _Child:
    """One side as a process; it has warmed up and waits when the constructor returns."""

    def __init__(self, spec: dict):
        self.spec, self.errors = spec, tempfile.TemporaryFile("w+")
        name = spec.get("model", "")
        hub = name.count("/") == 1 and not Path(name).exists()  # asked for, unless the caller says no
        environment = os.environ | {
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0") if hub else "1",
            "TQDM_DISABLE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "PYTHONWARNINGS": "ignore",
        }
        self.process: Any
        self.end: Any
        self.to: Any
        self.said: Any
        if spec.get("forked") and workers.forks():
            self._fork()
        else:
            command = [sys.executable, "-m", "lib.speed.measure", json.dumps(spec)]
            process = subprocess.Popen(
                command,
                cwd=paths.ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
            )
            self.process, self.end, self.to, self.said = process, process.wait, process.stdin, process.stdout
        if spec.get("paired"):
            self._until("#ready")

    def _fork(self) -> None:
        from lib.speed import measure

        if self.spec["side"].startswith("trl"):
            from trl import DPOTrainer  # noqa: F401  # here once, not in every fork
        (asked, to), (said, say) = os.pipe(), os.pipe()
        self.to, self.said = os.fdopen(to, "w"), os.fdopen(said)
        process = workers.fork(measure.main, json.dumps(self.spec), asked, say, self.errors.fileno())
        self.process, self.end = process, process.join
        os.close(asked)
        os.close(say)

    def turn(self) -> None:
        """One timed piece of work, from start to end."""
        self.to.write("go\n")
        self.to.flush()
        self._until("#done")

    def result(self) -> dict:
        """What the process found, once it has ended by itself."""
        return json.loads(self._until("#result").split(" ", 1)[1])

    def _until(self, mark: str) -> str:
        for line in self.said:
            if line.startswith(mark):
                return line
        self.errors.seek(0)
        last = " | ".join(self.errors.read().strip().splitlines()[-4:])
        raise RuntimeError(f"{self.spec['side']} failed at {self.spec['task']}: {last}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()  # only what this object started
        self.end()
        self.to.close()
        self.said.close()
        self.errors.close()


def _run(spec: dict) -> dict:
    """One side alone, not paired."""
    with _Child(spec) as child:
        return child.result()
