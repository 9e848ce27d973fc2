"""Independent pieces of a run side by side: each in a forked process of its own, as many at a time as there are
threads.

Small matrices keep one thread busy and a second one mostly waiting, so two arms at once take little longer than one. A
fork sees everything that was loaded before it, copies nothing until it writes, and leaves no trace in the others: an
arm starts from the same state whatever ran beside it.

    OMP_NUM_THREADS=1         one piece at a time, one thread
    PLUMBLINE_PROCESSES=1     one piece at a time, in this process, with all threads
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import connection
from pathlib import Path
from typing import Any

from lib.harness import progress

ROOM = 3.0  # GB of free memory that a process may need for itself


def forks() -> bool:
    """Whether a fork can go on with what is loaded: not beside a GPU, and not outside Linux."""
    import torch

    return sys.platform.startswith("linux") and not torch.cuda.is_initialized()


def count(jobs: int) -> int:
    """How many processes for that many jobs: one a thread, fewer where memory is short, one where a fork is not
    safe."""
    import torch

    if not forks():
        return 1
    given = os.environ.get("PLUMBLINE_PROCESSES", "").strip()
    if given and not (given.isdigit() and int(given) > 0):
        raise ValueError(f"PLUMBLINE_PROCESSES is a whole number from 1, given {given!r}")
    return max(1, min(jobs, int(given) if given else min(torch.get_num_threads(), int(_free() / ROOM))))


def each(jobs: Mapping[str, Callable[[], Any]], *, run=None, desc: str) -> Iterator[tuple[str, Any]]:
    """Call every job, side by side; yield (name, what it returned) in the order given.

    Each is a stage of `run` ("desc: name", or the name where desc is empty), and what it records is recorded here, in
    that order too. When one raises, those that run are finished and recorded, no other is begun, and the error is
    raised here.
    """
    processes = count(len(jobs))
    stages = {name: f"{desc}: {name}" if desc else name for name in jobs}
    if processes == 1:
        for name in progress.track(jobs, desc or "all"):
            yield name, _staged(jobs[name], run, stages[name])
        return
    waiting, running, done = list(jobs), {}, {}
    failed: Any = None
    try:
        for name in progress.track(jobs, desc or "all"):
            while name not in done or failed is not None:
                while waiting and failed is None and len(running) < processes:
                    begun = waiting.pop(0)
                    running.update([_start(begun, jobs[begun], run, stages[begun], processes)])
                if not running:
                    raise failed
                for pipe in connection.wait(list(running)):
                    ended, process = running.pop(pipe)
                    result, notes, error = _hear(pipe, process)
                    if run is not None and notes is None:
                        run.failed(stages[ended])  # its process has died and could not say so
                    done[ended] = result, notes
                    failed = failed or error
            result, notes = done.pop(name)
            if run is not None and notes is not None:
                run.take(notes)
            yield name, result
    finally:
        for _, notes in done.values() if run is not None else ():  # of what nobody asked for any more
            if notes is not None:
                run.take(notes)
        for name, process in running.values():  # stopped by hand, or by the reader of what is yielded
            os.kill(process.pid, signal.SIGINT)
            if run is not None:
                run.failed(stages[name])
        for _, process in running.values():
            process.join(timeout=10)
            process.kill()


def _staged(job: Callable[[], Any], run, stage: str) -> Any:
    if run is None:
        return job()
    with run.stage(stage):
        return job()


def _start(name: str, job: Callable[[], Any], run, stage: str, processes: int):
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = fork(_work, there, job, run, stage, processes, name=name)
    there.close()
    return here, (name, process)


def fork(work: Callable, *given, name: str | None = None) -> multiprocessing.process.BaseProcess:
    """A fork of this process that has begun `work`; it ends with this process."""
    process = multiprocessing.get_context("fork").Process(target=work, args=given, name=name, daemon=True)
    with warnings.catch_warnings():  # from Python 3.12 on it warns beside threads; these hold no lock that a job takes
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process.start()
    return process


def _work(pipe, job: Callable[[], Any], run, stage: str, processes: int) -> None:
    """In the fork: what the job returns, what it recorded and how it failed, through the pipe."""
    import torch

    # what stops a fork; a run begun with `nohup ... &` has inherited that it be ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(
        max(1, torch.get_num_threads() // processes)
    )  # also keeps the fork away from its parent's thread pool
    progress.lines_only()
    if run is not None:
        run.apart()
    result = error = None
    try:
        result = _staged(job, run, stage)
    except BaseException as e:
        e.add_note("".join(traceback.format_exception(e)).rstrip())
        error = e
    notes = None if run is None else run.notes()
    try:
        said = pickle.dumps((result, notes, error))
        pickle.loads(said)
    except Exception as e:
        said = pickle.dumps((None, notes, RuntimeError(f"{stage}: {error if error is not None else e!r}")))
    pipe.send_bytes(said)
    pipe.close()


def _hear(pipe, process) -> tuple[Any, Any, BaseException | None]:
    try:
        said = pickle.loads(pipe.recv_bytes())
    except EOFError:
        process.join()
        said = (
            None,
            None,
            RuntimeError(
                f"the process of {process.name!r} has died with exit status {process.exitcode}; its messages "
                "stand above, if it left any"
            ),
        )
    process.join()
    return said


def _free() -> float:
    """Memory that can still be used, GB."""
    text = Path("/proc/meminfo").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable")) / 2**20
