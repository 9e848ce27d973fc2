"""Intervals that cover what varies, seeds and prompts crossed, and verdicts read from the interval that is printed.

A table holds a number for each (seed, prompt), thought of as value(seed, prompt) = mean + seed + prompt + rest, all
random but the mean: other seeds and other prompts would have given others. A rate is sum(num) / sum(den); what is
analysed is its linearisation z = (num - rate den) / mean(den), whose mean is as uncertain as the rate. A difference of
two rates on the same cells is the difference of their z.

The interval is Banerjee's: half-widths by seed and by prompt, added in quadrature. A bootstrap over prompts, one over
both factors, and a t interval with Satterthwaite's degrees of freedom all cover less than they say with three seeds:
`lib.harness.coverage` compares them. No claim is made for a single rate near 0 or 1 that seeds move by 0.1 and more:
it is skewed, and 95 % cover 92 and less.

Axes: S seeds, P prompts, N cells of the table that are there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr, stdtr, stdtrit

LEVEL = 0.95
ROUNDING = 1e-12  # of the largest number that enters: what is left below it is no variance
HALVINGS = 50


class Interval(NamedTuple):
    value: float
    low: float
    high: float
    n: int  # independent units: prompts, worlds, clusters


class Estimate(NamedTuple):
    """A value and the parts of its variance; numbers, or arrays of one shape.

    half-width = sqrt(sum_k t_k^2 v_k), t_k the (1 + level) / 2 quantile of Student's t with df_k: covers at least
    `level` whatever the parts' shares, each v_k a chi-square of its own (Banerjee, Sankhya 22, 1960); the t interval
    where there is one part.
    """

    value: float
    variances: tuple  # v_k: by seed, then what prompts add
    dfs: tuple  # df_k
    n: int  # prompts or worlds
    seeds: int  # 1: the interval covers prompts only; 0: nothing depends on a seed

    @property
    def se(self):
        return np.sqrt(sum(self.variances))

    @property
    def p(self):
        """Two-sided, against 0: the p at which the interval of level 1 - p ends at 0. Without variance 1 at 0, else
        0."""
        size, se = np.abs(self.value), self.se
        t = np.divide(size, se, out=np.zeros(np.shape(se)), where=se > 0)
        low, high = (
            np.log(np.maximum(2 * stdtr(choose.reduce(self.dfs), -t), 1e-300)) for choose in (np.maximum, np.minimum)
        )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            beyond = self._reach(np.exp(middle) / 2) > size
            low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
        return np.where(se > 0, np.exp(high), size == 0.0)[()]

    def interval(self, level: float = LEVEL) -> Interval:
        half = self._reach((1 - level) / 2)
        return Interval(self.value, self.value - half, self.value + half, self.n)

    def detectable(self, level: float = LEVEL, power: float = 0.8) -> float:
        """The effect that a study with this spread sees with this power: (t_{(1 + level) / 2} + t_power) se, either
        product as in the half-width."""
        return self._reach((1 - level) / 2) + self._reach(1 - power)

    def _reach(self, tail):
        """sqrt(sum_k t_k^2 v_k), each t_k with `tail` beyond it."""
        return np.sqrt(sum(v * stdtrit(df, tail) ** 2 for v, df in zip(self.variances, self.dfs)))


# ------------------------------------------------------------------------------------------------ tables


class Table(NamedTuple):
    """A rate, or a difference of rates, and its linearised cells."""

    value: float
    z: np.ndarray  # (..., S, P), mean 0; 0 where no cell is
    there: np.ndarray  # (S, P) bool
    prompts: np.ndarray  # (P,) names


def rates(num, den, prompts, seeds) -> Table:
    """The table of the rate sum(num) / sum(den), from columns (rows,) in any order; rows of one cell are summed.

    ValueError: columns of unequal length, empty or not finite; a denominator of 0; fewer than two prompts.
    """
    there, names, columns = _cells(prompts, seeds, num, den)
    return linearise(there, columns, prompts=names)


def differences(num_a, den_a, num_b, den_b, prompts, seeds) -> Table:
    """The table of rate a minus rate b, both on the same rows; as `rates`."""
    there, names, columns = _cells(prompts, seeds, num_a, den_a, num_b, den_b)
    return linearise(there, columns[:2], columns[2:], prompts=names)


def linearise(there, a, b=None, prompts=None) -> Table:
    """From a = (num, den), each (..., S, P), 0 where `there` (S, P) is False: R = sum(num) / sum(den),
    z = (num - R den) / mean(den); of b both are subtracted."""
    value, z, largest = 0.0, 0.0, 0.0
    for sign, (num, den) in zip((1, -1), (a, b) if b else (a,)):
        total = den.sum((-2, -1))
        if not (total > 0).all():
            raise ValueError("a rate needs a denominator above 0")
        rate, mean = num.sum((-2, -1)) / total, (total / there.sum())[..., None, None]
        value = value + sign * rate
        z = z + sign * (num - rate[..., None, None] * den) / mean
        largest = np.maximum(largest, np.abs(num / mean).max((-2, -1), keepdims=True))
    return Table(value, np.where(np.abs(z) > ROUNDING * largest, z, 0.0), there, prompts)


def _cells(prompts, seeds, *columns):
    columns = [np.asarray(c, float) for c in columns]
    lengths = [len(c) for c in (*columns, prompts, seeds)]
    if lengths[0] == 0 or len(set(lengths)) > 1 or not all(np.isfinite(c).all() for c in columns):
        raise ValueError(f"an interval needs finite columns of one length >= 1, given lengths {lengths}")
    (names, j), (rounds, i) = (np.unique(np.asarray(x), return_inverse=True) for x in (prompts, seeds))
    shape = len(rounds), len(names)
    if shape[1] < 2:
        raise ValueError("an interval needs two prompts or worlds at least: one unit shows no spread")
    place = i * shape[1] + j
    sums = [np.bincount(place, weights=c, minlength=shape[0] * shape[1]).reshape(shape) for c in columns]
    return np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape) > 0, names, sums


# ------------------------------------------------------------------------------------------------ estimates


class Components(NamedTuple):
    """Variances of a cell's parts; prompt and rest together in `rest` where every prompt occurs under one seed only."""

    seed: float
    prompt: float
    rest: float


