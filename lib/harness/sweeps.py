"""Many runs of one paper: every combination of a grid and the seeds, on this machine or on a Ray cluster.

A pool takes jobs and says, one at a time, how each ended; what happens to one job never touches another. `sweep` does
the rest alike for every pool: retries, a journal that a killed sweep goes on from, and progress; `table` sums up.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd

from lib.harness import cache, claims, machine, paths, results, runner, runs
from lib.harness.progress import duration

FINAL = (runner.OK, runner.BAD_INPUT, runner.TIMEOUT, runner.INTERRUPTED)  # what is not tried again


class Job(NamedTuple):
    """One run: its label, its command, what tells it from all others, and what the table shows of it."""

    label: str
    command: list[str]
    key: str  # the fingerprint of its settings
    columns: dict[str, Any] = {}


Point = Sequence[tuple[str, str]]  # (NAME, VALUE) of a run's settings
Over = tuple[Job, int, float, str]  # a try that ended: exit code, seconds, and a word where the pool lost it


class Ended(NamedTuple):
    """How a job ended: the exit code (0 done; above 128 it crashed: a signal, a lost worker) and seconds of its last
    try, tries (0: a sweep before this one had it), and a word where the pool lost it."""

    job: Job
    code: int
    seconds: float
    tries: int
    why: str = ""

    @property
    def said(self) -> str:
        return "done" if self.code == runner.OK else "crashed" if self.code > 128 else "failed"


class Pool(Protocol):
    """Runs jobs somewhere; `next` waits for one of them to end."""

    def submit(self, job: Job) -> None: ...
    def next(self) -> Over: ...
    def close(self) -> None: ...


class Where(NamedTuple):
    """Where a sweep runs and what is tried again, as the command line says it."""

    jobs: int = 1
    address: str = ""  # of a Ray cluster; none: this machine, without Ray
    slot: str = "1"
    retry: str = "1:0"


def jobs_of(paper: str, preset: str, points: Sequence[Point], seeds: Sequence[int], read: Callable) -> list[Job]:
    """A job for each point and seed; read(paper, point) gives its settings. Bad input raises before any run."""
    out: list[Job] = []
    for point, seed in itertools.product(points, seeds):
        _, cfg = runner.validate(paper, preset, seed, read(paper, point))
        command = [sys.executable, "-m", "lib.harness.cli", "run", paper, "--preset", preset, "--seed", str(seed)]
        command += [x for name, value in point for x in ("--set", f"{name}={value}")]
        label = " ".join([*(f"{name}={value}" for name, value in point), f"seed {seed}"])
        out.append(Job(label, command, cfg.fingerprint(), {**dict(point), "seed": seed}))
    if twice := [job.label for job in out if sum(other.key == job.key for other in out) > 1]:
        raise ValueError(f"the same run is asked for twice: {' and '.join(twice[:2])}")
    return out


class Local:
    """`jobs` processes at a time on this machine, one thread each if several. begun: told which process runs a job."""

    def __init__(self, jobs: int, begun: Callable[[Job, dict], None] = lambda job, process: None):
        if jobs < 1:
            raise ValueError(f"at least one run at a time, given jobs {jobs}")
        self.threads, self.begun = ThreadPoolExecutor(jobs), begun
        self.ended: queue.SimpleQueue[Over] = queue.SimpleQueue()
        self.environment = {"OMP_NUM_THREADS": "1"} if jobs > 1 and "OMP_NUM_THREADS" not in os.environ else None

    def submit(self, job: Job) -> None:
        self.threads.submit(self._run, job)

    def _run(self, job: Job) -> None:
        code, why, since = runner.DIED, "", time.monotonic()
        try:
            told = lambda pid: self.begun(job, machine.process(pid))  # noqa: E731
            code = runner.spawn(job.command, job.label, self.environment, begun=told)
        except Exception as error:  # a job whose process could not even start is lost, the others are not
            why = f"{type(error).__name__}: {error}"
        self.ended.put((job, code, time.monotonic() - since, why))

    def next(self) -> Over:
        return self.ended.get()

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


class Ray:
    """Tasks on a Ray cluster, one begun here ("local") or the one at an address ("auto", "host:6379"); each takes
    `cpus` and a share of a GPU. All its machines need this repository at the same place, and one results folder."""

    def __init__(self, address: str, cpus: float = 1, gpus: float = 0):
        try:
            import ray
        except ImportError:
            raise ValueError('a Ray cluster needs the extra: pip install -e ".[scale]"') from None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray: Any = ray
        at = None if address == "local" else address
        try:
            ray.init(address=at, ignore_reinit_error=True, logging_level="ERROR")
        except Exception as error:
            raise ValueError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from None
        # retries are the sweep's, so that they are counted and told apart
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_spawned)
        self.running: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        self.running[self.task.remote(job.command, job.label)] = job

    def next(self) -> Over:
        (ref, *_), _ = self.ray.wait(list(self.running), num_returns=1)
        job = self.running.pop(ref)
        try:
            code, seconds = self.ray.get(ref)
            return job, code, seconds, ""
        except Exception as error:  # the worker crashed, its machine is gone, ...: this job alone
            return job, runner.DIED, 0.0, f"{type(error).__name__}: {(str(error) or 'lost').splitlines()[0]}"

    def close(self) -> None:
        for ref in self.running:
            self.ray.cancel(ref, force=True)
        self.ray.shutdown()


def _spawned(command: list[str], label: str) -> tuple[int, float]:
    since = time.monotonic()
    return runner.spawn(command, label), time.monotonic() - since


class Journal:
    """What a sweep has done, one JSON line each, and which process runs what: a sweep that was killed goes on."""

    def __init__(self, jobs: Sequence[Job]):
        commit, self.dirty = results.git_state()
        asked = cache.fingerprint({"jobs": sorted(job.key for job in jobs), "commit": commit})
        self.path, self.lock = paths.CACHE / "sweeps" / f"{asked}.jsonl", threading.Lock()
        paths.check_writable(self.path.parent)

    def add(self, **row) -> None:
        with self.lock, open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict]:
        """All whole lines; a driver that was killed may have left half of one."""
        out = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                out.append(json.loads(line))
            except ValueError:
                continue
        return out

    def done(self) -> dict[str, dict]:
        """{key: row} of what ended well."""
        return {row["key"]: row for row in self.rows() if row.get("code") == runner.OK}

    def clear_away(self) -> int:
        """End what a killed sweep left running and nobody would count, before it is run again; how many there were."""
        left = [row["process"] for row in self.rows() if "process" in row and machine.alive(row["process"])]
        for process in left:
            machine.stop(process)
            runs.bury(process["pid"], "", "the sweep that it belonged to was killed")
        return len(left)


def sweep(jobs: Sequence[Job], make: Callable[[Callable], Pool], *, crashes: int = 1, failures: int = 0) -> list[Ended]:
    """Every job to its end, in the order asked for; make(begun) gives the pool.

    A crashed run is tried `crashes` times again and a failed one `failures` times; bad input and a time limit are
    final. What this sweep did before at the same commit is not done again.
    """
    journal = Journal(jobs)
    before = journal.done()
    ended = {job.key: Ended(job, runner.OK, before[job.key]["seconds"], 0) for job in jobs if job.key in before}
    if ended:
        dirty = ", as far as the commit tells: there are changes besides" if journal.dirty else ""
        runner.say(f"{len(ended)} of {len(jobs)} runs were done before{dirty} ({journal.path.name} says so)")
    if len(ended) == len(jobs):
        return [ended[job.key] for job in jobs]
    if left := journal.clear_away():
        runner.say(f"{left} runs that a killed sweep had left were ended and begin anew")
    pool = make(lambda job, process: journal.add(key=job.key, process=process))
    again: Counter = Counter()  # (key, how it ended) of tries that were made again
    fresh, began = 0, time.monotonic()
    try:
        for job in jobs:
            if job.key not in ended:
                pool.submit(job)
        while len(ended) < len(jobs):
            job, code, seconds, why = pool.next()
            one = Ended(job, code, seconds, 1 + again[job.key, "crashed"] + again[job.key, "failed"], why)
            if code not in FINAL and again[job.key, one.said] < (crashes if one.said == "crashed" else failures):
                again[job.key, one.said] += 1
                runner.say(f"{job.label}: {one.said} ({why or f'exit code {code}'}), again")
                pool.submit(job)
                continue
            ended[job.key], fresh, spent = one, fresh + 1, time.monotonic() - began
            journal.add(key=job.key, code=code, seconds=round(seconds, 1), tries=one.tries)
            left = len(jobs) - len(ended)
            rest = f", about {duration(left * spent / fresh)} left" if left else f"; all in {duration(spent)}"
            runner.say(f"[{len(ended)}/{len(jobs)}] {job.label}: {one.said}{rest}")
    finally:
        pool.close()
    return [ended[job.key] for job in jobs]


def table(paper: str, preset: str, ended: Sequence[Ended]) -> pd.DataFrame:
    """A row a run: its settings, how it ended, after how many tries, its folder, and its own value of each headline
    claim that it measured."""
    done = [r for r in results.load_runs(paper, preset) if r.manifest["status"] == "done"]
    by_key = {r.manifest.get("fingerprint"): r for r in done}
    rows = []
    for one in ended:
        told = {"ended": one.said, "tries": one.tries or "before", "minutes": round(one.seconds / 60, 1)}
        run = by_key.get(one.job.key) if one.code == runner.OK else None
        if run is not None and preset != "smoke" and paper in claims.PAPERS:
            told |= _headlines(paper, run)
        name = run.dir.name if run else one.why or f"exit code {one.code}" * bool(one.code)
        rows.append(one.job.columns | told | {"run": name})
    return pd.DataFrame(rows)


def _headlines(paper: str, run: results.RunRecord) -> dict[str, Any]:
    out = {}
    for claim in claims.PAPERS[paper].CLAIMS:
        if claim.headline:
            try:
                out[claim.id] = round(float(claims.Pool([run]).of(claim).value), 4)
            except (claims.NotRun, ValueError):
                continue
    return out


def run(paper: str, preset: str, jobs: Sequence[Job], where: Where) -> int:
    """`sweep` as the command line asks for it; its table is shown, and kept beside the journal. The worst exit code."""
    crashes, failures = _two(where.retry, int, "--retry is two whole numbers, of crashed and of failed runs, as in 1:0")
    cpus, gpus = _two(where.slot, float, "--slot is CPUs and the share of a GPU, such as 4 or 4:0.5")

    def pool(begun: Callable) -> Pool:
        return Ray(where.address, cpus, gpus) if where.address else Local(where.jobs, begun)

    place = f"on Ray, {cpus:g} CPUs and {gpus:g} GPUs each" if where.address else f"{where.jobs} at a time"
    runner.say(f"{len(jobs)} runs, {place}")
    ended = sweep(jobs, pool, crashes=crashes, failures=failures)
    found = table(paper, preset, ended)
    path: Path = Journal(jobs).path.with_suffix(".csv")
    found.to_csv(path, index=False)
    runner.say(f"\n{found.fillna('').to_markdown(tablefmt='simple', index=False)}\n\n{path}")
    return max(one.code for one in ended)


def _two(text: str, kind: type, what: str) -> tuple:
    """ "a:b", or "a" with a second of 0, as numbers of at least 0."""
    first, _, second = text.partition(":")
    try:
        found = kind(first), kind(second or 0)
    except ValueError:
        raise ValueError(f"{what}, given {text!r}") from None
    if min(found) < 0:
        raise ValueError(f"{what}, given {text!r}")
    return found
