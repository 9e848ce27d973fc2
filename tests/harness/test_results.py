import gzip
import json

import pandas as pd
import pytest

from lib.harness import index, paths, presets, results


def config(seed=0, preset="smoke", **more):
    return presets.resolve("qdpo", {"PRESET": preset, "SEED": seed, **more})


def make(monkeypatch, seed=0, preset="small", dirty=False, **more):
    monkeypatch.setattr(results, "git_state", lambda: ("abcdef1234", dirty))
    run = results.start(config(seed, preset, **more), notebook="10_qdpo")
    run.metric("arms", "test prompts", "rtn", "flips", 0.25, n=3)
    run.items("test prompts", "rtn", "flips", ["a", "b"], [0.2, 0.3], weights=[10, 20])
    run.finish(model={"spec": "x"})
    return run


def test_a_run_leaves_everything(sandbox, monkeypatch):
    monkeypatch.delenv("PLUMBLINE_RUN_DIR", raising=False)
    run = results.start(config(seed=3), notebook="10_qdpo")
    assert json.loads((run.dir / "manifest.json").read_text())["status"] == "running"
    with run.stage("train"):
        pass
    run.metric("arms", "test prompts", "rtn", "flips", 1 / 3, low=0.1, high=0.5, n=9)
    run.items("test prompts", "rtn", "flips", ["a", "b"], [0.5, 1], weights=[10, 20])
    run.curve("kd", [{"step": 0, "kl": 0.5}, {"step": 1, "kl": 0.25, "seconds": 9}])
    run.samples([{"arm": "rtn", "answer": "é"}])
    run.finish(model={"spec": "x"})
    m = results.load_runs("qdpo")[0].manifest
    assert m["status"] == "done" and m["seed"] == 3 and m["stages"].keys() == {"train"} and m["settings"]["bits"] == 3
    row = run.record().metrics().iloc[0]
    assert (
        list(run.record().metrics().columns) == results.METRIC_COLUMNS
        and row.value == pytest.approx(1 / 3, abs=1e-7)
        and row.run_id == run.dir.name
    )
    assert run.record().items().weight.tolist() == [10, 20]
    assert pd.read_csv(run.dir / "curve.csv").name.tolist() == ["kl", "kl"]
    assert json.loads((run.dir / "samples.jsonl").read_text())["answer"] == "é"


def test_bad_numbers_are_refused(sandbox):
    run = results.start(config(), notebook="n")
    with pytest.raises(ValueError, match="no measurement"):
        run.metric("a", "b", "c", "d", float("nan"))
    run.metric("a", "b", "c", "d", 1.0)
    with pytest.raises(ValueError, match="already recorded"):
        run.metric("a", "b", "c", "d", 2.0)


def test_a_failing_stage_is_named(sandbox):
    run = results.start(config(), notebook="n")
    with pytest.raises(RuntimeError), run.stage("kd"):
        raise RuntimeError
    assert json.loads((run.dir / "manifest.json").read_text())["failed stage"] == "kd"
    results.fail(run.dir, "no memory", "cell", "tail")
    assert results.load_runs()[0].manifest["status"] == "failed"


def test_two_runs_never_share_a_folder(sandbox):
    a, b = (results.new_run_dir("qdpo", "smoke", 0) for _ in range(2))
    assert a != b and a.is_dir() and b.is_dir()


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
    for start, run, extra in (("2026-01-01", old, {}), ("2026-01-02", new, {"later": "none"})):
        run.manifest["start"], run.manifest["settings"] = start, run.manifest["settings"] | extra
        run.finish()
    assert len(results.cited(results.load_runs())) == 2
    new.manifest["settings"]["later"] = "used"
    new.finish()
    assert [r.dir.name for r in results.cited(results.load_runs())] == [new.dir.name]


def test_no_git_is_unknown_and_dirty(monkeypatch, tmp_path):
    monkeypatch.setattr(results.paths, "ROOT", tmp_path)
    assert results.git_state() == ("unknown", True)


def test_published_numbers_must_be_seen(sandbox):
    paths.PAPER.mkdir(parents=True)
    head = "exhibit,dataset,arm,metric,value,unit,source,seen\n"
    (paths.PAPER / "x.csv").write_text(head + "T1,d,a,m,1,fraction,Table 1,yes\nT1,d,b,m,2,fraction,memory,no\n")
    assert results.published("x").arm.tolist() == ["a"] and results.published("none").empty
    (paths.PAPER / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="needs the columns"):
        results.published("x")


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
