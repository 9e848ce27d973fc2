"""How many queries a method needs to reach a win rate, world by world, runs that never reach it included.

What is compared is log min(T, B): T the queries to the level, B the budget. A run that has not reached the level by B
counts as B, which is less than it needed. So a ratio of two methods is too close to 1 where the slower one is cut off
more often, and its sign is never wrong where only one is. `stats.uncut` corrects for the cut under one more
assumption, and is what the bias is judged by.
"""

from __future__ import annotations

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
