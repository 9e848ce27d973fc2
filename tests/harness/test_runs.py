"""A run being made: what it leaves, cells that run again, stages that fail, ends."""

import json
import subprocess
import sys
import time

import pandas as pd
import pytest

from lib.harness import machine, paths, presets, results, rows, runs


def config(seed=0, preset="smoke", **more):
    return presets.resolve("qdpo", {"PRESET": preset, "SEED": seed, **more})


@pytest.fixture
def cell(monkeypatch):
    """Says which execution of a cell it is."""
    return lambda count: monkeypatch.setattr(rows, "execution", lambda: count)


@pytest.fixture
def run(sandbox, monkeypatch):
    monkeypatch.delenv("PLUMBLINE_RUN_DIR", raising=False)
    return runs.start(config(), notebook="10_qdpo")


def on_disk(run):
    return json.loads((run.dir / "manifest.json").read_text())


def test_a_run_leaves_everything(sandbox, monkeypatch, complete):
    monkeypatch.delenv("PLUMBLINE_RUN_DIR", raising=False)
    run = runs.start(config(seed=3), notebook="10_qdpo")
    assert json.loads((run.dir / "manifest.json").read_text())["status"] == "running"
    with run.stage("train"):
        pass
    run.metric("arms", "test prompts", "rtn", "flips", 1 / 3, low=0.1, high=0.5, n=9)
    run.items("test prompts", "rtn", "flips", ["a", "b"], [0.5, 1], weights=[10, 20])
    run.curve("kd", [{"step": 0, "kl": 0.5}, {"step": 1, "kl": 0.25, "seconds": 9}])
    run.samples([{"arm": "rtn", "answer": "é"}])
    complete(run).finish(model={"spec": "x"})
    m = results.load_runs("qdpo")[0].manifest
    assert m["status"] == "done" and m["seed"] == 3 and m["stages"].keys() == {"train"} and m["settings"]["bits"] == 3
    row = run.record().metrics().iloc[0]
    assert (
        list(run.record().metrics().columns) == results.METRIC_COLUMNS
        and row.value == pytest.approx(1 / 3, abs=1e-7)
        and row.run_id == run.dir.name
    )
    assert run.record().items().weight.tolist()[:2] == [10, 20]
    assert pd.read_csv(run.dir / "curve.csv").name.tolist() == ["kl", "kl"]
    assert json.loads((run.dir / "samples.jsonl").read_text())["answer"] == "é"


def test_bad_numbers_are_refused(sandbox):
    run = runs.start(config(), notebook="n")
    with pytest.raises(ValueError, match="no measurement"):
        run.metric("a", "b", "c", "d", float("nan"))
    run.metric("a", "b", "c", "d", 1.0)
    with pytest.raises(ValueError, match="already recorded"):
        run.metric("a", "b", "c", "d", 2.0)


def test_a_failing_stage_is_named(sandbox):
    run = runs.start(config(), notebook="n")
    with pytest.raises(RuntimeError), run.stage("kd"):
        raise RuntimeError
    assert on_disk(run)["failed stage"] == "kd"
    runs.fail(run.dir, "no memory", "cell", "tail")
    assert results.load_runs()[0].manifest["status"] == "failed"


def test_two_runs_never_share_a_folder(sandbox):
    a, b = (runs.new_run_dir("qdpo", "smoke", 0) for _ in range(2))
    assert a != b and a.is_dir() and b.is_dir()


# ------------------------------------------------------------------------------------------------ cells that run again


def record(run, value, ids=("a", "b"), steps=(1, 2)):
    run.metric("arms", "test prompts", "kd", "flips", value, n=2)
    run.items("test prompts", "kd", "flips", ids, [value] * len(ids))
    run.curve("kd", [{"step": s, "loss": value} for s in steps])


def test_a_cell_that_runs_again_replaces_its_rows(run, cell):
    cell(1)
    record(run, 0.25)
    run.metric("arms", "test prompts", "sft", "flips", 0.75, n=2)
    cell(2)
    record(run, 0.5, ids=("a",), steps=(1,))
    there = run.record()
    assert there.metrics().value.tolist() == [0.5, 0.75] and there.metrics().arm.tolist() == ["kd", "sft"]
    assert there.items()[["prompt_id", "value"]].values.tolist() == [["a", 0.5]]
    assert there.curve()[["step", "value"]].values.tolist() == [[1, 0.5]]


