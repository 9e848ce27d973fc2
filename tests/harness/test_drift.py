"""Fresh runs beside committed ones, on made-up records in a git checkout of their own."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lib.harness import claims, cli, comparison, drift, paths, presets, results
from lib.harness.claims import qdpo

EXAM = next(c for c in qdpo.CLAIMS if c.id == "C4").dataset
IDS = [f"q{i}" for i in range(60)]


@pytest.fixture
def make(sandbox, monkeypatch, complete):
    """A finished run of QDPO's preset study in which qdpo is so much better than round-to-nearest, and kd in between;
    seeds differ by a little, drawn by the seed."""
    monkeypatch.setattr(results, "git_state", lambda: ("abcdef1234", False))

    def one(seed, gain=0.3, kl=1.0, paper="qdpo", preset="study", **more):
        run = results.start(presets.resolve(paper, {"PRESET": preset, "SEED": seed, **more}), notebook="10_qdpo")
        rng = np.random.default_rng(seed)
        for arm, mean in (("rtn", 0.4), ("qdpo", 0.4 + gain), ("kd", 0.5)):
            run.items(EXAM, arm, "accuracy", IDS, mean + rng.normal(size=60) * 0.1 + rng.normal() * 0.01)
        run.items("test prompts", "rtn", "kl", IDS, np.full(60, kl))
        run.items("test prompts", "rtn", "words", IDS, np.full(60, 50 * kl))
        complete(run).finish(model={"spec": "x"})
        return run

    return one


@pytest.fixture
def evidence(make):
    """Three committed runs."""
    runs = [make(seed) for seed in range(3)]
    commit()
    return runs


def commit():
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(paths.RESULTS)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "runs"]):
        subprocess.run([*git, *words], check=True)


def ask(*words):
    got = CliRunner().invoke(cli.app, ["drift", *words])
    return got.exit_code, " ".join(got.output.split())


def test_a_run_like_the_others_agrees_and_another_does_not(evidence, make):
    make(7)
    code, said = ask("--preset", "study")
    assert code == 0 and "Of 2 headline claims compared, 2 lie where one more seed is predicted. About 0.1" in said
    assert "3 could not be compared" in said and "qdpo, seed 7, preset study" in said and "seed 0" not in said
    assert "No other committed run has this seed and these settings" in said
    make(8, gain=-0.1)
    code, said = ask("--preset", "study")
    assert code == 1 and "Of 4 headline claims compared, 2 lie" in said
    assert "outside: qdpo C4 (seed 8), qdpo C5 (seed 8)." in said


def test_the_reading_is_that_of_reproduce(evidence, make):
    fresh = results.RunRecord(make(7).dir)
    (one,) = drift.check(["qdpo"], "study")
    cited = results.evidence([results.RunRecord(r.dir) for r in evidence])
    pd.testing.assert_frame_equal(one.headlines, claims.beside("qdpo", fresh, cited))
    assert one.run.dir == fresh.dir


def test_the_evidence_is_what_git_holds_and_the_newest_fresh_run_counts(evidence, make):
    """A second fresh run of seed 1 takes the committed one's place in no interval, though it would be cited."""
    make(1, gain=-0.5)
    newest = make(1, gain=0.3)
    (one,) = drift.check(["qdpo"], "study")
    row = one.headlines.set_index("claim").loc["C4"]
    alone = claims.card("qdpo", [results.RunRecord(r.dir) for r in evidence]).set_index("claim").loc["C4"]
    assert one.run.dir == newest.dir and (row.cited, row.low) == (alone.ours, alone.low)


def test_numbers_of_the_same_seed_and_settings_that_moved(evidence, make):
    """kl may move by 0.01, the smallest difference worth having; words, of which no claim is made, by 2 %."""
    make(2, kl=1.005)
    (near,) = drift.check(["qdpo"], "study")
    assert near.twin.names[0] == evidence[2].dir.name and not len(near.moved())
    assert "of the same seed and settings, 0 moved (of one commit, device and versions)" in " ".join(
        drift.text([near]).split()
    )
    far = make(2, kl=1.1)
    (found,) = drift.check(["qdpo"], "study")
    moved = found.moved().set_index("metric")
    assert list(moved.index) == ["kl", "words"] and found.run.dir == far.dir
    assert (moved.a["kl"], moved.b["kl"], moved.tolerance["kl"]) == pytest.approx((1, 1.1, 0.01))
    assert (moved["b - a"]["words"], moved.tolerance["words"]) == pytest.approx((5, 1))
    whole = comparison.compare(results.RunRecord(evidence[2].dir), found.run).differences
    assert moved.low["kl"] == whole.set_index("metric").low["kl"]
    code, said = ask("--preset", "study")
    assert code == 0 and " 2 moved " in said and "A number moved when it differs by more than" in said


