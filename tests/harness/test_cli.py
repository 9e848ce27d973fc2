import sys

import pytest
from typer.testing import CliRunner

from lib.harness import cli, reproduction, runner

invoke = lambda *a: CliRunner().invoke(cli.app, list(a))  # noqa: E731


def test_list_and_presets():
    assert "10_qdpo.ipynb" in invoke("list").output
    assert "not seen" in invoke("presets", "qdpo").output


def test_a_terminal_of_80_columns_is_enough(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in (["--help"], ["run", "--help"], ["list"], ["doctor"], ["presets", "lab"], ["power", "sea"]):
        assert max(map(len, invoke(*command).output.splitlines())) <= 80, command


def test_help_is_grouped_by_task_and_leaves_no_command_out():
    text = invoke("--help").output
    at = [text.index(f"─ {name} ─") for name in cli.TASKS]
    assert at == sorted(at) and "─ More ─" not in text
    assert text.index("doctor") < text.index("reproduce") < text.index("report") < text.index("taxonomy")


@pytest.mark.parametrize("arguments, words", [
    (("run", "qdop"), "did you mean qdpo"), (("run", "qdpo", "--set", "betta=1"), "did you mean BETA"),
    (("run", "qdpo", "--preset", "tiny"), "PRESET takes one of"),
    (("run", "qdpo", "--set", "beta"), "NAME=VALUE"), (("reproduce", "--seeds", "a b"), "whole numbers"),
    (("run", "qdpo", "--set", "bits=9"), "bits lies in"),
])  # fmt: skip
def test_bad_input_is_one_sentence(sandbox, arguments, words):
    r = invoke(*arguments)
    assert r.exit_code == 2 and words.lower() in r.output.lower() and "Traceback" not in r.output


def test_overrides_are_literals(monkeypatch):
    seen = {}
    monkeypatch.setattr(runner, "run", lambda paper, **k: seen.update(k) or runner.RunResult(None, 0, ""))
    assert (
        invoke(
            "run",
            "qdpo",
            "--seed",
            "4",
            "--set",
            "beta=1e-1",
            "--set",
            "arms=fp,rtn",
            "--set",
            "ablate_bits=5",
            "--force",
        ).exit_code
        == 0
    )
    assert seen == {
        "preset": "small",
        "seed": 4,
        "overrides": {"beta": 0.1, "arms": "fp,rtn", "ablate_bits": "5"},
        "force": True,
        "processes": 1,
    }


def test_reproduce_passes_on_what_was_asked(monkeypatch):
    seen = []
    monkeypatch.setattr(reproduction, "reproduce", lambda *a: seen.append(a) or 7)
    assert invoke("reproduce", "--paper", "qdpo", "--preset", "smoke", "--seeds", "0 2").exit_code == 7
    assert invoke("reproduce", "--paper", "", "--preset", "", "--seeds", "").exit_code == 7
    assert (
        seen[0] == (["qdpo"], "smoke", [0, 2], False, 1)
        and seen[1][0][0] == "qdpo"
        and seen[1][1:] == ("small", None, False, 1)
    )


def test_power_of_a_plan_is_told_and_an_unknown_paper_refused():
    told = invoke("power", "qdpo", "--seeds", "9")
    assert told.exit_code == 0 and "detectable" in told.stdout and "C5" in told.stdout
    refused = invoke("power", "speed")
    assert refused.exit_code == 2 and "power is reckoned for qdpo, lab" in refused.output
    one = invoke("power", "qdpo", "--seeds", "1")
    assert one.exit_code == 2 and "a study has two seeds at least, given 1" in one.output


def test_no_run_at_a_time_is_refused():
    none = invoke("reproduce", "--paper", "qdpo", "--preset", "smoke", "--jobs", "0")
    assert none.exit_code == 2 and "at least one run at a time, given jobs 0" in none.output


def test_sweep_checks_every_point_before_it_starts(monkeypatch, sandbox):
    commands = []
    monkeypatch.setattr(runner, "spawn", lambda command, *_, **__: commands.append(command) or 0)
    assert (
        invoke(
            "sweep",
            "qdpo",
            "--grid",
            "lr_qdpo=1e-5,1e-4",
            "--grid",
            "beta=0.1,1",
            "--seeds",
            "0 1",
            "--preset",
            "smoke",
        ).exit_code
        == 0
    )
    assert len(commands) == 8 and "lr_qdpo=1e-4" in commands[-1]
    assert invoke("sweep", "qdpo", "--grid", "beta=0.1,-1").exit_code == 2 and len(commands) == 8
    for wrong, said in (
        (("--jobs", "0"), "at least one run at a time, given jobs 0"),
        (("--retry", "often"), "--retry is two whole numbers, of crashed and of failed runs, as in 1:0, given 'often'"),
        (("--slot", "-1"), "--slot is CPUs and the share of a GPU, such as 4 or 4:0.5, given '-1'"),
        (("--grid", "BETA=0.1"), "beta is given twice"),
    ):
        r = invoke("sweep", "qdpo", "--grid", "beta=0.3", "--preset", "smoke", *wrong)
        assert r.exit_code == 2 and said in r.output and len(commands) == 8
    r = invoke("sweep", "qdpo", "--grid", "beta=0.3,0.3", "--preset", "smoke")
    assert r.exit_code == 2 and "the same run is asked for twice: beta=0.3 seed 0 and beta=0.3 seed 0" in r.output


def test_doctor_and_notebooks_check():
    assert "preset smoke: fits" in invoke("doctor").output
    assert invoke("notebooks", "check").exit_code == 0


def test_the_exit_code_of_a_sweep_is_that_of_its_worst_run(monkeypatch, sandbox):
    """A run that a signal ended is -9 to Python and 137 to a shell: never 0."""
    commands = [[sys.executable, "-c", code] for code in (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit(3)", "pass",
    )]  # fmt: skip
    assert [runner.spawn(c) for c in commands] == [137, 3, 0]
    spawn, codes = runner.spawn, {"beta=0.1": 0, "beta=1": 2}
    monkeypatch.setattr(runner, "spawn", lambda command, *_, **__: spawn(commands[codes[command[-1]]]))
    r = invoke("sweep", "qdpo", "--grid", "beta=1,0.1", "--preset", "smoke", "--retry", "0")
    assert r.exit_code == 137 and "beta=0.1 seed 0: crashed" in r.output and "beta=1 seed 0: done" in r.output


@pytest.mark.parametrize("given", [["seed=3"], ["PRESET=paper"], ["beta=0.1", "BETA=0.2"]])
def test_what_would_be_passed_over_is_refused(sandbox, given):
    r = invoke("run", "qdpo", "--preset", "smoke", *(x for g in given for x in ("--set", g)))
    assert r.exit_code == 2 and ("no setting to override" in r.output or "given twice" in r.output)
