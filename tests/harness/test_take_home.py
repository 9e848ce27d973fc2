"""From a run to a model folder: the command, the card, and one sentence for all that cannot be."""

import json

import pytest
from typer.testing import CliRunner

from lib.harness import cli, paths, results, runner

ARMS = "fp,rtn,awq,qdpo"


def export(run, arm, to):
    return CliRunner().invoke(cli.app, ["export", str(run), "--arm", arm, "--to", str(to)])


def fake_run(name, kept=(), **manifest):
    folder = paths.RUNS / name
    folder.mkdir(parents=True)
    known = {
        "run_id": name, "paper": "qdpo", "status": "done", "preset": "small", "seed": 0, "start": "",
        "notebook": "10_qdpo", "settings": {}, "overrides": [], "fingerprint": "", "commit": "",
        "dirty": False, "device": "cpu", "dtype": "", "machine": {}, "seconds": 1.0, "peak memory GB": 0.5,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(known | manifest))
    for arm in kept:
        (folder / f"{arm}.safetensors").write_bytes(b"")
    return name


@pytest.mark.slow
def test_a_smoke_run_is_taken_home_by_the_command(sandbox, monkeypatch):
    import torch

    from lib.engine import models
    from lib.studies.qdpo import take_home as study

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kept = {"arms": ARMS, "keep": "awq,qdpo"}
    assert runner.run("qdpo", preset="smoke", seed=0, overrides=kept).code == 0
    (run,) = results.load_runs("qdpo")
    assert sorted(p.stem for p in run.dir.glob("*.safetensors")) == ["awq", "qdpo"]
    told = export(run.dir.name, "qdpo", sandbox / "home" / "m")
    assert told.exit_code == 0, told.output
    assert "3.594 bits a weight" in told.output and "MB in all" in told.output
    back, tokenizer = models.load(str(sandbox / "home" / "m"), dtype=torch.float32)
    want, _, weights = study.restore(run, "qdpo")
    ids = torch.tensor([tokenizer("Tell me why.").input_ids])
    assert torch.equal(back(ids).logits, want(ids).logits) and len(weights) == 28
    assert back.generation_config.eos_token_id in (257, [257])
    text = (sandbox / "home" / "m" / "README.md").read_text()
    for words in ("3.594 bits a weight by its format", run.dir.name, run.manifest["commit"][:12], 'pretrained("m")',
        "a smoke run shows that", "prompts.jsonl", "Apache-2.0", "| bits | 3 |", "Not evidence"):  # fmt: skip
        assert words in text, words
    assert str(sandbox) not in text
    (run.dir / "awq.safetensors").write_bytes(b"half")
    broken = export(run.dir, "awq", sandbox / "x")  # a path of a run does as well as its name
    said = broken.output.replace("\n", " ")
    assert broken.exit_code == 2 and "awq of qdpo-smoke" in said and "cannot be taken home: " in said
    assert not (sandbox / "x").exists() and "Traceback" not in said


@pytest.mark.parametrize("run, arm, words", [
    ("qdpo-small-s0-x", "qdpo", "there is no run 'qdpo-small-s0-x' in .* did you mean qdpo-small-s0-y"),
    ("running", "qdpo", "running is abandoned, and only a run that is done can be taken home"),
    ("qdpo-small-s0-y", "kd", "keeps nothing of arm 'kd', only of awq, qdpo: run qdpo again with KEEP=kd"),
    ("bare", "qdpo", "bare keeps nothing of arm 'qdpo', of none: run qdpo again with KEEP=qdpo"),
    ("bare", "../qdpo-small-s0-y/qdpo", "keeps nothing of arm '../qdpo"),
    ("qdpo-small-s0-y", "qdpo", "taken holds something already; name a new folder or an empty one"),
])  # fmt: skip
def test_what_cannot_be_taken_home_is_said_in_one_sentence(sandbox, run, arm, words):
    import re

    fake_run("qdpo-small-s0-y", kept=("qdpo", "awq"))
    fake_run("running", kept=("qdpo",), status="abandoned")
    fake_run("bare")
    (sandbox / "taken").mkdir()
    (sandbox / "taken" / "file").write_text("mine")
    told = export(run, arm, sandbox / "taken")
    said = told.output.replace("\n", " ")
    assert told.exit_code == 2 and re.search(words, said) and "Traceback" not in said, said
    assert [p.name for p in (sandbox / "taken").iterdir()] == ["file"]
