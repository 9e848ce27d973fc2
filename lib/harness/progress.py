"""Progress that a person can follow in JupyterLab, in a terminal and in the log of a headless run.

PLUMBLINE_HEADLESS=1   a plain line at most every ten seconds, on stderr (a bar's every refresh would be stored as
output) TQDM_DISABLE=1         nothing at all
"""

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm  # plain: tqdm.auto wants ipywidgets, whose saved state breaks rendering elsewhere

Item = TypeVar("Item")
INTERVAL = 10.0  # seconds between two lines of a headless run
_plain = False  # lines instead of bars, see `lines_only`


def track(iterable: Iterable[Item], desc: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of `iterable` and show how many are done and how long the rest will take."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if _on("TQDM_DISABLE"):
        yield from iterable
    elif _plain or _on("PLUMBLINE_HEADLESS"):
        yield from _lines(iterable, desc, total)
    else:
        yield from tqdm(
            iterable, desc=desc, total=total, file=_screen(), mininterval=0.5, dynamic_ncols=True, disable=False
        )


def lines_only() -> None:
    """From now on plain lines instead of bars: two processes at once would paint over each other."""
    global _plain
    _plain = True


def announce(text: str) -> None:
    """Print one line about what is going on; silent under TQDM_DISABLE=1."""
    if not _on("TQDM_DISABLE"):
        print(text, file=_screen(), flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 2 min 05 s, 1 h 04 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _lines(iterable: Iterable[Item], desc: str, total: int | None) -> Iterator[Item]:
    start = shown = time.monotonic()
    done = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - shown >= INTERVAL and done != total:
            left = f", about {duration((now - start) / done * (total - done))} left" if total and total > done else ""
            announce(f"{desc}: {done}{f'/{total}' if total else ''} in {duration(now - start)}{left}")
            shown = now
    if shown > start:  # short loops say nothing; one that has spoken says that it is over
        announce(f"{desc}: {done}{f'/{total}' if total else ''} done in {duration(time.monotonic() - start)}")


def _screen():
    # JupyterLab paints stderr red, so a live notebook gets its bars on stdout
    return sys.stdout if "ipykernel" in sys.modules and not _on("PLUMBLINE_HEADLESS") else sys.stderr


def _on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no")


def peak_memory() -> float:
    """Largest resident memory of this process so far, GB. Not getrusage's on Linux: a child inherits there what its
    parent had."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
