"""Figures of one paper show what was recorded and say what is seen."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.harness import panels, results, style

STUDIES = {"attribute_control": ("pareto", "by_lambda"), "lab": ("by_phase", "covered"), "qdpo": ("margin_deciles",
    "breakdown", "formats")}  # fmt: skip


@pytest.mark.parametrize("paper, name", [(p, n) for p, names in STUDIES.items() for n in names])
def test_the_cited_runs_are_drawn_with_a_finding_and_named_axes(paper, name):
    figure = getattr(panels, name)(results.evidence(results.load_runs(paper), paper))
    said = figure.get_suptitle() or figure.axes[0].get_title(loc="left")
    assert any(c.isdigit() for c in said), "a title with a number in it"
    assert all(a.get_xlabel() for a in figure.axes) and figure.patch.get_alpha() in (0, None)
    assert figure.get_facecolor()[3] == 0, "no ground of its own"
    plt.close("all")


class Record:
    manifest = {"seed": 0}

    def curve(self):
        rows = [(f"exact x: {arm}", step, "win rate", end * step / 100) for arm, end in
            (("sea-logit", 0.9), ("passive", 0.7), ("bai", 0.95)) for step in (0, 50, 100)]  # fmt: skip
        return pd.DataFrame(rows, columns=["arm", "step", "name", "value"])


def test_methods_that_claims_name_stand_out_and_the_rest_is_grey():
    figure = panels.by_queries([Record()], "exact x")
    axes = figure.axes[0]
    lines = {line.get_color(): line for line in axes.lines if len(line.get_xdata()) == 3}
    assert lines.keys() == {style.METHOD, style.BLUE, style.FAINT}
    assert np.allclose(lines[style.METHOD].get_ydata(), [0, 0.45, 0.9])
    assert lines[style.METHOD].get_linewidth() > lines[style.BLUE].get_linewidth() > lines[style.FAINT].get_linewidth()
    assert axes.get_title(loc="left") == "At the end: sea-logit 0.900, passive 0.700"
    plt.close("all")
