"""The picture of all headline claims, and arms beside one of them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.harness import claims, forest, front, style


def table(**values):
    """All claims as not run, but for those that are given: "paper id" -> (ours, low, high, smallest, verdict)."""
    whole = claims.evaluate([]).set_index(["paper", "claim"], drop=False)
    for key, found in values.items():
        paper, _, claim = key.partition(" ")
        whole.loc[(paper, claim), ["ours", "low", "high", "smallest", "verdict"]] = found
        whole.loc[(paper, claim), "detectable"] = 0.02
    return whole.reset_index(drop=True)


FOUND = {"qdpo C4": (-0.03, -0.05, -0.01, 0.01, "fails"), "qdpo C3c": (0.99, 0.97, 1.01, np.nan, "holds"),
    "attribute_control U1": (0.01, 0.0, 0.02, 0.05, "holds"),
    "lab C5": (0.02, -0.01, 0.05, 0.02, "not resolved")}  # fmt: skip


def test_effects_are_in_what_is_worth_having():
    rows = forest.scaled(table(**FOUND)).set_index("claim")
    assert rows.loc["C4", ["at", "from_", "to"]].tolist() == pytest.approx([-3, -5, -1])
    assert rows.loc["C3c", ["at", "from_", "to"]].tolist() == pytest.approx([2, 1, 3]), "from its bound"
    alike = table(**FOUND | {"qdpo C3c": (1.0, 1.0, 1.0, np.nan, "holds")})
    alike.loc[alike.claim == "C3c", ["detectable", "n"]] = 0.0, 100
    found = forest.scaled(alike).set_index("claim").loc["C3c", ["at", "from_", "to"]]
    assert found.tolist() == pytest.approx([5, 5, 5]), "in single rows, 0.05 above its bound, where all agree"
    assert rows.nulls["C4"] == [0] and rows.nulls["U1"] == pytest.approx([-1]) and rows.nulls["C3c"] == [0]
    assert rows.nulls["C1a"] != rows.nulls["C1a"] or len(rows.nulls["C1a"]) == 2, "same: both ends of the band"


def test_the_picture_shows_each_estimate_in_the_colour_of_its_verdict():
    figure = forest.headlines(table(**FOUND))
    axes = figure.axes[0]
    marks = {line.get_xdata()[0]: line for line in axes.lines if line.get_marker() not in ("None", None)}
    assert sorted(marks) == pytest.approx([-3, 0.2, 1, 2])
    assert marks[min(marks)].get_color() == style.VERDICTS["fails"][0]
    assert "4 headline claims: 2 holds, 1 fails, 1 not resolved" in figure.get_suptitle()
    said = {t.get_text() for t in axes.get_yticklabels()}
    assert "QDPO repairs what quantization broke" in said and len(said) == 4
    names = {t.get_text() for t in axes.texts}
    assert {"QDPO", "LAB", "fails"} <= names and "MRPO" not in names
    assert front.clause("lab", "C5") == "phases with replay beat all at once"
    plt.close("all")


def test_without_a_run_the_picture_is_empty_and_drawn():
    assert "0 headline claims: none" in forest.headlines(pd.DataFrame(table())).get_suptitle()
    plt.close("all")


class Record:
    """Three arms on the same prompts: b flips 0.2 of the tokens fewer than rtn, qdpo as many."""

    manifest = {"paper": "qdpo", "preset": "small", "seed": 0, "settings": {}}
    TIMES = {"fp": 0.0, "rtn": 0.5, "kd": 0.3, "qdpo": 0.5}

    def __init__(self, prompts=9):
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(len(self.TIMES), prompts)) * 0.01
        noise -= noise.mean(axis=1, keepdims=True)  # so that the means are those above
        rows = [("test prompts", arm, "flips", f"p{i}", level + noise[k, i], 10.0)
            for k, (arm, level) in enumerate(self.TIMES.items()) for i in range(prompts)]  # fmt: skip
        self.rows = pd.DataFrame(rows, columns=["dataset", "arm", "metric", "prompt_id", "value", "weight"])

    def items(self):
        return self.rows

    def metrics(self):
        return pd.DataFrame({"arm": ["kd"], "metric": ["bits per weight"], "value": [5.25]})


def test_arms_are_compared_by_difference_and_turned_so_that_more_is_better():
    base, found = forest.differences([Record()], "flips", "test prompts")
    found = found.set_index("arm")
    assert base == "rtn" and found.value["kd"] == pytest.approx(0.2, abs=0.02) and found.low["kd"] > 0.1
    assert found.low["qdpo"] < 0 < found.high["qdpo"] and found.level["fp"] == pytest.approx(0, abs=0.01)
    pool = claims.Pool([Record()])
    assert found.level["kd"] == pytest.approx(pool.level("test prompts", "kd", "flips").value)
    assert forest.differences([Record()], "flips", "test prompts", base="kd")[0] == "kd"


def test_the_forest_shows_them_best_first_and_says_what_it_shows():
    figure = forest.arms([Record()], "flips")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()][0] == "kd, 5.2 bit" and len(axes.get_yticklabels()) == 3
    assert figure.get_suptitle().startswith("Of 2 arms 1 better than rtn, 0 worse, 1 open; qdpo ")
    assert {t.get_color() for t in axes.get_yticklabels() if t.get_text() == "qdpo"} == {style.METHOD}
    assert "flipped tokens (share), less is better" in axes.get_xlabel() and "1 seed and 9 prompts" in axes.get_xlabel()
    assert sum(t.get_text().startswith("0.") for t in axes.texts) == 3, "the levels"
    plt.close("all")


def test_of_a_single_prompt_the_value_is_shown_without_an_interval():
    _, found = forest.differences([Record(prompts=1)], "flips", "test prompts")
    assert (found.low == found.value).all() and found.set_index("arm").value["kd"] == pytest.approx(0.2, abs=0.05)
    assert forest.arms([Record(prompts=1)], "flips")
    plt.close("all")
