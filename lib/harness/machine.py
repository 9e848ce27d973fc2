"""What a run was made on: versions, processor, threads; and which process makes it, so that a dead one is noticed."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

PACKAGES = ["torch", "transformers", "peft", "bitsandbytes", "lm-eval", "papermill", "numpy", "pandas"]


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    return {p: _version(p) for p in PACKAGES} | {"python": platform.python_version()}


def description() -> dict:
    """System, processor and number of cores."""
    return {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}


def threads() -> int:
    """Of torch; 0 where it is not imported."""
    torch = sys.modules.get("torch")  # do not import it just to ask
    return torch.get_num_threads() if torch else 0


def process(pid: int | None = None) -> dict:
    """{"host", "pid", "began"}: what tells a process (this one by default) from all others, also once it is dead."""
    import psutil

    pid = os.getpid() if pid is None else pid
    return {"host": platform.node(), "pid": pid, "began": round(psutil.Process(pid).create_time(), 1)}


def alive(of: dict | None) -> bool | None:
    """Whether that process still runs; None where this machine cannot know."""
    import psutil

    if not isinstance(of, dict) or of.get("host") != platform.node():
        return None
    try:
        known = psutil.Process(of["pid"])
        same = abs(known.create_time() - of["began"]) < 5  # the clock may have been set
        return same and known.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (KeyError, TypeError, ValueError, psutil.Error):
        return None


def stop(of: dict, patience: float = 30.0) -> None:
    """End that process, if it is one of this machine and still runs, and wait until it is gone: a large one takes a
    while to give its memory back. `patience` in seconds."""
    import psutil

    if alive(of):
        try:
            psutil.Process(of["pid"]).kill()
        except psutil.Error:
            return
        until = time.monotonic() + patience
        while alive(of) and time.monotonic() < until:  # a zombie counts as gone, so psutil's own wait would not do
            time.sleep(0.02)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def kind(manifest: dict) -> str:
    """What timings of a run are compared within: the unit that multiplies bfloat16 matrices (amx_bf16, avx512_bf16, no
    bf16 units), or the device where that is no CPU."""
    device, of = manifest.get("device", "cpu"), manifest.get("machine", {})
    return of.get("processor", "").rpartition(", ")[2] or "unknown" if device == "cpu" else device


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
