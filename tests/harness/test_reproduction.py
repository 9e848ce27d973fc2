"""Which runs papers and seeds come to, and how they end together; nothing runs here."""

import pytest

from lib.harness import presets, reproduction, results, runner


@pytest.fixture
def runs_made(monkeypatch, sandbox):
    """Nothing runs: what would have is listed."""
    made = []
    monkeypatch.setattr(results, "git_state", lambda: ("abc1234567", False))
    monkeypatch.setattr(runner, "run", lambda paper, **kw: made.append((paper, kw["seed"])) or runner.RunResult(
        None, runner.OK, ""))  # fmt: skip
    monkeypatch.setattr(results, "RunRecord", lambda folder: None)
    monkeypatch.setattr(reproduction.claims, "beside", lambda *a: None)
    monkeypatch.setattr(reproduction.board, "beside", lambda *a: "")
    monkeypatch.setattr(reproduction, "_publish", lambda which: None)
    return made


def test_a_study_runs_the_seeds_that_its_paper_plans(runs_made, capsys):
    planned = presets.seeds("mrpo", "study")
    assert reproduction.reproduce(["mrpo"], "study") == 0 and runs_made == [("mrpo", s) for s in planned]
    assert f"{len(planned)} of {len(planned)} runs are missing; expect" in capsys.readouterr().out
    runs_made.clear()
    reproduction.reproduce(["mrpo", "sea"], "small")
    reproduction.reproduce(["mrpo"], "study", [3])
    assert runs_made == [("mrpo", 0), ("sea", 0), ("mrpo", 3)]


def test_jobs_run_apart_with_one_thread_and_the_first_failure_is_the_exit_code(monkeypatch, runs_made, capsys):
    monkeypatch.setattr(runner.subprocess, "Popen", lambda command, **kw: Child(command, kw["env"]))
    assert reproduction.reproduce(["mrpo"], "study", [0, 1, 2], jobs=2) == 3
    out = capsys.readouterr().out
    assert "mrpo seed 1 | hello of 1 with OMP_NUM_THREADS=1" in out and "FAILED mrpo seed 1: exit code 3" in out


def test_the_board_is_that_of_the_papers_asked_for(sandbox, monkeypatch, capsys):
    monkeypatch.setattr(reproduction.index, "write", lambda: [])
    reproduction._publish(["mrpo"])
    out = capsys.readouterr().out
    assert "mrpo: not run" in out and "qdpo" not in out
    reproduction._publish(["speed"])
    assert "The board" not in capsys.readouterr().out


class Child:
    """A process that says a line; that of seed 1 fails."""

    pid = 0

    def __init__(self, command, env):
        self.seed = command[command.index("--seed") + 1]
        self.stdout = [f"hello of {self.seed} with OMP_NUM_THREADS={env['OMP_NUM_THREADS']}\n"]

    def wait(self):
        return 3 if self.seed == "1" else 0
