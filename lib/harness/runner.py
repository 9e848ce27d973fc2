"""Run notebooks headlessly and say honestly how it ended; what papermill itself does not guard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.harness import fits, notebooks, paths, presets, ranks, results, runs
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
    processes: int = 1,
) -> RunResult:
    """Execute a paper's notebook in a run folder of its own, by several processes if asked (`lib.harness.ranks`). Bad
    input raises; everything later ends in a RunResult."""
    overrides = overrides or {}
    path, cfg = validate(paper, preset, seed, overrides)
    paths.check_writable(paths.RUNS)
    paths.check_writable(paths.CACHE)
    if not force and (done := finished(cfg)):
        say(f"{paper} {preset} seed {seed}: already done in {done.dir.name} (FORCE=1 or --force runs it again)")
        return RunResult(done.dir, OK, "already done")
    fits.check_device(cfg)
    ranks.check(cfg, processes)
    fits.settle(cfg, processes=processes)
    if preset == "paper" and (unknown := fits.check(cfg, processes)):
        say(f"{paper}: {unknown}; running without that check")
    folder = runs.new_run_dir(paper, preset, seed)
    runs.reserve(folder, cfg, path.stem)
    limit = timeout or TIME_LIMIT[preset]
    given = {k.upper(): v for k, v in overrides.items()} | {"PRESET": preset, "SEED": seed}
    began = time.monotonic()
    say(f"{paper} {preset} seed {seed}: starting; expect {duration(expected_seconds(cfg))}")
    speed = {k: os.environ.get(k, v) for k, v in (SPEED | BUSY if processes > 1 or _busy() else SPEED).items()}
    known = dict(PLUMBLINE_RUN_DIR=str(folder), PLUMBLINE_RUNNER=str(os.getpid()), PLUMBLINE_HEADLESS="1")
    known |= {f"PLUMBLINE_{name.upper()}": str(value) for name, value in cfg.chosen().items()}
    with (
        _environment(**known, PYTHONWARNINGS="ignore", **speed),
        _terminable(),
        ranks.beside(path, given, processes) as others,
    ):
        output, expected = folder / "notebook.ipynb", expected_seconds(cfg)
        code, reason, cell, tail = _execute(path, output, given, limit, expected, others)
        if code != OK and others:
            said, reason = reason, others.blame(code, reason, unsaid=DIED)
            tail = tail if reason == said else ""  # how the kernel noticed explains nothing
    if code == OK and results.RunRecord(folder).manifest.get("status") != "done":
        code, reason = FAILED, "the notebook ended without its record cell"
    if code != OK:
        runs.fail(folder, reason, cell, tail)
        say(f"{paper} {preset} seed {seed}: failed in cell {cell or '?'}: {reason}")
        if tail:
            say(tail)
    else:
        say(f"{paper} {preset} seed {seed}: done in {duration(time.monotonic() - began)}, {folder.name}")
    return RunResult(folder, code, reason)


def spawn(
    command: Sequence[str],
    label: str = "",
    environment: dict | None = None,
    begun: Callable[[int], None] = lambda pid: None,
) -> int:
    """Run a command, one run, in a process of its own: its exit code. One that a signal ends gets 128 + the signal, as
    a shell says it, and what it left running is stopped and marked failed. With a label its lines begin with it.
    begun: told the process as soon as there is one."""
    piped: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) if label else {}
    env = os.environ | environment if environment else None
    since, process = runs.now(), subprocess.Popen(command, cwd=paths.ROOT, env=env, **piped)
    begun(process.pid)
    for line in process.stdout or ():
        say(f"{label} | {line.rstrip()}")
    code = process.wait()
    if code:
        by = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        runs.bury(process.pid, since, f"the process of this run was ended {by}")
    return code if code >= 0 else 128 - code


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


def _execute(path: Path, output: Path, parameters: dict, limit: float | None, expected: float, others=None):
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
                    say(f"  [{duration(spent)}, {remaining(spent, expected)}] {state['cell']}")
                return start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            Client(
                nb_man, start_timeout=300, startup_timeout=300, kernel_name=kernel_name, execution_timeout=None
            ).execute()

    papermill_engines.register("plumbline", Engine)

    def stop():
        process = getattr(getattr(state["kernel"], "provisioner", None), "process", None)
        if process is not None:  # it may have ended by itself
            process.kill()  # our own kernel, and nothing else

    def expire():
        state["expired"] = True
        stop()

    over = threading.Event()
    if others:
        threading.Thread(target=others.watch, args=(stop, over), daemon=True).start()
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
            return TIMEOUT, f"time limit of {duration(limit or 0)} reached", state["cell"], ""
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
        over.set()
        if watchdog:
            watchdog.cancel()
        sockets.cleanup()


def remaining(spent: float, expected: float) -> str:
    """What a line of progress says of the rest; past the forecast it says that, for there is no other."""
    if spent > expected:
        return f"longer than the {duration(expected)} expected"
    return f"about {duration(expected - spent)} left"


def budget(paper: str, preset: str) -> float:
    """First guess of a run's length, seconds, where none of its kind was run: the paper's own, or `BUDGET`'s."""
    return float(presets.first_guess(paper).get(preset, BUDGET[preset]))


def expected_seconds(cfg) -> float:
    """Seconds of the newest finished run of this paper and preset with the same settings overridden, else the
    budget."""
    runs = results.load_runs(cfg.paper, cfg.preset)
    done = [
        r
        for r in runs
        if r.manifest.get("status") == "done" and sorted(r.manifest["overrides"]) == sorted(cfg.overrides)
    ]
    return float(done[-1].manifest["seconds"]) if done else budget(cfg.paper, cfg.preset)


@contextmanager
def _environment(**values: str):
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.__setitem__(k, v)


def say(text: str) -> None:
    print(text, flush=True)
