"""How many queries a method needs to reach a win rate, world by world, runs that never reach it included.

What is compared is log min(T, B): T the queries to the level, B the budget. A run that has not reached the level by B
counts as B, which is less than it needed. So a ratio of two methods is too close to 1 where the slower one is cut off
more often, and its sign is never wrong where only one is. `censored_ratio` corrects for the cut under one more
assumption, and is what the bias is judged by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = (0.7, 0.8, 0.9)


def monotone(rates: Tensor) -> Tensor:
    """The nondecreasing curves closest to those given (looks, worlds), isotonic regression by its max-min formula: a
    lucky look, and a peak that is lost again, count no more than the mean of what follows."""
    total = torch.cat([torch.zeros_like(rates[:1]), rates]).double().cumsum(0)
    n = len(rates)
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]
    mean = (total[j + 1] - total[i]) / (j - i + 1).clamp(min=1)[..., None]  # of looks i to j, (looks, looks, worlds)
    mean = mean.masked_fill((j < i)[..., None], torch.inf)
    least = mean.flip(1).cummin(1).values.flip(1)  # over ends j from k on
    return torch.stack([least[: k + 1, k].amax(0) for k in range(n)])


def queries(counts: Sequence[int], rates: Tensor, level: float) -> Tensor:
    """Queries (worlds,) at which the win rates (looks, worlds), made `monotone`, reach `level`; infinity where they
    never do. Between two looks they lie on a line."""
    at, curve = torch.tensor(counts, dtype=torch.float64), monotone(rates)
    above = curve >= level
    first = above.int().argmax(0)
    last = (first - 1).clamp(min=0)  # the look before, below the level
    low, high = (curve.gather(0, k[None])[0] for k in (last, first))
    way = torch.where(first > 0, (level - low) / (high - low).clamp(min=1e-12), 1.0)
    return torch.where(above.any(0), torch.lerp(at[last], at[first], way.clamp(0, 1)), torch.inf)


def log_restricted(needed: Tensor, budget: int) -> Tensor:
    """log min(T, budget), of T queries at least 1: a level that the start has reached costs nothing."""
    return needed.clamp(1, budget).log()


def ratio(slow: Tensor, fast: Tensor, budget: int) -> float:
    """How many times the queries of `fast` (worlds,) `slow` needs: the geometric mean over the same worlds, each cut at
    the budget."""
    return (log_restricted(slow, budget) - log_restricted(fast, budget)).mean().exp().item()


def censored_ratio(slow: Tensor, fast: Tensor, budget: int, *, steps: int = 200) -> float:
    """The same ratio without the cut, if log T is normal with one deviation for both methods: Tobit, by expectation
    and maximisation (a world cut off counts as what is expected of it beyond the budget)."""
    cut = math.log(budget)
    logs = [log_restricted(t, budget) for t in (slow, fast)]
    reached = [t < budget for t in (slow, fast)]
    normal = torch.distributions.Normal(0.0, 1.0)
    means, deviation = [x.mean() for x in logs], torch.cat(logs).std().clamp(min=1e-6)
    for _ in range(steps):
        filled, more = [], []
        for x, seen, mean in zip(logs, reached, means):
            z = (cut - mean) / deviation
            mills = (normal.log_prob(z).exp() / (1 - normal.cdf(z)).clamp(min=1e-12)).to(x.dtype)
            filled.append(torch.where(seen, x, mean + deviation * mills))
            more.append(torch.where(seen, 0.0, deviation**2 * (1 + z * mills - mills**2)))
        means = [x.mean() for x in filled]
        spread = torch.cat([(x - m) ** 2 + v for x, m, v in zip(filled, means, more)])
        deviation = spread.mean().sqrt().clamp(min=1e-6)
    return (means[0] - means[1]).exp().item()
