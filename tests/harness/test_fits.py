"""Whether a run fits: stages against what there is, one sentence, and the runner that asks before it begins."""

import pytest
from typer.testing import CliRunner

from lib.harness import cli, fits, paths, presets, results, runner

STAGES = [fits.Stage("load", 10, 0), fits.Stage("training: weights", 20, 50), fits.Stage("answers", 30, 0)]
SETTINGS = {"device": "cuda", "micro": 4, "host": False, "checkpoint": True, "generation_batch": 32}


@pytest.mark.parametrize("memory, host, words", [
    (31, 51, None),
    (29, 51, "^'answers' takes 30.0 GB of the 29.0 GB of cuda: try a smaller GENERATION_BATCH or another MODEL$"),
    (31, 49, "^'training: weights' takes 50.0 GB of the 49.0 GB of the computer's memory: try .* MICRO, HOST=True"),
])  # fmt: skip
def test_what_is_too_large_is_named_with_what_would_help(memory, host, words):
    import re

    said = fits.objection(STAGES, SETTINGS, memory=memory, host=host)
    assert said is None if words is None else re.search(words, said)


def test_an_optimizer_that_cannot_work_there_is_refused_before_anything(monkeypatch):
    ask = lambda **k: fits.check_device(presets.resolve("qdpo", {"PRESET": "smoke", "SEED": 0, **k}))  # noqa: E731
    ask(OPTIMIZER="8bit")
    with pytest.raises(ValueError, match="^qdpo: OPTIMIZER=paged-8bit pages .* are stepped on cpu; OPTIMIZER=8bit"):
        ask(OPTIMIZER="paged-8bit")
    with pytest.raises(ValueError, match=r"stepped on the host \(HOST=True\); OPTIMIZER=8bit works there"):
        ask(OPTIMIZER="paged-8bit", DEVICE="cuda", HOST=True)
    monkeypatch.setattr(fits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="^qdpo: OPTIMIZER=8bit needs bitsandbytes"):
        ask(OPTIMIZER="8bit")
    said = fits.objection(STAGES[1:2], SETTINGS | {"optimizer": "none", "arms": "fp"}, memory=31, host=49)
    assert "HOST=True, OPTIMIZER=8bit or another MODEL" in said
    assert "8bit" not in fits.objection(STAGES[1:2], SETTINGS | {"optimizer": "8bit"}, memory=31, host=49)


def test_several_processes_have_a_device_each_and_share_the_host_and_the_batch(monkeypatch):
    both = dict(memory=31, processes=2)
    assert fits.objection(STAGES, SETTINGS, host=101, **both) is None
    assert "takes 100.0 GB of the 99.0 GB of the computer's" in fits.objection(STAGES, SETTINGS, host=99, **both)
    cpu = SETTINGS | {"device": "cpu"}
    assert "takes 140.0 GB of the 139.0 GB of cpu" in fits.objection(STAGES, cpu, memory=139, host=139, processes=2)
    monkeypatch.setattr(fits, "footprint", lambda cfg, micro, processes: [fits.Stage("training", micro, 0)])
    cfg = presets.resolve("qdpo", {"PRESET": "smoke", "SEED": 0, "MICRO": 0, "DEVICE": "cuda"})
    fits.settle(cfg, memory=100, host=99, processes=2)
    assert cfg.micro == 2  # half of the batch


def test_on_the_cpu_the_host_is_the_device():
    cpu = SETTINGS | {"device": "cpu"}
    assert "takes 70.0 GB of the 69.0 GB of cpu" in fits.objection(STAGES, cpu, memory=69, host=69)
    assert fits.objection(STAGES, cpu, memory=71, host=71) is None


@pytest.mark.parametrize("memory, micro", [(100, 4), (35, 4), (34, 3), (32.5, 2), (31.5, 1), (31, 0)])
def test_the_largest_micro_batch_that_fits_is_chosen(memory, micro, monkeypatch):
    monkeypatch.setattr(
        fits, "footprint", lambda cfg, micro, processes: [STAGES[0], fits.Stage("training", 30.5 + micro, 0)]
    )
    cfg = presets.resolve("qdpo", {"PRESET": "smoke", "SEED": 0, "MICRO": 0, "DEVICE": "cuda"})
    before = cfg.fingerprint()
    if not micro:
        with pytest.raises(
            ValueError, match="^qdpo does not fit: 'training' takes 31.5 GB of the 31.0 GB of cuda: try"
        ):
            fits.settle(cfg, memory=memory, host=99)
        return
    fits.settle(cfg, memory=memory, host=99)
    assert cfg.micro == dict(cfg)["micro"] == micro and cfg.chosen() == {"micro": micro}
    assert cfg.as_dict()["micro"] == 0 and cfg.fingerprint() == before  # another machine's run is the same one
    fits.settle(cfg, memory=100, host=99)  # again, by nobody's wish: what is chosen stays
    given = presets.resolve("qdpo", {"PRESET": "smoke", "SEED": 0})
    fits.settle(given, memory=0)
    assert given.micro == 4 and not given.chosen()


