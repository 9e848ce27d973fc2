"""The picture of all headline claims."""

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


FOUND = {"qdpo C5 flips": (-0.03, -0.05, -0.01, 0.01, "fails"), "qdpo C3c": (0.99, 0.97, 1.01, np.nan, "holds"),
    "attribute_control U1": (0.01, 0.0, 0.02, 0.05, "holds"),
    "lab C5": (0.02, -0.01, 0.05, 0.02, "not resolved")}  # fmt: skip


def test_effects_are_in_what_is_worth_having():
    rows = forest.scaled(table(**FOUND)).set_index("claim")
    assert rows.loc["C5 flips", ["at", "from_", "to"]].tolist() == pytest.approx([-3, -5, -1])
    assert rows.loc["C3c", ["at", "from_", "to"]].tolist() == pytest.approx([2, 1, 3]), "from its bound"
    assert rows.nulls["C5 flips"] == [0] and rows.nulls["U1"] == pytest.approx([-1]) and rows.nulls["C3c"] == [0]
    assert rows.nulls["C1a"] != rows.nulls["C1a"] or len(rows.nulls["C1a"]) == 2, "same: both ends of the band"


def test_the_picture_shows_each_estimate_in_the_colour_of_its_verdict():
    figure = forest.headlines(table(**FOUND))
    axes = figure.axes[0]
    marks = {line.get_xdata()[0]: line for line in axes.lines if line.get_marker() not in ("None", None)}
    assert sorted(marks) == pytest.approx([-3, 0.2, 1, 2])
    assert marks[min(marks)].get_color() == style.VERDICTS["fails"][0]
    assert "4 headline claims: 2 holds, 1 fails, 1 not resolved" in figure.get_suptitle()
    said = {t.get_text() for t in axes.get_yticklabels()}
    assert "QDPO flips fewer tokens than distillation" in said and len(said) == 4
    names = {t.get_text() for t in axes.texts}
    assert {"QDPO", "LAB", "fails"} <= names and "MRPO" not in names
    assert front.clause("lab", "C5") == "phases with replay beat all at once"
    plt.close("all")


def test_without_a_run_the_picture_is_empty_and_drawn():
    assert "0 headline claims: none" in forest.headlines(pd.DataFrame(table())).get_suptitle()
    plt.close("all")
