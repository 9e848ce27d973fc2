"""Bootstrap intervals over prompts. Every function takes its generator, so the same seed gives the same interval.

A cluster (a prompt) is resampled as a whole: its tokens and its runs under several seeds stay together. Resampling
clusters with replacement is a multinomial count per cluster, so a bootstrap is one matrix product.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    value: float
    low: float
    high: float
    n: int  # clusters, that is independent units


def mean_ci(x, rng: np.random.Generator, reps: int = 2000, level: float = 0.95) -> Interval:
    """Mean of x (N,) with a percentile bootstrap interval."""
    return ratio_ci(x, np.ones(len(x)), rng, reps=reps, level=level)


def paired_ci(a, b, rng: np.random.Generator, clusters=None, reps: int = 2000, level: float = 0.95) -> Interval:
    """Mean of a - b, both (N,) on the same units."""
    d = np.asarray(a, float) - np.asarray(b, float)
    return ratio_ci(d, np.ones(len(d)), rng, clusters=clusters, reps=reps, level=level)


def ratio_ci(num, den, rng: np.random.Generator, clusters=None, reps: int = 2000, level: float = 0.95) -> Interval:
    """sum(num) / sum(den): a rate over tokens where num counts events and den tokens, resampled by cluster."""
    sums = _cluster_sums(clusters, num, den)
    draws = _resample(sums, rng, reps)
    return _interval(sums[0].sum() / sums[1].sum(), draws[0] / draws[1], level, len(sums[0]))


def ratio_diff_ci(
    num_a, den_a, num_b, den_b, rng: np.random.Generator, clusters=None, reps: int = 2000, level: float = 0.95
) -> Interval:
    """Difference of two such rates on the same clusters, resampled together (paired)."""
    sums = _cluster_sums(clusters, num_a, den_a, num_b, den_b)
    draws = _resample(sums, rng, reps)
    value = sums[0].sum() / sums[1].sum() - sums[2].sum() / sums[3].sum()
    return _interval(value, draws[0] / draws[1] - draws[2] / draws[3], level, len(sums[0]))


def holm(p_values) -> np.ndarray:
    """Holm's step-down adjusted p-values: p_(i) -> max over j <= i of min(1, (m - j + 1) p_(j)), in the order given."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    out = np.empty_like(p)
    out[order] = adjusted
    return out


def _cluster_sums(clusters, *columns) -> np.ndarray:
    columns = [np.asarray(c, float) for c in columns]
    n = len(columns[0])
    if n == 0 or any(len(c) != n for c in columns) or not all(np.isfinite(c).all() for c in columns):
        raise ValueError(
            f"a bootstrap needs finite columns of one length >= 1, given lengths {[len(c) for c in columns]}"
        )
    if clusters is None:
        return np.stack(columns)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.stack([np.bincount(index, weights=c, minlength=len(names)) for c in columns])


def _resample(sums: np.ndarray, rng: np.random.Generator, reps: int) -> np.ndarray:
    k = sums.shape[1]
    counts = rng.multinomial(k, np.full(k, 1 / k), size=reps)
    return sums @ counts.T  # (columns, reps)


def _interval(value: float, draws: np.ndarray, level: float, n: int) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), n)
