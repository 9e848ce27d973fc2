"""Rates are chosen by truth, never at an edge, and the presets hold what the committed rows say."""

import pytest

from lib.harness import presets
from lib.studies.qdpo import tuning


def rows(*found):
    return [
        {"arm": "kd", "rate": rate, "accuracy": accuracy, "kl": kl, "questions": 112} for rate, accuracy, kl in found
    ]


def test_the_most_right_wins_and_of_equals_the_smaller_kl():
    assert tuning.best(rows((0, 0.99, 0.0), (1e-5, 0.5, 0.1), (3e-5, 0.9, 0.3), (1e-4, 0.8, 0.1))) == 3e-5
    assert tuning.best(rows((1e-5, 0.5, 0.1), (2e-5, 0.9, 0.3), (3e-5, 0.9, 0.2), (1e-4, 0.8, 0.1))) == 3e-5


@pytest.mark.parametrize("edge", [0, 2])
def test_an_edge_is_refused(edge):
    accuracy = [0.5, 0.5, 0.5]
    accuracy[edge] = 0.9
    with pytest.raises(ValueError, match="kd is best at .*, an edge of 1e-05, 3e-05, 0.0001$"):
        tuning.best(rows(*zip((1e-5, 3e-5, 1e-4), accuracy, (0.1, 0.1, 0.1))))


def test_the_study_takes_the_committed_best():
    cfg, found = presets.resolve("qdpo", {"PRESET": "study", "SEED": 0}), tuning.load()
    assert {"kd", "qdpo"} <= set(found) <= set(tuning.SETTING)
    for arm, tried in found.items():
        assert cfg[tuning.SETTING[arm]] == tuning.best(tried), arm
        assert {int(r["seed"]) for r in tried} == {tuning.SEED}
        assert {int(r["steps"]) for r in tried if float(r["rate"]) > 0} == {cfg.steps}


def test_what_is_tried_is_a_row_of_truth(sandbox, monkeypatch):
    monkeypatch.setattr(tuning, "CHECKS", 2)
    found = tuning.tried("smoke", ["awq-kd", "kd+qdpo"], [1e-3], seed=200)
    assert [(r["arm"], r["rate"], r["steps"]) for r in found] == [
        ("awq-kd", 0.0, 0), ("awq-kd", 1e-3, 3), ("kd+qdpo", 0.0, 0), ("kd+qdpo", 1e-3, 3)]  # fmt: skip
    assert all(r.keys() == set(tuning.COLUMNS) and r["questions"] == 4 and 0 <= r["accuracy"] <= 1 for r in found)
    assert found[1]["kl"] < found[0]["kl"] and found[0]["kl"] != found[2]["kl"]  # repaired; begun elsewhere