def test_what_may_not_be_recorded_leaves_no_trace(run, cell):
    cell(1)
    record(run, 0.25)
    before = {p.name: p.read_bytes() for p in run.dir.iterdir() if p.name != "manifest.json"}
    for again in (
        lambda: run.items("test prompts", "kd", "flips", ["c", "a"], [0.5, 0.5]),
        lambda: run.curve("kd", [{"step": 3, "loss": 0.1}, {"step": 1, "loss": 0.1}]),
        lambda: run.items("test prompts", "rtn", "flips", ["c", "c"], [0.5, 0.5]),
        lambda: run.items("test prompts", "rtn", "flips", ["c"], [0.5, 0.5]),
    ):
        with pytest.raises(ValueError):
            again()
    assert before == {p.name: p.read_bytes() for p in run.dir.iterdir() if p.name != "manifest.json"}


def notes(run, value, sandbox, failed=False):
    other = runs.Run(sandbox, config(), "10_qdpo")
    other.apart()
    try:
        with other.stage("arms: kd"):
            record(other, value)
            if failed:
                raise RuntimeError
    except RuntimeError:
        pass
    return other.notes()


def test_notes_of_a_process_are_taken_whole_or_not_at_all(run, cell, sandbox):
    cell(1)
    run.take(notes(run, 0.25, sandbox))
    more = notes(run, 0.5, sandbox)
    more["rows"]["metrics"] = []  # the items alone clash
    with pytest.raises(ValueError, match="already recorded"):
        run.take(more)
    assert run.record().items().value.tolist() == [0.25] * 2 and run.record().metrics().value.tolist() == [0.25]
    cell(2)
    run.take(notes(run, 0.5, sandbox))
    assert run.record().items().value.tolist() == [0.5] * 2 and run.record().metrics().value.tolist() == [0.5]
    assert set(run.record().curve().value) == {0.5} and run.record().curve().shape[0] == 2


def test_a_stage_that_runs_again_takes_its_own_time(run, cell):
    cell(1)
    for _ in range(2):
        with run.stage("x"):
            time.sleep(0.03)
    assert run.manifest["stages"]["x"] >= 0.06
    cell(2)
    with run.stage("x"):
        pass
    assert run.manifest["stages"]["x"] < 0.03


# ------------------------------------------------------------------------------------------------ the end


def test_a_run_is_not_done_while_a_stage_failed(run, cell, complete, sandbox):
    complete(run)
    for failing in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(failing), run.stage("kd"):
            raise failing
    run.take(notes(run, 0.5, sandbox, failed=True))
    with pytest.raises(RuntimeError, match="stage 'kd' failed, stage 'arms: kd' failed"):
        run.finish()
    assert on_disk(run)["status"] == "running"
    cell(2)
    with run.stage("kd"):
        pass
    with pytest.raises(RuntimeError, match="stage 'arms: kd' failed"):
        run.finish()
    run.take(notes(run, 0.5, sandbox))
    run.finish()
    assert on_disk(run)["status"] == "done" and "failed stage" not in on_disk(run)


@pytest.mark.parametrize("paper", ["attribute_control", "lab", "mrpo", "qdpo", "sea", "speed"])
def test_a_run_is_not_done_without_rows_of_every_arm(sandbox, complete, paper):
    run = runs.start(presets.resolve(paper, {"PRESET": "smoke", "SEED": 0}), notebook="x")
    with pytest.raises(RuntimeError, match="nothing is recorded of"):
        run.finish()
    arm = presets.needed(paper, run.manifest["settings"])[-1][1]
    complete(run, leave=[arm])
    with pytest.raises(RuntimeError) as error:
        run.finish()
    assert arm in str(error.value) and on_disk(run)["status"] == "running"
    for dataset, name in presets.needed(paper, run.manifest["settings"]):
        if name == arm:
            run.items(dataset, name, "something", ["-"], [0.5])
    run.finish()
    assert on_disk(run)["status"] == "done"


def test_what_happens_after_the_end_reopens_the_run(run, complete):
    complete(run).finish()
    with pytest.raises(KeyboardInterrupt), run.stage("kd"):
        raise KeyboardInterrupt
    assert on_disk(run)["status"] == "running"
    with pytest.raises(RuntimeError, match="kd"):
        run.finish()


def test_setup_again_abandons_the_run_before(run, complete, capsys):
    second = runs.start(config(), notebook="10_qdpo")
    assert on_disk(run)["status"] == "abandoned" and second.dir.name in on_disk(run)["reason"]
    complete(second).finish()
    runs.start(config(), notebook="10_qdpo")
    assert on_disk(second)["status"] == "done", "a finished run stays"
    table = pd.concat(r.metrics() for r in results.load_runs("qdpo"))
    assert list(table.columns) == results.METRIC_COLUMNS


