"""Run notebooks headlessly and say honestly how it ended; what papermill itself does not guard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lib.harness import board, claims, fits, index, notebooks, paths, presets, results, runs
from lib.harness.progress import duration

TIME_LIMIT = {"smoke": 900, "small": 3 * 3600, "study": 6 * 3600, "paper": None}  # seconds a run
BUDGET = {"smoke": 60, "small": 5 * 60, "study": 30 * 60, "paper": 24 * 3600}  # first guess of a run's length
SPEED = {  # environment of the kernel, unless the user has set it: time only, never a result
    # threads wait awake for a moment: a third faster at decoding than asleep, and than awake for long at training
    "GOMP_SPINCOUNT": "10000",
    # keep freed memory: large tensors otherwise return to the system and are paged in anew, a quarter of a training
    # step
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184",
}
BUSY = {"OMP_WAIT_POLICY": "passive"}  # beside other work, threads that wait awake make both several times slower
OK, FAILED, BAD_INPUT, TIMEOUT, INTERRUPTED, DIED, TERMINATED = 0, 1, 2, 124, 130, 137, 143


class Terminated(BaseException):
    """The system asks this process to end."""


@dataclass(frozen=True)
class RunResult:
    dir: Path | None
    code: int  # exit code: 0 done, 1 failed, 124 time limit, 130 interrupted, 137 the kernel died, 143 ended
    reason: str


def validate(paper: str, preset: str, seed: int, overrides: dict) -> tuple[Path, presets.Config]:
    """(notebook, resolved settings); ValueError, KeyError or TypeError in one sentence, before any work."""
    path = notebooks.find(paper)
    names = {k.upper(): v for k, v in overrides.items()}
    if len(names) < len(overrides):
        raise ValueError(f"one setting is given twice: {', '.join(overrides)}")
    for name in {"PRESET", "SEED"} & names.keys():
        raise ValueError(f"{name.lower()} is no setting to override: give it as --{name.lower()}")
    return path, presets.resolve(paper, {**notebooks.parameters(path), **names, "PRESET": preset, "SEED": seed})


def finished(cfg) -> results.RunRecord | None:
    """A done and complete run of the same settings, files that these name, commit and data, if code and data are as
    committed; of preset study of any commit, so that a study goes on where it was left."""
    commit, dirty = results.git_state()
    for r in reversed(results.load_runs(cfg.paper, cfg.preset)):
        m = r.manifest
        if (
            not dirty
            and m.get("status") == "done"
            and (m["commit"] == commit or cfg.preset == "study")
            and not m["dirty"]
            and m["fingerprint"] == cfg.fingerprint()
            and not m.get("failed stage")
            and not results.missing(r)
        ):
            return r
    return None


def run(
    paper: str,
    *,
    preset: str,
    seed: int,
    overrides: dict | None = None,
    force: bool = False,
    timeout: float | None = None,
) -> RunResult:
    """Execute a paper's notebook in a run folder of its own. Bad input raises; everything later ends in a RunResult."""
    overrides = overrides or {}
    path, cfg = validate(paper, preset, seed, overrides)
    paths.check_writable(paths.RUNS)
    paths.check_writable(paths.CACHE)
    if not force and (done := finished(cfg)):
        _say(f"{paper} {preset} seed {seed}: already done in {done.dir.name} (FORCE=1 or --force runs it again)")
        return RunResult(done.dir, OK, "already done")
    fits.check_device(cfg)
    if preset == "paper" and (unknown := fits.check(cfg)):
        _say(f"{paper}: {unknown}; running without that check")
    folder = runs.new_run_dir(paper, preset, seed)
    runs.reserve(folder, cfg, path.stem)
    limit = timeout or TIME_LIMIT[preset]
    given = {k.upper(): v for k, v in overrides.items()} | {"PRESET": preset, "SEED": seed}
    began = time.monotonic()
    _say(f"{paper} {preset} seed {seed}: starting; expect {duration(_expected(cfg))}")
    speed = {k: os.environ.get(k, v) for k, v in (SPEED | BUSY if _busy() else SPEED).items()}
    known = dict(PLUMBLINE_RUN_DIR=str(folder), PLUMBLINE_RUNNER=str(os.getpid()), PLUMBLINE_HEADLESS="1")
    with _environment(**known, PYTHONWARNINGS="ignore", **speed), _terminable():
        code, reason, cell, tail = _execute(path, folder / "notebook.ipynb", given, limit, _expected(cfg))
    if code == OK and results.RunRecord(folder).manifest.get("status") != "done":
        code, reason = FAILED, "the notebook ended without its record cell"
    if code != OK:
        runs.fail(folder, reason, cell, tail)
        _say(f"{paper} {preset} seed {seed}: failed in cell {cell or '?'}: {reason}")
        if tail:
            _say(tail)
    else:
        _say(f"{paper} {preset} seed {seed}: done in {duration(time.monotonic() - began)}, {folder.name}")
    return RunResult(folder, code, reason)


