"""Two runs beside each other: settings that differ, paired differences by hand, one sentence for what cannot be."""

import json

import numpy as np
import pytest
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from lib.harness import cli, presets, results

IDS = [f"p{i}" for i in range(12)]


def a_run(monkeypatch, shift=0.0, seed=0, ids=IDS, finish=True, **settings):
    monkeypatch.setattr(results, "git_state", lambda: ("abcdef1234", False))
    run = results.start(presets.resolve("qdpo", {"PRESET": "smoke", "SEED": seed, **settings}), notebook="10_qdpo")
    values = np.random.default_rng(0).normal(size=len(IDS))[: len(ids)]
    noise = np.random.default_rng(1 + seed).normal(size=len(IDS))[: len(ids)] * 0.1
    run.items("test prompts", "qdpo", "kl", ids, values + shift + noise * (shift != 0))
    run.items("test prompts", "rtn", "flips", ids, [0.5] * len(ids), weights=range(1, len(ids) + 1))
    if finish:
        run.manifest |= {"status": "done", "seconds": 1.0, "peak memory GB": 0.5}
        run._save()
    return results.RunRecord(run.dir, run.manifest)


def test_differences_are_paired(sandbox, monkeypatch):
    a, b = a_run(monkeypatch), a_run(monkeypatch, shift=0.5, BETA=0.7)
    got = results.compare(a, b)
    assert got.settings.values.tolist() == [["beta", 0.1, 0.7]]
    one = got.differences.set_index("metric").loc["kl"]
    d = b.items().query("metric == 'kl'").value.to_numpy() - a.items().query("metric == 'kl'").value.to_numpy()
    half = scipy_stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
    assert one["b - a"] == pytest.approx(d.mean()) and one.n == 12
    assert (one.low, one.high) == (pytest.approx(d.mean() - half), pytest.approx(d.mean() + half))
    spread = b.items().query("metric == 'kl'").value.std() * 2 / 12**0.5
    assert one.high - one.low < spread, "an unpaired interval would be wider"
    same = got.differences.set_index("metric").loc["flips"]
    assert same["b - a"] == same.low == same.high == 0
    assert got.apart().metric.tolist() == ["kl"] and "1 of 2 intervals exclude 0" in got.text()
    assert "flips" not in got.text() and "flips" in got.text(whole=True)
    back = results.compare(b, a).differences.set_index("metric").loc["kl"]
    assert back["b - a"] == pytest.approx(-one["b - a"]) and back.low == pytest.approx(-one.high)


def test_what_must_be_known_is_said(sandbox, monkeypatch):
    a, b = a_run(monkeypatch), a_run(monkeypatch, shift=0.5, seed=1, ids=IDS[:8])
    b.manifest["data"], a.manifest["data"] = ([{"file": "p.jsonl", "sha256": x, "rows": 1}] for x in "ab")
    b.manifest["commit"] = "1" * 10
    text = results.compare(a, b).text()
    for words in (
        "The seeds differ",
        "The code differs",
        "p.jsonl had other content",
        "8 of 24 scores have no partner",
    ):
        assert words in text, words
    alone = results.compare(a_run(monkeypatch, ids=IDS[:1]), a).differences
    assert alone.low.isna().all() and (alone.n == 1).all()


def test_the_command_takes_names_and_paths(sandbox, monkeypatch):
    a, b = a_run(monkeypatch), a_run(monkeypatch, shift=0.5)
    told = CliRunner().invoke(cli.app, ["compare", a.dir.name, str(b.dir)])
    assert told.exit_code == 0 and "The same settings." in told.output and "| kl " in told.output


@pytest.mark.parametrize(
    "how, words",
    [
        ("itself", "would be compared with itself: name two runs"),
        ("paper", "is of qdpo and .* of sea: runs of one paper are compared"),
        ("running", "is running, and only runs that are done are compared"),
        ("apart", "have no score of the same arm on the same prompts"),
        ("nowhere", "there is no run 'nowhere'"),
    ],
)
def test_runs_that_cannot_be_compared_are_told_in_one_sentence(sandbox, monkeypatch, how, words):
    import re

    a = a_run(monkeypatch)
    b = a_run(monkeypatch, ids=[f"q{i}" for i in range(9)] if how == "apart" else IDS, finish=how != "running")
    if how == "paper":
        (b.dir / "manifest.json").write_text(json.dumps(b.manifest | {"paper": "sea"}))
    other = {"itself": a.dir.name, "nowhere": "nowhere"}.get(how, b.dir.name)
    told = CliRunner().invoke(cli.app, ["compare", a.dir.name, other])
    said = told.output.replace("\n", " ")
    assert told.exit_code == 2 and re.search(words, said) and "Traceback" not in said, said
