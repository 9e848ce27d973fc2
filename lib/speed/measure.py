"""One side of a comparison in a process of its own: `python -m lib.speed.measure '{"task": ..., "side": ...}'` ends
with "#result" and JSON."""

from __future__ import annotations

import gc
import json
import os
import sys

import torch

from lib.engine import fused, models
from lib.harness.progress import peak_memory
from lib.speed import ours, peers


def _peak_gb(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_memory()


def measure(spec: dict) -> dict:
    """Seconds, units and peak memory of one side at one task; ValueError for an unknown task."""
    side, task = spec["side"], spec["task"]
    kind = {"dpo": "steps", "lora": "steps", "score": "scores", "greedy": "samples", "sample": "samples"}.get(task)
    if kind is None:
        raise ValueError(f"task is one of dpo, lora, score, greedy, sample, given {task!r}")
    theirs = side not in ("ours", "dense", "quantized")
    wide = (
        side in ("trl", "trl-precomputed") or spec.get("dtype") == "float32"
    )  # mixed precision keeps float32 weights, computes in bfloat16
    model, tokenizer = models.load(
        spec["model"], dtype=torch.float32 if wide else torch.bfloat16, device=spec["device"]
    )
    if theirs:
        model.set_attn_implementation("sdpa")
        fused.remove(model)
    gc.collect()
    loaded = _peak_gb(spec["device"])
    out = getattr(peers if theirs else ours, kind)(model, tokenizer, spec)
    return out | {"peak GB": _peak_gb(spec["device"]), "loaded GB": loaded}


def main(spec: str, *files: int) -> None:
    """Measure and print. A fork is given files for its standard input, output and errors, since its parent's may be a
    kernel's, and has one thread: its parent's others did not come along."""
    for here, file in enumerate(files):
        os.dup2(file, here)
    if files:
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(k, "r" if k == 0 else "w", closefd=False) for k in range(3))
        torch.set_num_threads(1)
    print("#result", json.dumps(measure(json.loads(spec))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
