"""Sweeps of cheap stand-ins for runs, through the pools that run the real ones."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from lib.harness import machine, runner, sweeps
from lib.harness.paths import ROOT

RUN = """
import os, pathlib, signal, sys, time
name, how, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
with open(folder / "ran.txt", "a") as file:
    file.write(name + "\\n")
if how == "fails":
    raise SystemExit(3)
first = not (folder / name).exists()
(folder / name).touch()
if how == "crashes once" and first:
    os.kill(os.getpid(), signal.SIGKILL)
if how == "takes its worker along" and first:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1)
if how == "is slow" and first:
    time.sleep(60)
"""


def jobs(folder, **odd) -> list[sweeps.Job]:
    """Twelve of them; odd: {"job3": how}."""
    (folder / "run.py").write_text(RUN.replace("\\\\n", "\\n"))
    script = [sys.executable, str(folder / "run.py")]
    return [
        sweeps.Job(n, [*script, n, odd.get(n, "runs"), str(folder)], f"key of {n}", {"x": k})
        for k, n in ((k, f"job{k}") for k in range(12))
    ]


def ran(folder) -> Counter:
    return Counter((folder / "ran.txt").read_text().split())


def local(begun):
    return sweeps.Local(2, begun)


def test_one_fails_one_crashes_and_the_others_are_not_lost(sandbox, capsys):
    """A crash is tried again and a failure is not; all else runs once, and a second sweep repeats the failure alone."""
    todo = jobs(sandbox, job3="fails", job5="crashes once")
    ended = sweeps.sweep(todo, local)
    assert [one.job for one in ended] == todo
    assert {one.job.label: one.said for one in ended if one.code} == {"job3": "failed"} and ended[3].code == 3
    assert [one.tries for one in ended] == [2 if k == 5 else 1 for k in range(12)]
    assert ran(sandbox) == Counter({job.label: 2 if job.label == "job5" else 1 for job in todo})
    said = capsys.readouterr().out
    assert "job5: crashed (exit code 137), again" in said and "] job3: failed" in said
    assert said.count("[12/12]") == 1 and "; all in " in said
    again = sweeps.sweep(todo, local, failures=2)
    assert [one.tries for one in again] == [3 if k == 3 else 0 for k in range(12)] and again[3].code == 3
    assert ran(sandbox)["job3"] == 4 and sum(ran(sandbox).values()) == 16
    assert "11 of 12 runs were done before" in capsys.readouterr().out


def test_bad_input_is_not_tried_again(sandbox):
    job = sweeps.Job("bad", [sys.executable, "-c", "raise SystemExit(2)"], "bad")
    assert sweeps.sweep([job], local, crashes=5, failures=5)[0].tries == 1


def test_a_run_that_cannot_start_is_one_lost_run(sandbox):
    todo = [sweeps.Job("none", ["no-such-program"], "none"), sweeps.Job("one", [sys.executable, "-c", ""], "one")]
    none, one = sweeps.sweep(todo, local, crashes=0)
    assert one.code == 0 and none.said == "crashed" and none.why.startswith("FileNotFoundError")


def test_a_killed_driver_is_started_again(sandbox):
    """What was done stays done; what it left running is ended and run anew, so that nothing runs twice at a time."""
    todo = jobs(sandbox, job6="is slow")
    (sandbox / "jobs.json").write_text(json.dumps(todo))
    drive = "import json, sys; from lib.harness import sweeps\n"
    drive += "todo = [sweeps.Job(*job) for job in json.load(open(sys.argv[1]))]\n"
    drive += "sweeps.sweep(todo, lambda begun: sweeps.Local(1, begun))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", drive, str(sandbox / "jobs.json")], cwd=ROOT, env=environment)
    until = time.monotonic() + 60
    while not (sandbox / "job6").exists() and time.monotonic() < until:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    journal = sweeps.Journal(todo)
    assert set(journal.done()) == {f"key of job{k}" for k in range(6)}
    (orphan,) = [row["process"] for row in journal.rows() if "process" in row and machine.alive(row["process"])]
    with open(journal.path, "a") as file:
        file.write('{"key": "key of job7", "co')  # half a line
    ended = sweeps.sweep(todo, local)
    assert not machine.alive(orphan) and all(one.code == runner.OK for one in ended)
    assert [one.tries for one in ended] == [0] * 6 + [1] * 6
    assert ran(sandbox) == Counter({job.label: 2 if job.label == "job6" else 1 for job in todo})


def test_another_commit_begins_anew(sandbox, monkeypatch):
    todo = jobs(sandbox)[:2]
    sweeps.sweep(todo, local)
    monkeypatch.setattr(sweeps.results, "git_state", lambda: ("other", False))
    assert [one.tries for one in sweeps.sweep(todo, local)] == [1, 1]


def test_the_table_shows_each_run(sandbox):
    todo = jobs(sandbox, job1="fails")[:2]
    found = sweeps.table("qdpo", "smoke", sweeps.sweep(todo, local))
    assert found[["x", "ended", "tries", "run"]].values.tolist() == [
        [0, "done", 1, ""],
        [1, "failed", 1, "exit code 3"],
    ]


def test_ray_loses_one_task_and_not_the_others(sandbox, monkeypatch):
    """A worker that is killed is one crash, tried again; needs the extra `scale`."""
    pytest.importorskip("ray")
    monkeypatch.setenv("HOME", str(sandbox))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    todo = jobs(sandbox, job3="fails", job5="takes its worker along")
    ended = sweeps.sweep(todo, lambda begun: sweeps.Ray("local", cpus=1))
    assert {one.job.label: one.said for one in ended if one.code} == {"job3": "failed"}
    assert [one.tries for one in ended] == [2 if k == 5 else 1 for k in range(12)]