def test_a_run_chooses_its_micro_batch_by_a_real_forecast_and_keeps_it(sandbox, monkeypatch):
    cfg = presets.resolve("qdpo", {"PRESET": "smoke", "SEED": 0, "MICRO": 0})
    run = results.start(cfg, "10_qdpo")
    assert run.manifest["chosen"] == {"micro": 4} and run.manifest["settings"]["micro"] == 0  # all of the batch
    told = presets.resolve("qdpo", {"PRESET": "smoke", "SEED": 0, "MICRO": 0})
    monkeypatch.setenv("PLUMBLINE_MICRO", "3")  # by the runner, which has chosen
    assert results.start(told, "10_qdpo") and told.micro == 3
    monkeypatch.delenv("PLUMBLINE_MICRO")
    with pytest.raises(ValueError, match="shape of 'a/b' is not known here.*; MICRO takes a number where it cannot be"):
        fits.settle(presets.resolve("sea", {"PRESET": "smoke", "SEED": 0, "MODEL": "a/b", "MICRO": 0}))


def test_a_real_footprint_is_the_committed_one_and_one_that_cannot_be_told_says_why():
    """Of one paper, which takes seconds; `plumbline fits all --write` makes all."""
    import pandas as pd

    table = pd.read_csv(paths.ROOT / "results/tables/memory.csv")
    sea, heard = table[(table.paper == "sea") & (table.preset == "paper")], []
    now = fits.footprint(presets.resolve("sea", {"PRESET": "paper", "SEED": 0}), heard.append)
    assert heard == now and len(now) >= 3 and list(sea.stage) == [s.name for s in now]
    assert sea["device GB"].tolist() == pytest.approx([s.device for s in now], abs=0.2)
    assert set(table.paper) == {"qdpo", "lab", "attribute_control", "mrpo", "sea"}
    with pytest.raises(
        ValueError, match="^what sea takes of memory cannot be told: .*shape of 'a/b' is not known here"
    ):
        fits.footprint(presets.resolve("sea", {"PRESET": "smoke", "SEED": 0, "MODEL": "a/b"}))


def test_the_runner_refuses_before_it_begins(sandbox, monkeypatch):
    monkeypatch.setattr(fits, "footprint", lambda *a, **k: STAGES)
    monkeypatch.setattr(fits, "there_is", lambda device: {"cuda": 29.0, "cpu": 100.0}[device])
    with pytest.raises(ValueError, match="^qdpo does not fit: 'answers' takes 30.0 GB of the 29.0 GB of cuda: try"):
        runner.run("qdpo", preset="paper", seed=0)
    monkeypatch.setattr(fits, "there_is", lambda device: {"cuda": 0.0, "cpu": 100.0}[device])
    with pytest.raises(ValueError, match="asks for the device cuda, and torch finds none here"):
        runner.run("qdpo", preset="paper", seed=0)
    for begin in (
        lambda: runner.run("sea", preset="small", seed=0, overrides={"device": "cuda"}),
        lambda: results.start(presets.resolve("sea", {"PRESET": "smoke", "SEED": 0, "DEVICE": "cuda"}), "50_sea"),
    ):
        with pytest.raises(ValueError, match="^sea asks for the device cuda, and torch finds none here; DEVICE=cpu"):
            begin()
    assert not list(paths.RUNS.iterdir())


def test_the_command_says_every_stage_and_keeps_the_table(sandbox, monkeypatch):
    monkeypatch.setattr(fits, "footprint", lambda cfg, say, processes: [say(s) for s in STAGES] and STAGES)
    call = lambda *a: CliRunner().invoke(cli.app, ["fits", "sea", *a])  # noqa: E731
    good = call("--memory", "80", "--host", "64")
    assert good.exit_code == 0 and "30.0 GB  answers" in good.output and "fits 80 GB" in good.output
    bad = call("--memory", "16", "--host", "64")
    assert bad.exit_code == 1 and "does not fit: 'answers' takes 30.0 GB of the 16.0 GB of cuda" in bad.output
    assert fits.known("paper") == {}
    fits.write("paper", {"sea": STAGES, "lab": STAGES[:1]})
    fits.write("paper", {"lab": STAGES[:2]})
    assert fits.known("paper") == {"sea": (30.0, 50.0), "lab": (20.0, 50.0)}
    assert call("--set", "BATSCH=3").exit_code == 2
    other = CliRunner().invoke(cli.app, ["fits", "speed"])
    assert other.exit_code == 2 and "memory is reckoned for qdpo, lab," in other.output + (other.stderr or "")
