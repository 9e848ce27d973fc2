import gzip
import json

import pandas as pd
import pytest

from lib.harness import fits, index, paths, presets, results


def config(seed=0, preset="smoke", **more):
    return presets.resolve("qdpo", {"PRESET": preset, "SEED": seed, **more})


def make(monkeypatch, seed=0, preset="small", dirty=False, leave=(), **more):
    monkeypatch.setattr(results, "git_state", lambda: ("abcdef1234", dirty))
    run = results.start(config(seed, preset, **more), notebook="10_qdpo")
    run.metric("arms", "test prompts", "rtn", "flips", 0.25, n=3)
    run.items("test prompts", "rtn", "flips", ["a", "b"], [0.2, 0.3], weights=[10, 20])
    for dataset, arm in presets.needed("qdpo", run.manifest["settings"]):
        if (dataset, arm) != ("test prompts", "rtn") and arm not in leave:
            run.items(dataset, arm, "something", ["-"], [0.5])
    if leave:
        run.manifest["status"] = "done"
        run._save()
    else:
        run.finish(model={"spec": "x"})
    return run


def test_items_are_byte_equal_for_equal_runs(sandbox, monkeypatch):
    a, b = make(monkeypatch), make(monkeypatch)
    assert (a.dir / "items.csv.gz").read_bytes() == (b.dir / "items.csv.gz").read_bytes()
    assert gzip.decompress((a.dir / "items.csv.gz").read_bytes()).startswith(b"dataset,arm,metric,prompt_id")


def test_only_clean_whole_runs_are_cited(sandbox, monkeypatch):
    make(monkeypatch, seed=0)
    newest = make(monkeypatch, seed=0)
    make(monkeypatch, seed=1, dirty=True)
    make(monkeypatch, seed=2, BETA=0.5)
    make(monkeypatch, seed=3, preset="smoke")
    failed = make(monkeypatch, seed=4)
    results.fail(failed.dir, "x")
    make(monkeypatch, seed=5, leave=["kd"])  # says done, but has nothing of one arm
    stage = make(monkeypatch, seed=6)
    stage.manifest["failed stage"] = "kd"
    (stage.dir / "manifest.json").write_text(json.dumps(stage.manifest))
    assert [r.dir.name for r in results.cited(results.load_runs())] in ([newest.dir.name], [newest.dir.name[:-2]])


def test_runs_of_other_settings_are_not_mixed(sandbox, monkeypatch):
    old = [make(monkeypatch, seed=s) for s in (0, 1)]
    new = make(monkeypatch, seed=1)
    for run, start, beta in ((old[0], "2026-01-01", 0.1), (old[1], "2026-01-02", 0.1), (new, "2026-01-03", 0.7)):
        run.manifest["start"], run.manifest["settings"] = start, run.manifest["settings"] | {"beta": beta}
        run.finish()
    assert [r.dir.name for r in results.cited(results.load_runs())] == [new.dir.name]


def test_a_setting_that_came_later_and_is_not_used_changes_nothing(sandbox, monkeypatch):
    old, new = make(monkeypatch, seed=0), make(monkeypatch, seed=1)
    for start, run, extra in (("2026-01-01", old, {"bad_rows": 0.5}), ("2026-01-02", new, {"later": "none"})):
        run.manifest["start"], run.manifest["settings"] = start, run.manifest["settings"] | extra
        run.finish()
    assert len(results.cited(results.load_runs())) == 2
    new.manifest["settings"]["later"] = "used"
    new.finish()
    assert [r.dir.name for r in results.cited(results.load_runs())] == [new.dir.name]


