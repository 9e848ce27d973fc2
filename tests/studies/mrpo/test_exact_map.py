"""What the exact world records: the headline cells a run needs, and a map whose numbers are those of its worlds."""

import pytest
import torch

from lib.harness import presets, results
from lib.harness.presets.mrpo import EXACT
from lib.studies.mrpo import exact_map
from lib.studies.mrpo.exact import Second, draw
from lib.studies.mrpo.exact_arms import cell

GIVEN = {
    "PRESET": "smoke",
    "SEED": 200,
    "WORLDS": 3,
    "EXACT_PROMPTS": 4,
    "EXACT_PAIRS": "16",
    "EXACT_EPSILONS": "0,0.1",
}
CFG = presets.resolve("mrpo", GIVEN)


@pytest.fixture
def run(sandbox, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_PROCESSES", "1")
    return results.start(CFG, notebook="40_mrpo")


def test_headline_cells_record_what_a_complete_run_needs(run):
    exact_map.record_cells(run, CFG)
    items = run.record().items()
    there = set(zip(items.dataset, items.arm))
    assert there == {(d, a) for d, a in presets.needed("mrpo", CFG) if d.startswith("exact")}
    assert exact_map.headline_cells(CFG).keys() == EXACT.keys()
    assert set(items.prompt_id) == {"200-0", "200-1", "200-2"} and set(items.metric) == set(exact_map.ITEMS)
    value = items.set_index(["dataset", "arm", "metric"]).value
    same = value.loc["exact scarce, the same second"]
    assert torch.allclose(*(torch.tensor(same.loc[arm, "expected reward"].to_numpy()) for arm in ("mrpo", "dpo")))
    m = run.record().metrics()
    kl = m[(m.exhibit == "exact") & (m.metric == "KL to 0")].set_index(["dataset", "arm"]).value
    assert kl["exact scarce, good second", "base"] == pytest.approx(0, abs=1e-12)


def test_the_map_has_every_cell_and_section(run):
    exact_map.record_map(run, CFG)
    m = run.record().metrics()
    m = m[m.exhibit == "map"]
    assert {f"n 16, quality {q}" for q in ("-0.9", "0.9")} <= set(m.dataset)
    assert {"epsilon 0, quality 0.9", "references 5", "good and wrong", "anchor times 10"} <= set(m.dataset)
    assert (m.n == 3).all() and (m.low <= m.value).all() and (m.value <= m.high).all()
    nothing = m[m.dataset.str.startswith("epsilon 0, ")].value
    assert nothing.abs().max() < 1e-4  # a window of 0 is DPO


def test_a_cell_of_the_map_is_the_mean_of_its_worlds():
    draws, c = draw(CFG), cell(CFG, 16, Second((0.9,)))
    found = exact_map.measured(draws, c, ["mrpo", "dpo"])
    rows = exact_map.compared("x", draws, c, (("mrpo", "dpo"),))
    d = found["mrpo"]["accuracy"] - found["dpo"]["accuracy"]
    name, arm, metric, value, low, high, n = rows[2]
    assert (name, arm, metric, n) == ("x", "mrpo minus dpo", "accuracy", 3) and value == pytest.approx(d.mean().item())
    assert high - low == pytest.approx(2 * 1.96 * (d.std() / 3**0.5).item())


def test_settings_change_one_thing_at_a_time():
    rows = exact_map.settings(CFG, draw(CFG, worlds=[0, 1]))
    assert len({r[0] for r in rows}) == 6 and len(rows) == 6 * len(exact_map.COMPARED) * len(exact_map.MAPPED)
