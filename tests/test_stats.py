import numpy as np
import pytest

from lib import stats


def rng(seed=0):
    return np.random.default_rng(seed)


def test_values_by_hand():
    assert stats.mean_ci([1, 2, 6], rng()).value == 3
    assert stats.ratio_ci([1, 3], [10, 10], rng()).value == 0.2
    assert stats.paired_ci([3, 5], [1, 1], rng()).value == 3
    assert stats.ratio_diff_ci([1, 3], [10, 10], [2, 4], [20, 20], rng()).value == pytest.approx(0.05)


def test_same_seed_same_interval_and_order_does_not_matter_much():
    x = rng(1).normal(size=60)
    assert stats.mean_ci(x, rng()) == stats.mean_ci(x, rng())
    assert stats.mean_ci(x, rng()) != stats.mean_ci(x, rng(5))


def test_constant_has_no_width_and_wider_level_is_wider():
    assert stats.mean_ci([2.0] * 9, rng())[:3] == (2, 2, 2)
    x = rng(1).normal(size=60)
    a, b = stats.mean_ci(x, rng(), level=0.8), stats.mean_ci(x, rng(), level=0.99)
    assert b.low < a.low < a.value < a.high < b.high


def test_interval_covers_about_95_percent():
    g = rng(3)
    hits = [(lambda i: i.low <= 0 <= i.high)(stats.mean_ci(g.normal(size=40), g, reps=400)) for _ in range(300)]
    assert 0.90 <= np.mean(hits) <= 0.98


def test_clusters_stay_together():
    x = np.repeat(rng(2).normal(size=20), 50)  # 50 copies of 20 numbers are 20 facts, not 1000
    names = np.repeat(np.arange(20), 50)
    free, kept = stats.mean_ci(x, rng()), stats.ratio_ci(x, np.ones(1000), rng(), clusters=names)
    assert kept.n == 20 and free.n == 1000
    assert (kept.high - kept.low) > 4 * (free.high - free.low)


def test_pairing_removes_the_prompt():
    g = rng(4)
    prompt = g.normal(size=200) * 10
    a, b = prompt + 0.5 + g.normal(size=200) * 0.1, prompt + g.normal(size=200) * 0.1
    i = stats.paired_ci(a, b, rng())
    assert 0.4 < i.low < i.high < 0.6
    j = stats.ratio_diff_ci(a, np.ones(200), b, np.ones(200), rng())
    assert j.low == pytest.approx(i.low, abs=0.01)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.8]).tolist() == [1, 1]


@pytest.mark.parametrize("bad", [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0])])
def test_bad_columns(bad):
    with pytest.raises(ValueError, match="finite columns of one length"):
        stats.ratio_ci(*bad, rng())