def components(table: Table) -> Components:
    """By the method of moments, floored at 0 (on a complete table the ANOVA estimates). ValueError with one seed."""
    return Components(*(np.maximum(c, 0.0)[()] for c in _moments(table)))


def estimate(table: Table) -> Estimate:
    """The table's value with v_seed = MS_seed / N on S - 1 degrees of freedom and v_prompt = (MS_prompt - MS_rest) / N
    on P - 1, never so small that the sum falls below either one-way variance.

    On a table with gaps: the same from the components, and sum(n)^2 / sum(n^2) in place of S and of P. Every prompt
    under one seed only: by seeds alone. One seed: by prompts alone.
    """
    S, P = table.there.shape
    per_seed, per_prompt = table.there.sum(1), table.there.sum(0)
    N = per_seed.sum()
    if S == 1 or N == P:
        sums, units = (table.z.sum(-2), P) if S == 1 else (table.z.sum(-1), S)
        return Estimate(table.value, ((sums**2).sum(-1) * units / (units - 1) / N**2,), (units - 1,), P, S)
    repeats_seed, repeats_prompt = (per_seed**2).sum() / N, (per_prompt**2).sum() / N
    seed, prompt, rest = _moments(table)
    rest = np.maximum(rest, 0.0)
    by_seed, by_prompt = (np.maximum(x, 0.0) / N for x in (repeats_seed * seed + rest, repeats_prompt * prompt + rest))
    added = np.maximum(by_prompt - np.minimum(by_seed, rest / N), 0.0)
    return Estimate(table.value, (by_seed, added), (N / repeats_seed - 1, N / repeats_prompt - 1), P, S)