def spawn(command: Sequence[str], label: str = "", environment: dict | None = None) -> int:
    """Run a command, one run, in a process of its own: its exit code. One that a signal ends gets 128 + the signal, as
    a shell says it, and what it left running is stopped and marked failed. With a label its lines begin with it."""
    piped = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) if label else {}
    env = os.environ | environment if environment else None
    since, process = runs.now(), subprocess.Popen(command, cwd=paths.ROOT, env=env, **piped)
    for line in process.stdout or ():
        _say(f"{label} | {line.rstrip()}")
    code = process.wait()
    if code:
        by = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        runs.bury(process.pid, since, f"the process of this run was ended {by}")
    return code if code >= 0 else 128 - code


def _apart(paper: str, seed: int, preset: str, force: bool) -> RunResult:
    """`run` in a process of its own with one thread: two such use two cores better than one of two threads."""
    command = [sys.executable, "-m", "lib.harness.cli", "run", paper, "--preset", preset, "--seed", str(seed)]
    began = runs.now()
    code = spawn([*command, *(["--force"] if force else [])], f"{paper} seed {seed}", {"OMP_NUM_THREADS": "1"})
    mine = [r for r in results.load_runs(paper, preset) if r.manifest.get("seed") == seed]
    new = [r for r in mine if r.manifest.get("start", "") >= began] or mine[-1:]
    return RunResult(new[-1].dir if new else None, code, "" if code == OK else f"exit code {code}")


