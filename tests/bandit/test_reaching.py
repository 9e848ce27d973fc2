"""Queries to a level and their ratio, on curves whose answer is known, cut off or not."""

import math

import numpy as np
import pytest
import torch

from lib import stats
from lib.bandit import reaching

COUNTS = list(range(0, 321, 8))


def curves(half: torch.Tensor) -> torch.Tensor:
    """Win rates (looks, worlds) 1 - 0.5 2^(-q / half): 0.75 at q = half, 0.8 at 1.32 half, 0.9 at 2.32 half."""
    return 1 - 0.5 * torch.pow(2.0, -torch.tensor(COUNTS)[:, None] / half)


def needed(half, level=0.8):
    return reaching.queries(COUNTS, curves(half), level)


def uncut(slow, fast, budget=320):
    logs = [reaching.log_restricted(t, budget).numpy() for t in (slow, fast)]
    return math.exp(np.subtract(*stats.uncut(logs, math.log(budget))))


def ratio(slow, fast, budget):
    """Geometric mean over worlds of slow / fast, each cut at the budget: what `harness.ratios` shows."""
    return (reaching.log_restricted(slow, budget) - reaching.log_restricted(fast, budget)).mean().exp().item()


def test_queries_of_a_known_curve():
    for level in reaching.LEVELS:
        exact = 40 * math.log2(0.5 / (1 - level))
        assert needed(torch.tensor([40.0]), level).item() == pytest.approx(exact, abs=0.3)
    assert needed(torch.tensor([1e6])).item() == math.inf
    assert reaching.queries([0, 8], torch.tensor([[0.95], [0.96]]), 0.9).item() == 0


def test_a_lucky_look_and_a_lost_peak_count_no_more_than_what_follows():
    q = lambda *rates: reaching.queries([0, 10, 20, 30], torch.tensor(rates)[:, None], 0.8).item()  # noqa: E731
    assert q(0.5, 0.9, 0.5, 0.6) == math.inf  # lucky
    assert q(0.5, 0.9, 0.9, 0.9) == pytest.approx(7.5)  # on a line between the looks
    assert q(0.5, 1.0, 0.7, 0.9) == pytest.approx(10 * 0.3 / 0.35)  # 1.0 and 0.7 count as 0.85 both
    assert q(0.5, 0.6, 0.7, 0.9) == pytest.approx(25)


def test_monotone_is_isotonic_regression():
    from sklearn.isotonic import IsotonicRegression

    x = torch.rand(15, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for w in range(6):
        expected = IsotonicRegression().fit_transform(np.arange(15), x[:, w].numpy())
        assert reaching.monotone(x)[:, w].numpy() == pytest.approx(expected, abs=1e-12)


def test_a_known_ratio_is_found_where_all_reach_the_level():
    half = torch.exp(torch.randn(80, generator=torch.Generator().manual_seed(1)) * 0.3) * 30
    slow, fast = needed(2 * half), needed(half)
    assert slow.isfinite().all() and ratio(slow, fast, 320) == pytest.approx(2, rel=0.01)
    assert uncut(slow, fast) == pytest.approx(2, rel=0.01)
    assert ratio(fast, slow, 320) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("scale, cut", [(70, 0.12), (100, 0.33), (140, 0.6)])
def test_a_cut_shrinks_a_ratio_and_the_model_of_the_cut_restores_it(scale, cut):
    """A true ratio of 2, more and more of the slow runs cut at the budget: kept, the ratio of restricted queries falls
    towards 1 and never beyond; a dropped row would take the fast worlds for all."""
    half = torch.exp(torch.randn(4000, generator=torch.Generator().manual_seed(2)) * 0.5) * scale
    slow, fast = needed(2 * half), needed(half)
    assert slow.isinf().double().mean().item() > cut
    plain = ratio(slow, fast, 320)
    assert 1 < plain < 2
    off = abs(uncut(slow, fast) - 2)
    assert off < 0.06 < 2 - plain
    both = slow.isfinite() & fast.isfinite()
    assert both.double().mean() < 1 - cut


def test_runs_that_never_reach_are_kept_at_the_budget():
    slow, fast = torch.tensor([math.inf, 100.0]), torch.tensor([50.0, math.inf])
    assert reaching.log_restricted(slow, 200).exp().tolist() == pytest.approx([200, 100])
    assert ratio(slow, fast, 200) == pytest.approx(math.sqrt(200 / 50 * 100 / 200))
    never = torch.full((3,), math.inf)
    assert ratio(never, never, 200) == 1.0
    assert reaching.log_restricted(torch.tensor([0.0]), 200).item() == 0  # the start is there: no less than one query