def _moments(table: Table):
    """Unbiased components by Henderson's method 1 (Biometrics 9, 1953), negative ones as they are: sums of squares by
    seed, by prompt and of cells, less the mean's, are linear in the three variances."""
    z, there = table.z, table.there
    (S, P), per_seed, per_prompt = there.shape, there.sum(1), there.sum(0)
    if S == 1:
        raise ValueError("components of variance need two seeds at least")
    N = per_seed.sum()
    squares = (z.sum(-1) ** 2 / per_seed).sum(-1), (z.sum(-2) ** 2 / per_prompt).sum(-1), (z**2).sum((-2, -1))
    mean = z.sum((-2, -1)) ** 2 / N
    expected = np.array([[N, S, S], [P, N, P], [N, N, N]]) - [(per_seed**2).sum() / N, (per_prompt**2).sum() / N, 1.0]
    if N == P:
        expected[:, 1] = 0.0
    return np.tensordot(np.linalg.pinv(expected), np.stack(squares) - mean, 1)


def crossed(num, den, prompts, seeds) -> Estimate:
    """sum(num) / sum(den) with seeds and prompts crossed; see `rates` and `estimate`."""
    return estimate(rates(num, den, prompts, seeds))


def crossed_difference(num_a, den_a, num_b, den_b, prompts, seeds) -> Estimate:
    """Rate a minus rate b on the same rows; see `differences` and `estimate`."""
    return estimate(differences(num_a, den_a, num_b, den_b, prompts, seeds))


def one_way(num, den, units) -> Estimate:
    """sum(num) / sum(den) where nothing depends on a seed: rows of a unit are summed, t with units - 1 degrees."""
    return crossed(num, den, units, np.zeros(len(units)))._replace(seeds=0)


def one_way_difference(num_a, den_a, num_b, den_b, units) -> Estimate:
    """Rate a minus rate b on the same rows; as `one_way`."""
    return crossed_difference(num_a, den_a, num_b, den_b, units, np.zeros(len(units)))._replace(seeds=0)


# ------------------------------------------------------------------------------------------------ one more seed, power


def predict(table: Table, new_prompts=None, level: float = LEVEL) -> Interval:
    """Where the value of one more seed will lie: value +- t sqrt((1 + 1 / S) var(seed means) + prompts), t on S - 1
    degrees of freedom (Hahn, JASA 64, 1969; CORE-Bench, arXiv 2409.11363).

    `new_prompts`: names of the prompts it answers, where they are not the table's; m of them, k in the table, add
    prompt (1 / m + 1 / P - 2 k / (m P)) + rest (1 / m - S / N), floored at 0, and t's degrees become Satterthwaite's.
    """
    S, P = table.there.shape
    if S == 1:
        raise ValueError("one seed does not say where another will lie")
    means = table.z.sum(-1) / table.there.sum(1)
    seed, other = (1 + 1 / S) * means.var(ddof=1), 0.0
    if new_prompts is not None:
        names = np.unique(np.asarray(new_prompts))
        m, shared = len(names), np.isin(names, table.prompts).sum()
        c = components(table)
        moved = c.prompt * (1 / m + 1 / P - 2 * shared / (m * P)) + c.rest * (1 / m - S / table.there.sum())
        other = max(moved, 0.0)
    spread = seed**2 / (S - 1) + other**2 / (P - 1)
    df = (seed + other) ** 2 / spread if spread > 0 else S - 1
    return Estimate(table.value, (seed + other,), (df,), P, S).interval(level)


def power(effect: float, components: Components, *, seeds: int, prompts: int, level: float = LEVEL) -> float:
    """Chance that the interval of a design excludes 0 on the effect's side, by the equation of `detectable`."""
    design = _design(components, seeds, prompts)
    over = abs(effect) - design._reach((1 - level) / 2)
    tail = design._replace(value=over).p / 2
    return float(1 - tail if over > 0 else tail)


