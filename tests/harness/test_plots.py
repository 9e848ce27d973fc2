import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.harness import claims, paths, plots


class Record:
    manifest = {"paper": "qdpo", "preset": "small", "seed": 0}

    def items(self):
        rng = np.random.default_rng(0)
        rows = [
            ("test prompts", arm, m, f"p{i}", rng.random(), 10.0)
            for arm in ("fp", "rtn", "qdpo")
            for m in ("flips", "kl")
            for i in range(9)
        ]
        rows += [
            ("exam", arm, "accuracy", f"q{i}", float(rng.random() > 0.5), np.nan)
            for arm in ("fp", "rtn", "qdpo")
            for i in range(9)
        ]
        rows += [
            ("first divergence", v, "forced kl", f"p{i}", rng.random(), np.nan)
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


def test_curves_and_their_meaning():
    figure = plots.curves(
        {"kd": [{"step": 0, "validation kl": 1.0}, {"step": 1}, {"step": 2, "validation kl": 0.5}]}, "validation kl"
    )
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0, 1], [2, 0.5]]
    assert len(plots.glossary("loss", "margin").splitlines()) == 2
    plt.close("all")


def test_the_folder_holds_the_figures_of_the_index_and_no_others():
    there = {p.stem for p in paths.FIGURES.glob("*.svg")}
    assert there == {f"{p}_{f}" for p, figures in plots.INDEX.items() for f in figures} | {"headlines", "speed"}
    words = [f.alt for figures in plots.INDEX.values() for f in figures.values()]
    assert len(set(words)) == len(words) and plots.INDEX.keys() == claims.PAPERS.keys()


def test_timings_say_where_the_whole_range_is_ahead():
    table = pd.DataFrame([("a", "trl", "per second", 2.0, 1.5, 3.0), ("b", "trl", "per second", 1.1, 0.9, 1.3),
        ("a", "trl", "peak GB", 1.4, 1.4, 1.4)],
        columns=["task", "peer", "metric", "ratio", "low", "high"]).assign(machine="amx_bf16")  # fmt: skip
    both = plots.speed(pd.concat([table, table.assign(machine="avx512_bf16")]))  # a row each, not one a machine
    assert len(both.axes[0].get_yticks()) == 3 and "triangle: avx512_bf16" in both.axes[0].get_xlabel()
    figure = plots.speed(table)
    assert figure.get_suptitle() == "Whole range above the peer: faster in 1 of 2, smaller in 1 of 1"
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()][0] == "a, per second, trl"
    plt.close("all")
