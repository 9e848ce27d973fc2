"""Several processes for one run: the notebook's kernel is the first, and each other goes through the same cells as a
script, in a folder of its own that is thrown away.

The kernel alone records. All compute with the same settings, and meet where a model is divided
(`lib.engine.sharding`); nothing is read from the cache or written to it, so that none goes ahead of the others.

`python -m lib.harness.ranks NOTEBOOK PARAMETERS` is such another process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

PAPERS = ("qdpo",)  # whose studies divide their models
GRACE = 15.0  # seconds that the kernel has to say itself that another process is gone, before it is stopped
GONE = re.compile("connection|gloo|nccl|peer", re.I)  # errors of a process that another has left alone

ERROR = re.compile(r"^(?:\[rank\d+\]: )?(\w[\w.]*(?:Error|Exception|Interrupt)\b.*)$", re.M)  # torch names the process


def divides(cfg, processes: int) -> None:
    """ValueError in one sentence where the paper or its batch cannot be divided so."""
    if processes < 1:
        raise ValueError(f"a run has at least one process, given {processes}")
    if processes == 1:
        return
    if cfg.paper not in PAPERS:
        raise ValueError(f"several processes work for {', '.join(PAPERS)}; {cfg.paper} runs in one, given {processes}")
    if cfg["batch"] % processes:
        raise ValueError(f"{cfg.paper}: a batch of {cfg['batch']} does not divide among {processes} processes")


def check(cfg, processes: int) -> None:
    """ValueError in one sentence where this run cannot be one of so many processes here; before anything is loaded."""
    divides(cfg, processes)
    if processes == 1:
        return
    device = cfg["device"]
    if device not in ("cpu", "cuda"):
        raise ValueError(f"several processes work on cpu, or on cuda with a GPU each; given DEVICE={device}")
    if device == "cuda":
        import torch

        if torch.cuda.device_count() < processes:
            raise ValueError(f"{processes} processes need a GPU each, and there are {torch.cuda.device_count()}")
    settings = {"PRESET": cfg.preset, "SEED": cfg.seed} | {k.upper(): v for k, v in dict(cfg).items()}
    asked = [cfg.paper, json.dumps(settings), str(processes), "divides"]
    command = [sys.executable, "-m", "lib.studies.footprints", *asked]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{cfg.paper}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


def joined(rank: int, processes: int, store: Path) -> dict[str, str]:
    """The environment of one of the processes."""
    here = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}  # all are on this machine
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    known = {"PLUMBLINE_RANKS": f"{rank} of {processes}", "PLUMBLINE_STORE": str(store), "PLUMBLINE_NO_CACHE": "1"}
    return known | {"OMP_NUM_THREADS": threads} | here


class Others:
    """The processes beside the kernel."""

    def __init__(self, path: Path, given: dict, processes: int):
        self.count, self._folder = processes, tempfile.TemporaryDirectory(prefix="plumbline-ranks-")
        folder = Path(self._folder.name)
        self.store, self.processes = folder / "store", []
        for rank in range(1, processes):
            own = folder / str(rank)
            own.mkdir()
            env = os.environ | joined(rank, processes, self.store)
            env |= {"PLUMBLINE_RUN_DIR": str(own), "MPLBACKEND": "agg"}
            with open(own / "said.txt", "w") as said:
                command = [sys.executable, "-m", "lib.harness.ranks", str(path), json.dumps(given)]
                self.processes.append(
                    subprocess.Popen(command, cwd=path.parent, env=env, stdout=said, stderr=said, text=True)
                )

    def lost(self, wait: float = 0.0) -> str | None:
        """What became of the first that ended badly, in one sentence."""
        end = time.monotonic() + wait
        while True:
            for rank, p in enumerate(self.processes, 1):
                if code := p.poll():
                    return f"process {rank + 1} of {self.count} {self._end(rank, code)}"
            if time.monotonic() >= end:
                return None
            time.sleep(0.1)

    def _end(self, rank: int, code: int) -> str:
        if code < 0:
            why = ", most often for lack of memory" if -code == signal.SIGKILL else ""
            return f"was ended by signal {-code} ({signal.Signals(-code).name}){why}"
        said = (Path(self._folder.name) / str(rank) / "said.txt").read_text(errors="replace")
        errors = ERROR.findall(said)
        return f"failed: {errors[-1] if errors else f'exit code {code}'}"

    def blame(self, code: int, reason: str, *, unsaid: int) -> str:
        """The reason of a run that failed: where the kernel only lost its peers, what became of them. unsaid: the exit
        code of a kernel that was stopped."""
        about_peers = code == unsaid or GONE.search(reason)
        return (about_peers and self.lost(wait=2.0)) or reason

    def watch(self, stop: Callable[[], None], over: threading.Event) -> None:
        """Until the run is over: when one of the processes is lost, stop the kernel, unless it ends by itself."""
        while not over.wait(0.5):
            if self.lost():
                if not over.wait(GRACE):
                    stop()
                return

    def end(self) -> None:
        for p in self.processes:
            p.kill()
            p.wait()
        self._folder.cleanup()


@contextmanager
def beside(path: Path, given: dict, processes: int) -> Iterator[Others | None]:
    """Inside, the other processes are there, and this one's environment is that of the first."""
    if processes == 1:
        yield None
        return
    others = Others(path, given, processes)
    mine = joined(0, processes, others.store)
    before = {k: os.environ.get(k) for k in mine}
    os.environ.update(mine)
    try:
        yield others
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.__setitem__(k, v)
        others.end()


def follow(path: Path, given: dict) -> None:
    """Go through the code cells of a notebook with these parameters."""
    names = {"__name__": "__main__"}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{path.name}, {cell.id}", "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= given


if __name__ == "__main__":
    try:
        follow(Path(sys.argv[1]), json.loads(sys.argv[2]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # without an orderly end, in which a process group whose peers are gone may abort
    os._exit(0)
