import pandas as pd

from lib.harness import paths, presets, results, tried


def test_the_page_of_qdpo_shows_every_rate_tried():
    page = "\n".join(tried.markdown("qdpo", []))
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith(("| kd", "| qdpo"))]
    want = pd.read_csv(paths.DATA / tried.TUNED)
    assert [(arm.strip(), float(rate)) for arm, rate in rows] == list(zip(want.arm, want.rate)) and len(rows) >= 8
    assert tried.markdown("mrpo", []) == []


def test_learning_rates_tried_come_from_clean_runs_only(sandbox, monkeypatch, complete):
    for dirty in (False, True):
        monkeypatch.setattr(results, "git_state", lambda dirty=dirty: ("abcdef1234", dirty))
        run = results.start(presets.resolve("mrpo", {"PRESET": "small", "SEED": 100}), notebook="40_mrpo")
        run.metric("tuning", "plain", "dpo", "validation accuracy at 1e-05", 0.5 + 0.2 * dirty, n=160)
        complete(run).finish(model={})
    table = tried.rates(results.load_runs())
    assert table[["paper", "arm", "task", "learning rate", "score", "n", "seed"]].values.tolist() == [
        ["mrpo", "dpo", "plain", 1e-5, 0.5, 160, 100]
    ]


def test_weights_tried_come_from_clean_runs_that_tried_some(sandbox, monkeypatch, complete):
    for dirty, given in ((False, {"WEIGHTS": "1,4"}), (True, {"WEIGHTS": "1,4"}), (False, {})):
        monkeypatch.setattr(results, "git_state", lambda dirty=dirty: ("abcdef1234", dirty))
        run = results.start(
            presets.resolve("attribute_control", {"PRESET": "small", "SEED": 100} | given),
            notebook="30_attribute_control",
        )
        run.metric("turns", "iteration 0", "ours", "updated", 1.0)
        for arm, worst in (("sft at 0", 1.0), ("ours at 4", 0.5)):
            run.items("written validation", arm, "expected maximum, oracle", ["a", "b"], [worst, worst - 0.25])
            run.items("text validation", arm, "surprise", ["c"], [2 - worst])
        complete(run).finish(model={})
    table = tried.weights(results.load_runs())
    assert table.drop(columns=["paper", "run_id"]).values.tolist() == [
        ["sft", 0.0, 0.875, 1.0, 2, 100],
        ["ours", 4.0, 0.375, 1.5, 2, 100],
    ]