@contextmanager
def _terminable():
    """SIGTERM raises, as Ctrl-C does, so that the run's end is written down; only the main thread can have it so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_):
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _busy() -> bool:
    """Whether other work takes half of the machine right now."""
    import psutil

    return psutil.cpu_percent(interval=0.5) > 50


def _execute(path: Path, output: Path, parameters: dict, limit: float | None, expected: float):
    """(exit code, reason, cell id, last lines). One kernel, over IPC so that parallel runs cannot fight for ports."""
    import logging

    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.exceptions import PapermillExecutionError

    sockets = tempfile.TemporaryDirectory(prefix="plumbline-")  # short: a socket's path has 107 characters at most
    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters were validated; its own check knows less
    began = time.monotonic()
    state = {"cell": "", "kernel": None, "expired": False}

    class Client(PapermillNotebookClient):
        def create_kernel_manager(self):
            manager = super().create_kernel_manager()
            if sys.platform != "win32":
                manager.transport, manager.ip = (
                    "ipc",
                    os.path.join(sockets.name, "kernel"),
                )  # the default name is the same for all
            state["kernel"] = manager
            return manager

        def process_message(self, msg, cell, cell_index):
            if msg["msg_type"] == "stream" and msg["content"].get("name") == "stderr":
                sys.stderr.write(
                    "".join(
                        f"    {line}\n"
                        for line in msg["content"]["text"].splitlines()
                        if " left" in line or " in " in line
                    )
                )
            return super().process_message(msg, cell, cell_index)

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
            start = nb_man.cell_start

            def cell_start(cell, cell_index=None, **more):
                state["cell"] = cell.get("id", str(cell_index))
                if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", []):
                    spent = time.monotonic() - began
                    _say(f"  [{duration(spent)}, about {duration(max(0, expected - spent))} left] {state['cell']}")
                return start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            Client(
                nb_man, start_timeout=300, startup_timeout=300, kernel_name=kernel_name, execution_timeout=None
            ).execute()

    papermill_engines.register("plumbline", Engine)

    def expire():
        state["expired"] = True
        if state["kernel"] is not None:
            state["kernel"].provisioner.process.kill()  # our own kernel, and nothing else

    watchdog = threading.Timer(limit, expire) if limit else None
    if watchdog:
        watchdog.daemon = True
        watchdog.start()
    try:
        papermill.execute_notebook(
            str(path).replace("{", "{{").replace("}", "}}"), str(output).replace("{", "{{").replace("}", "}}"),
            parameters=parameters, engine_name="plumbline", kernel_name="python3", progress_bar=False,
            cwd=str(path.parent),
            log_output=False,
        )  # fmt: skip
        return OK, "", "", ""
    except PapermillExecutionError as error:
        tail = "\n".join(
            error.traceback[-1:] if isinstance(error.traceback, list) else str(error.traceback).splitlines()
        )[-2000:]
        return FAILED, f"{error.ename}: {error.evalue}", state["cell"], tail
    except DeadKernelError:
        if state["expired"]:
            return TIMEOUT, f"time limit of {duration(limit)} reached", state["cell"], ""
        return (
            DIED,
            "the kernel died, most often for lack of memory: use a smaller batch, micro or model",
            state["cell"],
            "",
        )
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted", state["cell"], ""
    except Terminated:
        return TERMINATED, "ended from outside (SIGTERM)", state["cell"], ""
    except Exception as error:  # the kernel did not start, the disk is full, ...: it is a failure like any other
        return FAILED, f"{type(error).__name__}: {error}", state["cell"], ""
    finally:
        if watchdog:
            watchdog.cancel()
        sockets.cleanup()


def reproduce(
    which: Sequence[str], preset: str, seeds: Sequence[int] | None = None, force: bool = False, jobs: int = 1
) -> int:
    """All papers and seeds (those that the preset plans, unless given), then the index; goes on after a failure and
    returns the first failing exit code. Several jobs at a time run in processes of their own, of one thread each."""
    if jobs < 1:
        raise ValueError(f"at least one run at a time, given jobs {jobs}")
    todo = [(p, s) for p in which for s in (presets.seeds(p, preset) if seeds is None else seeds)]
    configs = {(paper, seed): validate(paper, preset, seed, {})[1] for paper, seed in todo}
    left = [k for k in todo if force or finished(configs[k]) is None]
    if preset == "study" and left:
        seconds = sum(_expected(configs[k]) for k in left) / min(jobs, len(left))
        _say(f"{len(left)} of {len(todo)} runs are missing; expect {duration(seconds)} in all")
    outcome = {}
    if jobs > 1:
        with ThreadPoolExecutor(jobs) as pool:
            outcome = dict(zip(todo, pool.map(lambda k: _apart(*k, preset, force), todo)))
    else:
        for k, (paper, seed) in enumerate(todo, 1):
            _say(f"[{k}/{len(todo)}] {paper}, preset {preset}, seed {seed}")
            outcome[paper, seed] = run(paper, preset=preset, seed=seed, force=force)
            if outcome[paper, seed].code in (INTERRUPTED, TERMINATED):
                break
    failed = {k: r for k, r in outcome.items() if r.code != OK}
    left = [job for job in todo if job not in outcome]
    for paper in which:
        fresh = [results.RunRecord(r.dir) for (p, _), r in outcome.items() if p == paper and r.code == OK]
        if fresh and paper not in claims.PAPERS:
            print(index.speed_markdown(fresh))
        elif fresh and preset == "smoke":
            _say(f"\n{paper}: preset smoke shows that it runs and measures nothing; PRESET=small does")
        elif fresh:
            _say(f"\n{paper}: headline claims, the newest of {len(fresh)} run(s) here beside the cited ones")
            print(board.beside(claims.beside(paper, fresh[-1], results.evidence(results.load_runs(paper)))))
    if preset != "smoke":
        _publish(which)
    for (paper, seed), r in failed.items():
        _say(f"FAILED {paper} seed {seed}: {r.reason} ({r.dir})")
    if left:
        _say(f"NOT RUN {', '.join(f'{paper} seed {seed}' for paper, seed in left)}")
    return next((r.code for r in failed.values()), OK)


def _publish(which: Sequence[str]) -> None:
    for paper in which:
        mine = [r for r in results.cited(results.load_runs(paper)) if r.manifest["preset"] in ("small", "study")]
        newest = max(
            (r for r in mine if (r.dir / "notebook.ipynb").exists()), key=lambda r: r.manifest["start"], default=None
        )
        if newest:
            index.copy_notebook(newest)
    written = index.write()
    _say("\nThe board, from all cited runs (results/README.md has details and controls):\n")
    print(board.text(claims.evaluate(results.load_runs())))
    _say(f"\nFigures: {paths.FIGURES} ({sum(p.suffix == '.svg' for p in written)} files), tables: {paths.TABLES}")
    if results.git_state()[1]:
        _say("Code or data differ from the last commit: these runs are recorded but not cited in the index.")


def _expected(cfg) -> float:
    """Seconds of the newest finished run of this paper and preset with the same settings overridden, else the
    budget."""
    runs = results.load_runs(cfg.paper, cfg.preset)
    done = [
        r
        for r in runs
        if r.manifest.get("status") == "done" and sorted(r.manifest["overrides"]) == sorted(cfg.overrides)
    ]
    return float(done[-1].manifest["seconds"]) if done else BUDGET[cfg.preset]


@contextmanager
def _environment(**values: str):
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.__setitem__(k, v)


def _say(text: str) -> None:
    print(text, flush=True)
