"""How runs end: every way must be said honestly."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import nbformat
import pytest

from lib.harness import machine, notebooks, paths, results, runner

START = """
from lib.harness import presets, results
cfg = presets.resolve("qdpo", globals())
run = results.start(cfg, notebook="10_qdpo")
"""
END = """
for dataset, arm in presets.needed("qdpo", cfg):
    run.items(dataset, arm, "something", ["-"], [0.5])
run.finish()
"""


@pytest.fixture
def world(sandbox, monkeypatch):
    """A notebooks folder whose only paper holds the given cell."""
    folder = sandbox / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS", folder)
    monkeypatch.setattr(results, "git_state", lambda: ("abc1234567", False))

    def write(cell):
        nb = nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_code_cell('PRESET = "smoke"  # p\nSEED = 0  # s\nBETA = '
                'None  # b', id="parameters", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(START, id="setup"),
            nbformat.v4.new_code_cell(cell, id="work"),
            nbformat.v4.new_code_cell(END, id="record"),
        ])  # fmt: skip
        nb.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nb, folder / "10_qdpo.ipynb")

    return write


def manifest(result):
    return json.loads((result.dir / "manifest.json").read_text())


def test_the_time_left_is_said_and_that_a_forecast_is_over():
    assert runner.remaining(60, 300) == "about 4 min 00 s left"
    assert runner.remaining(400, 300) == "longer than the 5 min 00 s expected"


def test_success_then_skipped_then_forced(world, capsys):
    world('run.metric("a", "b", "c", "d", 1.0)')
    first = runner.run("qdpo", preset="smoke", seed=0)
    assert first.code == 0 and manifest(first)["status"] == "done" and (first.dir / "notebook.ipynb").exists()
    assert "left] work" in capsys.readouterr().out


def test_finished_runs_are_found(sandbox, monkeypatch, complete):
    monkeypatch.setattr(results, "git_state", lambda: ("abc1234567", False))
    _, cfg = runner.validate("qdpo", "smoke", 0, {})
    assert runner.finished(cfg) is None
    complete(results.start(cfg, notebook="x")).finish()
    assert runner.finished(cfg) is not None
    assert runner.finished(runner.validate("qdpo", "smoke", 0, {"beta": 0.2})[1]) is None
    assert runner.run("qdpo", preset="smoke", seed=0).reason == "already done"
    monkeypatch.setattr(results, "git_state", lambda: ("fff", False))
    assert runner.finished(cfg) is None


def test_a_study_goes_on_where_it_was_left(sandbox, monkeypatch, complete):
    """A seed that another commit has done is done; other settings are another study."""
    monkeypatch.setattr(results, "git_state", lambda: ("abc1234567", False))
    _, cfg = runner.validate("qdpo", "study", 0, {})
    complete(results.start(cfg, notebook="x")).finish()
    monkeypatch.setattr(results, "git_state", lambda: ("fff1234567", False))
    assert runner.finished(cfg) is not None
    assert runner.finished(runner.validate("qdpo", "study", 1, {})[1]) is None
    assert runner.finished(runner.validate("qdpo", "study", 0, {"beta": 0.2})[1]) is None


def test_a_failing_cell(world, capsys):
    world("raise RuntimeError('boom')")
    r = runner.run("qdpo", preset="smoke", seed=0)
    m = manifest(r)
    assert (
        r.code == 1 and m["status"] == "failed" and m["failed cell"] == "work" and m["reason"] == "RuntimeError: boom"
    )
    assert "boom" in capsys.readouterr().out


def test_a_dead_kernel(world):
    world("import os\nos._exit(9)")
    r = runner.run("qdpo", preset="smoke", seed=0)
    assert r.code == 137 and manifest(r)["status"] == "failed" and "memory" in manifest(r)["reason"]


def test_the_time_limit(world):
    world("import time\ntime.sleep(300)")
    r = runner.run("qdpo", preset="smoke", seed=0, timeout=12)
    assert r.code == 124 and "time limit" in manifest(r)["reason"]


def test_an_interrupt(world, monkeypatch):
    import papermill

    world("1")
    monkeypatch.setattr(
        papermill, "execute_notebook", lambda *a, **k: os.kill(os.getpid(), signal.SIGINT) or signal.pause()
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` would have it ignored
    try:
        r = runner.run("qdpo", preset="smoke", seed=0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert r.code == 130 and manifest(r)["status"] == "failed"


@pytest.mark.parametrize(
    "overrides, error", [({"betta": 0.1}, KeyError), ({"beta": "5e-7"}, TypeError), ({"bits": 9}, ValueError)]
)
def test_bad_parameters_start_nothing(sandbox, overrides, error):
    with pytest.raises(error):
        runner.run("qdpo", preset="smoke", seed=0, overrides=overrides)
    assert not paths.RUNS.exists()


def test_unknown_paper_and_unwritable_results(sandbox, monkeypatch):
    with pytest.raises(ValueError, match="no paper is called"):
        runner.run("qdop", preset="smoke", seed=0)
    (sandbox / "file").write_text("")
    monkeypatch.setenv("PLUMBLINE_RESULTS", str(sandbox / "file"))
    with pytest.raises(PermissionError, match="cannot write in"):
        runner.run("qdpo", preset="smoke", seed=0)


def test_papers_are_found_by_number():
    assert "qdpo" in notebooks.papers() and notebooks.find("qdpo").name == "10_qdpo.ipynb"


def test_two_runs_at_the_same_moment_do_not_meet(world):
    """Each has a kernel and sockets of its own: all end well, each with its own seed."""
    world(
        "import json, time\nfrom ipykernel.connect import get_connection_info\n"
        "assert 'plumbline-' in json.loads(get_connection_info())['ip'], 'sockets under the name that every run "
        "has by default'\n"
        "assert SEED == run.manifest['seed']\ntime.sleep(1)"
    )
    ended = {}
    threads = [threading.Thread(target=lambda s=s: ended.update({s: _in_a_process(s)})) for s in (0, 1, 2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert ended == {0: 0, 1: 0, 2: 0}
    assert sorted(r.manifest["seed"] for r in results.load_runs() if r.manifest["status"] == "done") == [0, 1, 2]


def _in_a_process(seed):
    code = (
        "from lib.harness import paths, runner; from pathlib import Path; paths.NOTEBOOKS = "
        f"Path({str(paths.NOTEBOOKS)!r}); raise SystemExit(runner.run('qdpo', preset='smoke', seed={seed}).code)"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True).returncode


def test_other_files_under_the_same_names_are_another_run(sandbox, monkeypatch, complete):
    """PROMPTS or the folder MODEL changed: what was done with the old ones is not this run."""
    monkeypatch.setattr(results, "git_state", lambda: ("abc1234567", False))
    prompts, model = sandbox / "prompts.jsonl", sandbox / "model"
    prompts.write_text("one")
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"1" * 64)
    given = {"prompts": str(prompts), "model": str(model)}
    _, cfg = runner.validate("qdpo", "smoke", 0, given)
    run = complete(results.start(cfg, notebook="x"))
    run.finish()
    assert runner.finished(cfg) is not None
    prompts.write_text("two")
    assert runner.finished(cfg) is None
    prompts.write_text("one")
    assert runner.finished(cfg) is not None
    (model / "model.safetensors").write_bytes(b"2" * 64)
    assert runner.finished(cfg) is None
    (model / "model.safetensors").write_bytes(b"1" * 64)
    run.manifest["failed stage"] = "kd"
    (run.dir / "manifest.json").write_text(json.dumps(run.manifest))
    assert runner.finished(cfg) is None


@pytest.mark.parametrize("overrides", [{"seed": 7}, {"preset": "paper"}, {"beta": 0.1, "BETA": 0.2}])
def test_seed_and_preset_are_no_overrides(sandbox, overrides):
    with pytest.raises(ValueError, match="no setting to override|given twice"):
        runner.run("qdpo", preset="smoke", seed=0, overrides=overrides)


def test_what_goes_wrong_around_the_notebook_is_a_failure(world, monkeypatch):
    import papermill

    def refuse(*_, **__):
        raise RuntimeError("no kernel")

    world("1")
    monkeypatch.setattr(papermill, "execute_notebook", refuse)
    r = runner.run("qdpo", preset="smoke", seed=0)
    assert r.code == 1 and manifest(r)["status"] == "failed" and "no kernel" in manifest(r)["reason"]


@pytest.mark.parametrize("sent, code", [(signal.SIGKILL, 137), (signal.SIGTERM, 143)])
def test_a_killed_run_is_failed_and_says_so_in_the_exit_code(world, sandbox, sent, code):
    """A run in a process of its own, ended from outside: by SIGKILL it can say nothing itself, `spawn` does."""
    world(f"import os, time\nfrom pathlib import Path\nPath({str(sandbox / 'there')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)")  # fmt: skip
    main = (
        "from lib.harness import paths, runner; from pathlib import Path; paths.NOTEBOOKS = "
        f"Path({str(paths.NOTEBOOKS)!r}); raise SystemExit(runner.run('qdpo', preset='smoke', seed=0).code)"
    )
    got = []
    thread = threading.Thread(target=lambda: got.append(runner.spawn([sys.executable, "-c", main])))
    thread.start()
    for _ in range(600):
        if (sandbox / "there").exists() or not thread.is_alive():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    (run,) = results.load_runs()
    os.kill(int(run.manifest["runner"]), sent)
    thread.join(timeout=60)
    m = json.loads((run.dir / "manifest.json").read_text())
    assert got == [code] and m["status"] == "failed" and "SIG" in m["reason"]
    kernel = int((sandbox / "there").read_text())
    assert machine.alive({**m["process"], "pid": kernel}) is False, "its kernel works on"