def detectable(components: Components, *, seeds: int, prompts: int, level: float = LEVEL, power: float = 0.8) -> float:
    """The smallest effect that a design detects with this power: (t_{(1 + level) / 2} + t_power) se, either product
    sqrt(sum_k t_k^2 v_k) as in `Estimate`. Worlds: Components(0, variance of a world, 0) and one seed.
    ValueError: one seed although seeds differ."""
    design = _design(components, seeds, prompts)
    return float(design.detectable(level, power))


def _design(c: Components, seeds: int, prompts: int) -> Estimate:
    if seeds == 1:
        if c.seed > 0:
            raise ValueError("one seed cannot show how far seeds differ: plan two at least")
        return Estimate(0.0, ((c.prompt + c.rest) / prompts,), (prompts - 1,), prompts, seeds)
    variances = c.seed / seeds + c.rest / (seeds * prompts), c.prompt / prompts
    return Estimate(0.0, variances, (seeds - 1, prompts - 1), prompts, seeds)


# ------------------------------------------------------------------------------------------------ verdicts


def holm(p_values) -> np.ndarray:
    """Holm's step-down adjusted p-values: p_(i) -> max over j <= i of min(1, (m - j + 1) p_(j)), in the order given."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    out = np.empty_like(p)
    out[order] = adjusted
    return out


def holm_levels(p_values, level: float = LEVEL) -> np.ndarray:
    """Levels at which the intervals exclude 0 exactly where Holm's step-down rejects at 1 - level.

    By ascending p, rank i of m gets 1 - (1 - level) / (m - i + 1), equal p the first one's; the first that is not
    rejected passes its level on to all after it.
    """
    p = np.asarray(p_values, float)
    alphas = (1 - level) / (len(p) - np.searchsorted(np.sort(p), p))
    return 1 - np.minimum(alphas, alphas[p >= alphas].min(initial=1.0))


def uncut(samples, cut: float, steps: int = 200) -> list[float]:
    """Means of samples of which what lies at or above `cut` is known to lie beyond it and no more, if all are normal
    with one deviation: Tobit's, by expectation and maximisation. NaN for a sample that lies beyond it entirely."""
    samples = [np.asarray(x, float) for x in samples]
    seen = [x < cut for x in samples]
    if all(known.all() for known in seen):
        return [x.mean() for x in samples]
    means, deviation = [np.minimum(x, cut).mean() for x in samples], max(np.concatenate(samples).std(), 1e-9)
    for _ in range(steps):
        squares, n = 0.0, 0
        for k, (x, known) in enumerate(zip(samples, seen)):
            z = (cut - means[k]) / deviation
            mills = np.exp(-(z**2) / 2 - log_ndtr(-z)) / np.sqrt(2 * np.pi)  # of the normal beyond z: its mean
            filled = np.where(known, x, means[k] + deviation * mills)
            means[k] = filled.mean()
            beyond = deviation**2 * (1 + z * mills - mills**2)  # and its variance
            squares, n = squares + ((filled - means[k]) ** 2 + np.where(known, 0.0, beyond)).sum(), n + len(x)
        deviation = max(np.sqrt(squares / n), 1e-9)
    return [m if known.any() else np.nan for m, known in zip(means, seen)]


def verdict(interval: Interval, smallest: float) -> str:
    """The verdict on a claimed gain, the interval turned so that the claimed side is positive and `smallest` > 0 the
    least effect worth having: an interval inside (-smallest, smallest) is a finding of its own."""
    if not smallest > 0:
        raise ValueError(f"the smallest effect worth having must be above 0, not {smallest}")
    if -smallest < interval.low and interval.high < smallest:
        return "no difference"
    if interval.low > 0 and interval.value >= smallest:
        return "holds"
    if interval.high < 0 and interval.value <= -smallest:
        return "fails"
    return "not resolved"


def not_worse(interval: Interval, smallest: float) -> str:
    """The verdict on "not worse by `smallest`", the interval turned so that positive is better."""
    return "holds" if interval.low > -smallest else "fails" if interval.high < -smallest else "not resolved"
