"""The map's figures show the numbers that were recorded."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lib.harness import maps, style

CELLS = [(n, q) for n in (16, 64) for q in (-0.9, 0.9)]


class Record:
    """A run whose numbers are a constant more."""

    def __init__(self, more=0.0):
        rows = [(f"n {n}, quality {q:g}", arm, metric, q / 10 + n / 1000 + more, 1)
                for n, q in CELLS for arm in maps.PANELS for metric in maps.ROWS]  # fmt: skip
        for e in ("0", "0.1", "none"):
            rows += [(f"epsilon {e}, quality {q}", "mrpo minus dpo", maps.EQUAL, 0.1 + more, 1) for q in (0.9, 0, -0.9)]
        for k in (2, 3):
            rows += [(f"references {k}", f"{a} minus dpo", maps.EQUAL, 0.01 * k, 1) for a in
                ("mrpo", "multi-dpo", "geometric")]  # fmt: skip
        rows += [("good and wrong", f"{a} minus dpo", maps.EQUAL, v, 1) for a, v in (("mrpo", -0.1), ("mrpo-vaw", 0.2))]
        frame = pd.DataFrame(rows, columns=["dataset", "arm", "metric", "value", "n"])
        self.frame = frame.assign(exhibit="map", low=frame.value - 0.1, high=frame.value + 0.1)

    def metrics(self):
        other = self.frame[:1].assign(exhibit="accuracy")
        return pd.concat([self.frame, other])


def test_means_and_errors_over_runs():
    one, two = maps.cells([Record()]), maps.cells([Record(), Record(0.02)])
    first = next(iter(maps.PANELS))
    pick = lambda m: m[(m.dataset == "n 16, quality 0.9") & (m.arm == first) & (m.metric == maps.EQUAL)].iloc[0]  # noqa: E731
    assert pick(one).value == pytest.approx(0.106) and pick(one).error == pytest.approx(0.1)
    assert pick(two).value == pytest.approx(0.116) and pick(two).error == pytest.approx(0.1 / 2**0.5)


def test_every_panel_shows_its_cells():
    figure = maps.exact([Record()])
    panels = [a for a in figure.axes if a.images]
    assert len(panels) == 8 and all(len(a.texts) == 4 for a in panels)
    assert panels[0].images[0].get_array().flatten().tolist() == pytest.approx([-0.074, 0.106, -0.026, 0.154])
    assert [t.get_text() for t in panels[0].texts] == ["-.07", "+.11", "-.03", "+.15"]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["16", "64"]
    assert "MRPO minus DPO: 2 of 4" in figure.get_suptitle()
    plt.close("all")


def test_sections_show_windows_counts_and_rules():
    figure = maps.sections([Record()])
    window, count, rules = figure.axes
    assert len(window.lines) == 4 and [t.get_text() for t in window.get_xticklabels()] == ["0", "0.1", "none"]
    assert count.lines[0].get_xydata().tolist() == [[2, 0.02], [3, 0.03]]
    marks = {m.get_xdata()[0]: m.get_color() for m in rules.lines if m.get_marker() == "o"}
    assert marks == {-0.1: style.METHOD, 0.2: style.VARIANT}
    assert figure.get_suptitle().endswith("mrpo-vaw +0.20, mrpo (arwc) -0.10")
    plt.close("all")


def test_without_a_map_the_figures_say_so():
    class Old:
        def metrics(self):
            return Record().frame.assign(exhibit="accuracy")

    for draw in (maps.exact, maps.sections):
        assert "no cited run has the exact world's map yet" in draw([Old()]).texts[0].get_text()
    plt.close("all")
