import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.harness import claims, plots


class Record:
    manifest = {"paper": "qdpo", "preset": "small", "seed": 0}

    def items(self):
        rng = np.random.default_rng(0)
        rows = [
            ("test prompts", arm, m, f"p{i}", rng.random(), 10.0)
            for arm in ("fp", "rtn", "qdpo")
            for m in ("flips", "kl", "agreement prefix")
            for i in range(9)
        ]
        rows += [
            ("first divergence", v, "agreement", f"p{i}", rng.random(), np.nan)
            for v in ("flip only", "full quantized decoding")
            for i in range(9)
        ]
        return pd.DataFrame(rows, columns=["dataset", "arm", "metric", "prompt_id", "value", "weight"])

    def metrics(self):
        rows = [("flips", "rtn", f"flip rate, margin decile {k}", 0.5 / k) for k in range(1, 11)]
        rows += [("formats", f"W{b} g{g}", "flip rate", 1 / b) for b in (3, 4) for g in (32, -1)]
        return pd.DataFrame(rows, columns=["exhibit", "arm", "metric", "value"])


def test_index_figures_are_byte_equal(tmp_path):
    a, b = (plots.index_figures("qdpo", [Record()], tmp_path / x) for x in "ab")
    assert len(a) == len(plots.INDEX["qdpo"]) and [x.read_bytes() for x in a] == [x.read_bytes() for x in b]


def test_bars_show_the_pooled_rate():
    figure = plots.arms([Record()], "flips")
    widths = [p.get_width() for p in figure.axes[0].patches]
    pool = claims.Pool([Record()])
    assert widths == pytest.approx([pool.level("test prompts", a, "flips").value for a in ("rtn", "qdpo")])
    plt.close("all")


def test_curves_and_their_meaning():
    figure = plots.curves(
        {"kd": [{"step": 0, "validation kl": 1.0}, {"step": 1}, {"step": 2, "validation kl": 0.5}]}, "validation kl"
    )
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0, 1], [2, 0.5]]
    assert len(plots.glossary("loss", "margin").splitlines()) == 2
    plt.close("all")


def test_every_arm_has_its_colour():
    from lib.harness import presets

    arms = presets.settings("qdpo")["arms"].allowed
    assert set(arms) <= plots.COLOURS.keys() and len({plots.COLOURS[a] for a in arms}) == len(arms)


def test_a_single_prompt_has_a_bar_and_no_interval():
    class One(Record):
        def items(self):
            rows = super().items()
            return rows[rows.prompt_id == rows.prompt_id.iloc[0]]

    widths = [p.get_width() for p in plots.arms([One()], "flips").axes[0].patches]
    assert len(widths) == 2 and all(w > 0 for w in widths)
    plt.close("all")
