"""Rates: chosen inside the grid or refused, kept as a table that is read back."""

import csv

import pytest

from lib.harness import paths
from lib.harness.presets import sea
from lib.studies.sea import cells, tuning

INSIDE = {0.01: (5.0, 0.5), 0.02: (4.0, 0.6), 0.04: (4.5, 0.6)}


def test_the_lowest_is_the_fewest_queries_then_the_higher_win_rate():
    assert tuning.lowest(INSIDE) == tuning.best(INSIDE) == 0.02 and tuning.beyond(INSIDE) is None
    assert tuning.lowest(INSIDE | {0.04: (4.0, 0.7)}) == 0.04
    assert tuning.best({0.01: (4.0, 0.5), 0.02: (5.0, 0.9)}) == 0.01  # too few to smooth: queries, not win rates


def test_the_best_is_not_a_lucky_point():
    """The lowest, at 0.16, lies beside a far worse one; smoothed, 0.08 has 4.0 + 8.2 + 3.9 and 0.04 4.2 + 8.0 + 4.1."""
    curve = dict(
        zip([0.01, 0.02, 0.04, 0.08, 0.16, 0.32], [(5.0, 0), (4.2, 0), (4.0, 0), (4.1, 0), (3.9, 0), (5.5, 0)])
    )
    assert tuning.lowest(curve) == 0.16 and tuning.beyond(curve) is None and tuning.best(curve) == 0.08
    curve[0.08] = (4.4, 0.9)
    assert tuning.best(curve) == 0.04


@pytest.mark.parametrize("queries, at, more", [((3, 4, 5), 0.01, 0.005), ((5, 4, 3), 0.04, 0.08)])
def test_a_best_rate_at_the_edge_is_named_and_refused(queries, at, more):
    found = {r: (q, 0.5) for r, q in zip(INSIDE, queries)}
    assert tuning.beyond(found) == more
    with pytest.raises(
        ValueError, match=f"sea in cell 'x' does best at {at}, the edge of the rates tried .0.01 to 0.04"
    ):
        tuning.check_inside("sea", "x", found)


def test_a_grid_is_extended_until_the_best_lies_inside(monkeypatch):
    """Fewest queries at 0.1, beyond the grid given."""
    asked = []

    def tried(arm, cell, rates, **kw):
        asked.append(list(rates))
        return {r: (abs(r - 0.1), 0.5) for r in rates}

    monkeypatch.setattr(tuning, "tried", tried)
    found = tuning.tune("passive", "x", [0.01, 0.02, 0.04])
    assert asked == [[0.01, 0.02, 0.04], [0.08], [0.16]] and tuning.best(found) == 0.08
    monkeypatch.setattr(tuning, "tried", lambda arm, cell, rates, **kw: {r: (-r, 0.5) for r in rates})
    with pytest.raises(ValueError, match="the edge of the rates tried"):
        tuning.tune("passive", "x", [0.01, 0.02])


def test_rates_side_by_side_are_rates_alone():
    """What is tried at several rates at once is what each alone gives, up to the random numbers of its play."""
    both = tuning.tried("passive", sea.TINY, [0.02, 0.08], worlds=30, seed=3)
    for lr in both:
        alone = tuning.tried("passive", sea.TINY, [lr], worlds=30, seed=3)[lr]
        assert both[lr] == pytest.approx(alone, abs=0.15)
    assert both[0.02] != both[0.08]


def test_a_table_is_written_replaced_and_read(tmp_path):
    path = tmp_path / "rates.csv"
    tuning.write(path, sea.TINY, "passive", INSIDE)
    tuning.write(path, sea.BASE, "passive", INSIDE)
    tuning.write(path, sea.BASE, "passive", {r / 10: v for r, v in INSIDE.items()})
    assert tuning.read(path) == {(sea.BASE, "passive"): 0.002, (sea.TINY, "passive"): 0.02}
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 6 and [r["rate"] for r in rows if r["chosen"]] == ["0.002", "0.02"]
    tuning.write(path, sea.TINY, "sea-logit", {0.01: (4.0, 0.5), 0.02: (5.0, 0.5)})
    with pytest.raises(ValueError, match="sea-logit in cell 'tiny' does best at 0.01, the edge"):
        tuning.read(path)


def test_controls_share_the_rate_of_their_method_and_heads_alone_need_none():
    rates = {("x", "passive"): 0.03}
    assert tuning.rate_of(rates, "x", "passive-again") == tuning.rate_of(rates, "x", "passive-twice") == 0.03
    assert tuning.rate_of(rates, "x", "heads-only") == tuning.RATES[0]
    with pytest.raises(KeyError, match="no rate was tuned for sea in cell 'x'"):
        tuning.rate_of(rates, "x", "sea")


def test_the_committed_table_has_a_rate_for_everything_that_is_played():
    rates = tuning.read(paths.DATA / "sea_rates.csv")
    for cell in cells.CELLS:
        arms = ["passive", "sea-logit", "sea-truth"] if cell == sea.TINY else sea.CORE
        for arm in arms + (sea.MORE if cell == sea.BASE else []):
            assert tuning.rate_of(rates, cell, arm) > 0
    assert tuning.WORLDS >= 20 and tuning.SEED > 10 * 200  # no seed of a study or a pilot
    with (paths.DATA / "sea_rates.csv").open() as file:
        rows = list(csv.DictReader(file))
    tried = {}
    for r in rows:
        tried.setdefault((r["cell"], r["arm"]), set()).add(float(r["rate"]))
    assert all(set(tuning.RATES) <= of for of in tried.values()), "the same grid for every method"
    assert {r["worlds"] for r in rows} == {str(tuning.WORLDS)}
