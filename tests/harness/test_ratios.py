"""Ratios of queries by cell, on runs whose ratio is known, and their picture."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.harness import claims, ratios
from lib.harness.claims import sea

TIMES = {"passive": 4.0, "passive-matched": 3.0, "random-sea": 2.0, "sea-logit": 1.0, "drts": 1.0, "deltaucb": 2.0,
    "sea-truth": 0.5}  # fmt: skip


class Record:
    def __init__(self, seed, cells, missing=(), budget=1e4):
        self.manifest = {"paper": "sea", "preset": "study", "seed": seed, "settings": {}, "run_id": str(seed)}
        rng = np.random.default_rng(seed)
        rows = []
        for cell in cells:
            world = rng.normal(size=20) * 0.5  # how hard a world is, the same for every method
            for arm, times in TIMES.items():
                if arm in missing:
                    continue
                values = math.log(30 * times) + world + rng.normal(size=20) * 0.05
                for k, v in enumerate(values):
                    rows.append((cell, arm, "log queries, 0.8", f"{seed}-{k}", min(v, math.log(budget)), np.nan))
                    rows.append((cell, arm, "reached, 0.8", f"{seed}-{k}", float(v < math.log(budget)), np.nan))
        self.rows = pd.DataFrame(rows, columns=["dataset", "arm", "metric", "prompt_id", "value", "weight"])

    def items(self):
        return self.rows

    def metrics(self):
        return pd.DataFrame(columns=["arm", "metric", "value"])


def test_the_ratios_are_those_of_the_methods():
    found = ratios.table([Record(s, sea.EXACT[:2]) for s in range(3)])
    assert list(dict.fromkeys(found.cell)) == [c.removeprefix("exact ") for c in sea.EXACT[:2]]
    of = found[found.cell == found.cell[0]].set_index("comparison")
    assert of.ratio["SEA for passive"] == pytest.approx(4, rel=0.03) and of.worlds.eq(60).all()
    assert of.ratio["DRTS for SEA"] == pytest.approx(1, rel=0.03)
    assert of.ratio["DeltaUCB for SEA"] == pytest.approx(0.5, rel=0.03)
    parts = of.ratio[["= more steps", "× synthetic pairs", "× the choice"]].prod()
    assert parts == pytest.approx(of.ratio["SEA for passive"]), "the gain, factor by factor"
    assert (of.low < of.ratio).all() and (of.ratio < of.high).all() and (of.high / of.low < 1.1).all()
    assert of.reached.eq(1).all() and of.uncut.to_numpy() == pytest.approx(of.ratio.to_numpy())


def test_worlds_cut_at_the_budget_are_kept_and_the_cut_undone_beside():
    """Passive takes 120 queries, SEA 30, and 100 are given: most of passive's worlds are cut off."""
    found = ratios.table([Record(s, sea.EXACT[:1], budget=100) for s in range(20)]).set_index("comparison")
    gain = found.loc["SEA for passive"]
    assert gain.worlds == 400 and gain["reached by the other"] < 0.5 < 0.9 < gain.reached
    assert 1.5 < gain.ratio < 3.2 and gain.uncut == pytest.approx(4, rel=0.1)


def test_what_was_not_run_is_left_out():
    found = ratios.table([Record(0, sea.EXACT[:1], missing=("drts",))])
    assert "DRTS for SEA" not in set(found.comparison) and len(found) == len(sea.COMPARISONS) - 1
    empty = Record(0, [])
    assert len(ratios.table([empty])) == 0 and ratios.figure([empty])
    plt.close("all")


def test_the_map_says_what_is_better_and_what_is_open():
    figure = ratios.figure([Record(s, sea.EXACT) for s in range(2)])
    titles = [a.get_title(loc="left") for a in figure.axes]
    assert titles == list(sea.COMPARISONS)
    colours = {t: {line.get_color() for line in a.lines[1:]} for t, a in zip(titles, figure.axes)}
    assert colours["SEA for passive"] == {ratios.BETTER} and colours["DeltaUCB for SEA"] == {ratios.WORSE}
    assert ratios.OPEN in colours["DRTS for SEA"]
    assert f"SEA for passive: fewer queries in {len(sea.EXACT)} of {len(sea.EXACT)} worlds" in figure.get_suptitle()
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [c.removeprefix("exact ") for c in sea.EXACT]
    plt.close("all")


def test_a_claim_reads_what_the_map_shows():
    runs = [Record(s, sea.EXACT[:1]) for s in range(3)]
    claim = next(c for c in sea.CLAIMS if c.id == f"R1 {sea.HOME}")
    value, low, high, n = claims.Pool(runs).of(claim).interval()
    row = ratios.table(runs).iloc[0]
    assert (row.ratio, row.low, row.high, row.worlds) == pytest.approx((*np.exp([value, low, high]), n))
    assert claim.worth == pytest.approx(math.log(2) / 2)
