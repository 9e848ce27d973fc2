"""Pieces of a run side by side: order, what they record, how they fail."""

import os
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from lib.harness import presets, progress, results, workers


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setenv("PLUMBLINE_PROCESSES", "2")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return results.Run(folder, presets.resolve("sea", {"PRESET": "smoke", "SEED": 0}), "50_sea")


def record(run, arm, seconds=0.0):
    time.sleep(seconds)
    run.metric("accuracy", "test", arm, "right", 0.5, n=2)
    run.items("test", arm, "right", ["a", "b"], [0.0, 1.0])
    run.curve(arm, [{"step": 1, "loss": 0.25}])
    return arm, os.getpid()


def test_order_is_that_given_and_each_has_a_process(two, run):
    jobs = {
        "slow": partial(record, run, "slow", 0.5),
        "fast": partial(record, run, "fast"),
        "last": partial(record, run, "last"),
    }
    got = list(workers.each(jobs, run=run, desc="arms"))
    assert [name for name, _ in got] == [out[0] for _, out in got] == ["slow", "fast", "last"]
    assert len({out[1] for _, out in got} | {os.getpid()}) == 4


@pytest.mark.parametrize("processes", ["1", "2"])
def test_what_they_record_is_there(monkeypatch, run, processes):
    monkeypatch.setenv("PLUMBLINE_PROCESSES", processes)
    record(run, "before")
    dict(workers.each({a: partial(record, run, a) for a in ("one", "two")}, run=run, desc="arms"))
    there = run.record()
    assert sorted(there.metrics().arm) == ["before", "one", "two"]
    assert sorted(there.items().arm) == ["before", "before", "one", "one", "two", "two"]
    assert there.items().groupby("arm").value.mean().tolist() == [0.5] * 3
    assert sorted(there.curve().arm) == ["before", "one", "two"]
    assert set(run.manifest["stages"]) == {"arms: one", "arms: two"}
    assert results.RunRecord(run.dir).manifest["stages"] == run.manifest["stages"]


def test_a_first_record_can_come_from_a_fork(two, run):
    dict(workers.each({a: partial(record, run, a) for a in ("one", "two")}, run=run, desc=""))
    assert list(run.record().items().columns) == results.ITEM_COLUMNS and len(run.record().items()) == 4


def test_a_metric_twice_is_refused(two, run):
    record(run, "one")
    with pytest.raises(ValueError, match="already recorded"):
        dict(workers.each({"one": partial(record, run, "one"), "two": partial(record, run, "two")}, run=run, desc=""))


def test_forks_leave_this_process_as_it_was(two):
    state = SimpleNamespace(weight=torch.zeros(2))

    def add():
        state.weight += 1
        return state.weight

    assert [out.tolist() for _, out in workers.each({"a": add, "b": add}, desc="arms")] == [[1.0, 1.0]] * 2
    assert state.weight.tolist() == [0.0, 0.0] and not progress._plain


def test_a_backward_pass_in_a_fork_equals_one_here(two):
    w = torch.randn(64, 300, requires_grad=True, generator=torch.Generator().manual_seed(0))

    def gradient():
        x = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
        return torch.autograd.grad((x @ w).logsumexp(-1).sum(), w)[0], torch.get_num_threads()

    here = gradient()[0]  # this process has a thread pool by now
    for _, (there, threads) in workers.each({"a": gradient, "b": gradient}, desc="arms"):
        torch.testing.assert_close(there, here)
        assert threads == max(1, torch.get_num_threads() // 2)


def test_failure_keeps_what_ran_beside_it_and_begins_no_more(two, run):
    def broken():
        run.metric("accuracy", "test", "broken", "half", 1.0)
        raise OverflowError("the oracle is tired")

    jobs = {"broken": broken, "beside": partial(record, run, "beside", 0.5), "never": partial(record, run, "never")}
    with pytest.raises(OverflowError, match="the oracle is tired") as failure:
        list(workers.each(jobs, run=run, desc="arms"))
    assert "in broken" in "".join(failure.value.__notes__)
    assert sorted(run.record().metrics().arm) == ["beside", "broken"]
    assert run.manifest["failed stage"] == "arms: broken"


def test_a_process_that_dies_is_an_error(two):
    with pytest.raises(RuntimeError, match="'gone' has died with exit status 7"):
        list(workers.each({"gone": lambda: os._exit(7), "fine": int}, desc="arms"))


def test_a_process_that_dies_or_is_stopped_is_a_failed_stage(two, run):
    with pytest.raises(RuntimeError, match="has died"):
        list(workers.each({"gone": lambda: os._exit(7), "fine": int}, run=run, desc="arms"))
    assert run.manifest["failed stage"] == "arms: gone"
    jobs = workers.each({"fine": int, "long": lambda: time.sleep(60)}, run=run, desc="arms")
    next(jobs)
    jobs.close()
    assert run.manifest["failed stage"] == "arms: gone; arms: long"
    dict(workers.each({"gone": int, "long": int}, run=run, desc="arms"))
    assert "failed stage" not in run.manifest


def test_what_cannot_be_sent_is_an_error(two):
    with pytest.raises(RuntimeError, match="lambda"):
        list(workers.each({"bad": lambda: lambda: 0, "fine": int}, desc="arms"))


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])  # SIG_IGN: nohup ... &
def test_stopping_stops_the_forks(two, tmp_path, handler):
    def long():
        try:
            time.sleep(60)
        finally:
            (tmp_path / f"{os.getpid()}").touch()

    begun, before = time.monotonic(), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, handler)
    try:
        runs = workers.each({"quick": int, "long": long}, desc="arms")
        assert next(runs) == ("quick", 0)
        time.sleep(0.3)
        runs.close()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 20 and len(list(tmp_path.iterdir())) == 1


def test_count(monkeypatch):
    monkeypatch.delenv("PLUMBLINE_PROCESSES", raising=False)
    monkeypatch.setattr(workers, "_free", lambda: 100.0)
    assert workers.count(1) == 1 and workers.count(100) == torch.get_num_threads()
    monkeypatch.setattr(workers, "_free", lambda: 0.5)
    assert workers.count(100) == 1
    monkeypatch.setenv("PLUMBLINE_PROCESSES", "3")
    assert workers.count(100) == 3 and workers.count(2) == 2
    monkeypatch.setenv("PLUMBLINE_PROCESSES", "none")
    with pytest.raises(ValueError, match="whole number from 1, given 'none'"):
        workers.count(2)
