import pandas as pd

from lib.harness import presets, results, tried


def test_tuning_tells_start_from_end(sandbox, monkeypatch, complete):
    monkeypatch.setattr(results, "git_state", lambda: ("abcdef1234", False))
    run = results.start(presets.resolve("qdpo", {"PRESET": "small", "SEED": 100, "LR_KD": 1e-4}), notebook="10_qdpo")
    for arm, kept in (("kd", 0.25), ("qdpo", 0.5)):
        for name, value in {
            "learning rate": 1e-4,
            "kept kl": kept,
            "kept flips": 0.1,
            "kept step": 3,
            "steps": 12,
        }.items():
            run.metric("training", "train", arm, name, value)
        run.curve(arm, [{"step": 0, "validation kl": 0.75}, {"step": 3, "validation kl": kept}])
    complete(run).finish(model={})
    table = tried.tuning(results.load_runs()).set_index("arm")
    assert table.loc["kd", ["start kl", "kept kl"]].tolist() == [0.75, 0.25] and table.loc["qdpo", "n_train"] == 192
    assert pd.isna(table.loc["kd", "beta"]) and table.loc["qdpo", "beta"] == run.manifest["settings"]["beta"]


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