def test_setup_again_in_the_folder_of_the_runner(sandbox, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_RUN_DIR", str(sandbox / "given"))
    first = runs.start(config(), notebook="x")
    second = runs.start(config(), notebook="x")
    assert first.dir == second.dir and on_disk(second)["status"] == "running"


def test_setup_says_that_a_run_will_not_be_cited_and_why(sandbox, monkeypatch, capsys):
    def said(dirty=False, changed=(), **given):
        monkeypatch.setattr(results, "git_state", lambda: ("abcdef1234", dirty))
        monkeypatch.setattr(runs.commit, "changed", lambda: list(changed))
        runs.start(config(**given), notebook="10_qdpo")
        return capsys.readouterr().out

    assert said(preset="small") == ""
    assert said() == "This run is recorded but will not be cited: preset smoke measures nothing.\n"
    assert "BITS, BETA are overridden" in said(preset="small", BITS=4, BETA=0.5)
    assert "lib/x.py differs from the last commit." in said(True, ["lib/x.py"], preset="small")
    many = said(True, [f"lib/{k}.py" for k in range(9)], preset="small")
    assert "lib/4.py and 4 more differ from" in many and many.count("\n") == 1


# ------------------------------------------------------------------------------------------------ killed processes


def test_a_run_whose_process_is_dead_reads_as_abandoned(run):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (run.dir / "manifest.json").write_text(json.dumps(run.manifest | {"process": machine.process(child.pid)}))
    assert results.load_runs()[0].manifest["status"] == "running"
    child.kill()
    child.wait()
    assert results.load_runs()[0].manifest["status"] == "abandoned"
    old = {k: v for k, v in run.manifest.items() if k != "process"}
    (run.dir / "manifest.json").write_text(json.dumps(old))
    assert results.load_runs()[0].manifest["status"] == "running", "of an older run nobody knows"


def test_what_a_dead_runner_left_is_failed_and_its_kernel_stopped(run):
    kernel = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    left = {"process": machine.process(kernel.pid), "runner": "123"}
    (run.dir / "manifest.json").write_text(json.dumps(run.manifest | left))
    assert runs.bury(124, "", "killed") == [] and runs.bury(123, "2999", "killed") == []
    assert runs.bury(123, run.manifest["start"], "killed") == [run.dir]
    kernel.wait(timeout=10)
    assert on_disk(run)["status"] == "failed" and on_disk(run)["reason"] == "killed"


# ------------------------------------------------------------------------------------------------ a real kernel


def test_in_a_kernel_a_cell_run_twice_and_one_interrupted(sandbox):
    """The two stories of a person in JupyterLab, with a kernel of its own."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(paths.ROOT))

    def execute(code):
        reply = client.execute_interactive(code, timeout=60, output_hook=lambda _: None)["content"]
        return reply.get("ename", ""), reply.get("evalue", "")

    try:
        setup = (
            "from lib.harness import presets, results, workers\n"
            "cfg = presets.resolve('qdpo', {'PRESET': 'smoke', 'SEED': 0, 'ARMS': 'kd'})\n"
            "run = results.start(cfg, notebook='10_qdpo')"
        )
        draws = "for k in range(3):\n    run.items('test prompts', 'kd', 'kl', [k], [0.5])"
        rest = "for d, a in presets.needed('qdpo', cfg):\n    if a != 'kd':\n        run.items(d, a, 'x', ['-'], [0.5])"
        other = "for d in ('exam', 'likelihood under full precision vs fp'):\n    run.items(d, 'kd', 'x', ['-'], [1.0])"
        twice = "run.metric('e', 'd', 'kd', 'm', 0.5)\nrun.metric('e', 'd', 'kd', 'm', 0.25)"
        assert [execute(c) for c in (setup, setup, draws, draws, rest, rest, other)] == [("", "")] * 7
        assert execute(twice)[0] == execute(twice)[0] == "ValueError"
        client.execute("with run.stage('kd'):\n    import time; print('on'); time.sleep(60)")
        while client.get_iopub_msg(timeout=30)["msg_type"] != "stream":
            pass
        manager.interrupt_kernel()
        time.sleep(0.5)
        name, text = execute("run.finish()")
        assert name == "RuntimeError" and "stage 'kd' failed" in text
        assert execute("with run.stage('kd'):\n    pass")[0] == execute("run.finish()")[0] == ""
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    states = sorted((r.manifest["status"], len(r.items())) for r in results.load_runs("qdpo"))
    assert [status for status, _ in states] == ["abandoned", "done"] and states[0][1] == 0
    done = next(r for r in results.load_runs("qdpo") if r.manifest["status"] == "done").items()
    assert len(done[done.arm == "kd"]) == 5 and not done.duplicated(["dataset", "arm", "metric", "prompt_id"]).any()
