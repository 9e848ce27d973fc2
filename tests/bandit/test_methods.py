"""The table of methods: their losses, shares and rounds, by counting."""

import numpy as np
import pytest
import torch

from lib.bandit import methods
from lib.harness import presets


@pytest.mark.parametrize(
    "name, values, beta",
    [
        ("dpo", [0.6209570478, 0.8259394199, 0.6443966601], 0.1),
        ("slic", [0.7, 1.5, 0.8], 0.2),
        ("ipo", [1.0, 25.0, 2.25], 0.2),
        ("ipo-mean", [5.5617361111, 7.0225, 5.29], 0.2),
    ],
)
def test_policy_losses_by_hand(name, values, beta):
    t = lambda *x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    loss = methods.policy_loss(name, beta=beta)
    got = loss(t(-10, -20, -5.5), t(-12, -18, -5.5), t(-11, -19, -6), t(-11.5, -19.5, -5), t(10, 20, 5), t(12, 15, 5))
    assert got.tolist() == pytest.approx(values, abs=1e-9)


def test_bad_input():
    with pytest.raises(ValueError, match="one of dpo, slic, ipo, ipo-mean, given 'kto'"):
        methods.policy_loss("kto", beta=0.1)


def test_whole_shares_add_up():
    """30 % of 16 in the rounds one after another: 4, 5, 5, 5, 5 and so on, 30 % of what was drawn to the last whole."""
    assert [methods.whole_share(0.3, 16, k) for k in range(10)] == [4, 5, 5, 5, 5, 4, 5, 5, 5, 5]
    for of, size in ((0.3, 16), (0.3, 10), (0.1, 7), (1 / 3, 3), (0.0, 5), (0.999, 128)):
        parts = [methods.whole_share(of, size, k) for k in range(1000)]
        assert sum(parts) == np.floor(of * size * 1000 + 1e-9)
        assert set(parts) <= {int(np.floor(of * size + 1e-9)), int(np.ceil(of * size - 1e-9))}


def test_budgets_are_checked_before_any_work():
    methods.check(presets.resolve("sea", {"PRESET": "smoke", "SEED": 0}))
    with pytest.raises(ValueError, match="^budget holds at least one round of 4 queries .batch., given 2"):
        methods.check(presets.resolve("sea", {"PRESET": "smoke", "SEED": 0, "BUDGET": 2}))


def test_a_person_answers_for_one_method_before_the_notebook(monkeypatch):
    given = {"PRESET": "smoke", "SEED": 0, "REWARD": "person"}
    monkeypatch.delenv("PLUMBLINE_HEADLESS", raising=False)
    with pytest.raises(ValueError, match="one method at a time"):
        methods.check(presets.resolve("sea", given))
    one = presets.resolve("sea", given | {"ARMS": "sea"})
    methods.check(one)
    monkeypatch.setenv("PLUMBLINE_HEADLESS", "1")
    with pytest.raises(ValueError, match="sits before the notebook"):
        methods.check(one)