def test_another_device_is_no_other_setting_and_is_said(evidence, make):
    moved = make(2, kl=2.0)
    moved.manifest |= {"device": "cuda", "settings": moved.manifest["settings"] | {"device": "cuda"}}
    moved.manifest["overrides"] = ["device"]
    moved._save()
    make(1, BETA=0.7)  # another experiment
    (one,) = drift.check(["qdpo"], "study")
    assert len(one.moved()) == 2
    assert "on cuda" in drift.text([one]) and "what differs: device cpu and cuda" in " ".join(drift.text([one]).split())


def test_at_most_so_many_numbers_are_shown(evidence, make):
    run = make(2, kl=1.1)
    for values, one in ((1.0, evidence[2]), (2.0, run)):
        one.items("test prompts", "kd", "accuracy", IDS, np.full(60, values))
        for k in range(drift.SHOWN):
            one.items(f"test {k}", "kd", "accuracy", IDS, np.full(60, values))
        one.finish(model={"spec": "x"})
    said = drift.text(drift.check(["qdpo"], "study"))
    assert f"... and 3 more: plumbline compare {evidence[2].dir.name}" in " ".join(said.split())
    assert said.count("| kd ") == drift.SHOWN, "the farthest first"


def test_committed_runs_beside_each_other_and_as_a_summary(evidence):
    code, said = ask("--runs", str(paths.RUNS), "--preset", "study", "--paper", "qdpo", "--markdown")
    assert code == 0 and "Of 6 headline claims compared, 6 lie" in said
    assert "### qdpo, seed 0, preset study" in said and "| claim | this run | cited | verdict |" in said
    assert "| **C4** QDPO repairs" in said and "| agrees |" in said and "**not run here**" in said


def without_items(run):
    """As if it had recorded none: neither the table nor its hash."""
    (run.dir / "items.csv.gz").unlink()
    manifest = json.loads((run.dir / "manifest.json").read_text())
    del manifest["files"]["items.csv.gz"]
    (run.dir / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_that_compares_nothing_does_not_pass(evidence, make):
    without_items(make(9))
    code, said = ask("--preset", "study")
    assert code == 1 and "No headline claim could be compared" in said


def test_a_twin_without_a_score_in_common_costs_only_its_numbers(evidence, make):
    without_items(make(2))
    (one,) = drift.check(["qdpo"], "study")
    assert one.twin.startswith("Single numbers cannot be compared: ") and not len(one.moved())


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "has no fresh finished run, without a setting overridden, of qdpo, lab, attribute_control, mrpo, sea at "
            "preset small: those that are committed are read with --runs results/runs"),
        (["--runs", "{results}"], "of qdpo, lab, attribute_control, mrpo, sea at preset small: it holds no run"),
        (["--runs", "{runs}"], "preset small: it holds runs of qdpo at study"),
        (["--runs", "{runs}", "--preset", "study", "--paper", "sea"], "of sea at preset study: it holds runs of qdpo"),
        (["--runs", "nowhere"], "there is no folder nowhere: name one that holds runs"),
        (["--paper", "mpro"], "drift is told for qdpo, lab, attribute_control, mrpo, sea or all, given 'mpro', did you "
            "mean mrpo?"),
        (["--preset", "smoke"], "drift is told for the presets small, study, paper, given 'smoke'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(evidence, words, said):
    places = {"results": str(paths.RESULTS), "runs": str(paths.RUNS)}
    code, got = ask(*(w.format(**places) for w in words))
    assert code == 2 and said in got and "Traceback" not in got, got


def test_nothing_committed_is_one_sentence(make):
    make(0)
    code, said = ask("--preset", "study")
    assert code == 2 and "is committed and cited: there is nothing to compare with" in said, said
    commit()
    manifest = json.loads((next(paths.RUNS.iterdir()) / "manifest.json").read_text())
    assert manifest["status"] == "done"
    make(1)
    assert ask("--preset", "study")[0] == 1, "one seed predicts nothing: no headline can be compared"