def test_all_that_was_begun_can_be_joined_and_what_cannot_be_read_is_named(sandbox, monkeypatch):
    made = make(monkeypatch)
    results.start(config(), notebook="10_qdpo")  # nothing recorded yet
    for name, text in (("broken", "{"), ("list", "[]"), ("empty", "")):
        (paths.RUNS / name).mkdir()
        (paths.RUNS / name / "manifest.json").write_text(text)
    (paths.RUNS / "without").mkdir()
    (paths.RUNS / "a file").write_text("")
    said = []
    monkeypatch.setattr(results.progress, "announce", said.append)
    runs = results.load_runs()
    assert len(runs) == 2 and said == ["skipped, for want of a readable manifest.json: broken, empty, list, without"]
    for table in ("metrics", "items", "curve"):
        whole = pd.concat([getattr(r, table)() for r in runs], ignore_index=True)
        assert whole.equals(getattr(made.record(), table)().reset_index(drop=True))
    assert results.cited(runs)[0].dir == made.dir


def test_no_run_that_is_committed_lacks_anything():
    """Those that tried other settings apart: what they had to record was another thing when they ran."""
    runs = [r for r in results.load_runs() if r.manifest.get("status") == "done" and not results.uncited(r.manifest)]
    assert len(runs) > 10 and [(r.dir.name, results.missing(r)) for r in runs if results.missing(r)] == []


def test_no_git_is_unknown_and_dirty(monkeypatch, tmp_path):
    monkeypatch.setattr(results.paths, "ROOT", tmp_path)
    assert results.git_state() == ("unknown", True)


def test_published_numbers_must_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PAPER", tmp_path)
    head = "exhibit,dataset,arm,metric,value,unit,source,seen\n"
    (paths.PAPER / "x.csv").write_text(head + "T1,d,a,m,1,fraction,Table 1,yes\nT1,d,b,m,2,fraction,memory,no\n")
    assert results.published("x").arm.tolist() == ["a"] and results.published("none").empty
    (paths.PAPER / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="needs the columns"):
        results.published("x")


def test_another_device_is_no_other_experiment(sandbox, monkeypatch, complete):
    monkeypatch.setattr(results, "git_state", lambda: ("abcdef1234", False))
    monkeypatch.setattr(fits, "check_device", lambda cfg: None)
    for seed, given in ((0, {}), (1, {"DEVICE": "cuda:1"}), (2, {"BETA": 0.3})):
        cfg = presets.resolve("qdpo", {"PRESET": "study", "SEED": seed} | given)
        complete(results.start(cfg, notebook="10_qdpo")).finish()
    assert [r.manifest["seed"] for r in results.evidence(results.load_runs())] == [0, 1]
    assert results.uncited(results.load_runs()[-1].manifest) == ["BETA is overridden"]


def test_verdicts_come_from_studies_and_pilots_are_never_cited(sandbox, monkeypatch, complete):
    """A small run is cited and decides nothing; a run of the days before there was a study does, until there is one."""
    monkeypatch.setattr(results, "git_state", lambda: ("abcdef1234", False))

    def made(preset, seed, start="2026-12-24T10:00:00+00:00"):
        run = complete(results.start(presets.resolve("qdpo", {"PRESET": preset, "SEED": seed}), notebook="10_qdpo"))
        run.finish()
        path = run.dir / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"start": start}))
        return run.dir.name

    small, pilot = made("small", 0), made("study", results.PILOTS)
    found = lambda f: [r.dir.name for r in f(results.load_runs())]  # noqa: E731
    assert found(results.cited) == [small] and found(results.evidence) == []
    assert "pilots" in results.uncited(next(r.manifest for r in results.load_runs() if r.dir.name == pilot))[0]
    old = made("small", 1, start="2026-11-27T10:00:00+00:00")
    assert found(results.evidence) == [old]
    new = made("study", 1)
    assert found(results.evidence) == [new]


@pytest.mark.slow
def test_the_committed_pages_are_what_the_committed_runs_give():
    assert index.check() == []


def test_cited_runs_are_whole():
    for run in results.cited(results.load_runs()):
        assert (
            run.manifest["status"] == "done" and run.manifest["commit"] != "unknown" and run.manifest["model"]["sha256"]
        )
        m = run.metrics()
        assert (
            m.value.between(-1e4, 1e4).where(m.exhibit != "limits", m.value > 0).all() and len(run.items()) > 100
        )  # limits: operations and bytes a second
