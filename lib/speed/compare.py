"""Time and peak memory of one task, done by us and by a peer, each time in a process of its own.

`compare` alternates the two sides, so that a slow minute of the machine hits both; what it returns are paired repeats.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import pandas as pd

from lib.harness import paths

GOALS = {"DPO step": {"per second": 3.0, "peak GB": 1 / 0.6}, "sampling": {"per second": 3.0}, "greedy": {"per second": 3.0}, "scoring": {"per second": 3.0},
         "quantized DPO step": {"per second": 0.8}}  # ratios we set out for; a dense step may cost at most a quarter less  # fmt: skip


def compare(task: str, side: str, against: str, *, repeats: int, device: str, track: Callable = lambda it, desc: it, **size) -> list[dict]:
    """`repeats` paired measurements of `side` and `against`: [{"ours": {...}, "peer": {...}}, ...], each {"seconds", "units", "peak GB", ...}.

    The order alternates. A child that fails raises RuntimeError with its last lines.
    """
    out = []
    for k in track(range(repeats), f"{task}: {side} and {against}"):
        order = [side, against] if k % 2 == 0 else [against, side]
        got = {s: _child({"task": task, "side": s, "device": device, **size}) for s in order}
        out.append({"ours": got[side], "peer": got[against]})
    return out


def tune(task: str, side: str, name: str, values: Sequence[int], *, device: str, **size) -> tuple[int, dict[int, float]]:
    """The value of setting `name` at which `side` is fastest, one measurement each, and units per second of all that ran."""
    rates = {}
    for value in values:
        try:
            got = _child({"task": task, "side": side, "device": device, **size, name: value})
        except RuntimeError:
            if not rates:
                raise
            continue  # a larger batch did not fit
        rates[value] = got["units"] / statistics.median(got["seconds"])
    return max(rates, key=rates.get), rates


def same_losses(*, lr: float, **spec) -> pd.DataFrame:
    """Losses of the same optimizer steps, ours and TRL's, in float32 (where they must agree) and with bfloat16 compute."""
    spec |= {"task": "dpo", "lr": lr}
    sides = [(side, dtype) for dtype in ("float32", "bfloat16") for side in ("ours", "trl-precomputed")]
    return pd.DataFrame({f"{s}, {d}": _child(spec | {"side": s, "dtype": d})["losses"] for s, d in sides}).rename_axis("step")


def record(run, label: str, peer: str, repeats: list[dict]) -> None:
    """Put paired repeats into a run: units per second and peak memory of both sides, one item a repeat."""
    ids = range(len(repeats))
    for side in ("ours", "peer"):
        rate = [r[side]["units"] / statistics.median(r[side]["seconds"]) for r in repeats]
        run.items(label, peer, f"{side} per second", ids, rate)
        run.items(label, peer, f"{side} peak GB", ids, [r[side]["peak GB"] for r in repeats])
        run.metric("speed", label, peer, f"{side} per second", statistics.median(rate), n=len(rate))


def goals(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `index.speed` that have a goal, and whether the median ratio reaches it."""
    rows = []
    for r in table.itertuples():
        goal = next((g[r.metric] for name, g in GOALS.items() if r.task.startswith(name) and r.metric in g), None)
        if goal is not None:
            rows.append((r.task, r.peer, r.metric, r.ratio, goal, "reached" if r.ratio >= goal else "not reached"))
    return pd.DataFrame(rows, columns=["task", "peer", "metric", "ratio", "goal", "verdict"])


def _child(spec: dict) -> dict:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-m", "lib.speed.measure", json.dumps(spec)], cwd=paths.ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{spec['side']} failed at {spec['task']}: {' | '.join(done.stderr.strip().splitlines()[-4:])}")
    return json.loads(done.stdout.strip().splitlines()[-1])
