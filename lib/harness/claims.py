"""Claims of each paper as rules, written before the runs they judge; verdicts are computed from pooled per-prompt scores.

A rule sees a `Pool`: the items of all cited runs of one paper and preset, seeds stacked. Intervals are 95 % paired
bootstraps that resample prompts, and keep all seeds of a prompt together; where one claim is tested on several metrics,
the level is Bonferroni-corrected. Verdicts: holds, direction holds, not resolved, fails, not run (and smoke, which is no
evidence). Fewer than three seeds are never more than not resolved, except where nothing depends on a seed (`trained=False`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib import stats

LEVEL, MIN_SEEDS = 0.95, 3
COLUMNS = ["claim", "paper", "statement", "source", "published", "ours", "low", "high", "n", "seeds", "preset", "verdict"]
HIGHER_IS_BETTER = {
    "flips": False, "kl": False, "agreement prefix": True, "exact match": True, "rouge-l": True, "fp likelihood": True,
    "accuracy": True, "net wins": True,
}  # fmt: skip
TABLE_METRICS = ["flips", "kl", "agreement prefix", "exact match", "rouge-l", "fp likelihood", "length ratio"]


@dataclass(frozen=True)
class Outcome:
    value: float
    low: float
    high: float
    n: int
    verdict: str


@dataclass(frozen=True)
class Claim:
    id: str
    statement: str
    rule: Callable[[Pool], Outcome]
    source: str = "arXiv 2407.03051, abstract and summaries"
    published: str = "not seen"
    trained: bool = True  # False: no arm of it depends on a seed; all runs repeat one measurement


class NotRun(LookupError):
    """An arm that a rule needs was not run."""


class Pool:
    """Items of several runs side by side: rows dataset, arm, metric, prompt_id, value, weight, seed."""

    def __init__(self, runs: Sequence):
        frames = [r.items().assign(seed=r.manifest["seed"]) for r in runs]
        self.items = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        self.seeds = sorted({r.manifest["seed"] for r in runs})
        self.used = set(self.seeds)  # seeds that have every row asked for so far
        metrics = [r.metrics() for r in runs]
        self.metrics = pd.concat(metrics, ignore_index=True) if metrics else pd.DataFrame()

    def rows(self, dataset: str, arm: str, metric: str) -> pd.DataFrame:
        """One row a (prompt, seed), indexed by them; NotRun if the arm was not."""
        i = self.items
        found = i[(i.dataset == dataset) & (i.arm == arm) & (i.metric == metric)]
        if found.empty:
            raise NotRun(f"{arm}: no {metric} on {dataset}")
        self.used &= set(found.seed)
        return found.set_index(["prompt_id", "seed"]).sort_index()

    def rate(self, dataset: str, arm: str, metric: str, level: float = LEVEL):
        """Weighted mean and its interval."""
        r = self.rows(dataset, arm, metric)
        return stats.ratio_ci(*_sums(r), _rng(), clusters=_prompts(r), level=level)

    def difference(self, dataset: str, metric: str, a: str, b: str, level: float = LEVEL):
        """Weighted mean of arm a minus that of arm b on the (prompt, seed) rows that both have."""
        x, y = self._pair(dataset, metric, a, b)
        return stats.ratio_diff_ci(*_sums(x), *_sums(y), _rng(), clusters=_prompts(x), level=level)

    def by_seed(self, dataset: str, metric: str, a: str, b: str) -> list[float]:
        """The same difference for each seed alone."""
        x, y = self._pair(dataset, metric, a, b)
        mean = lambda rows: (lambda v, w: v.sum() / w.sum())(*_sums(rows))  # noqa: E731
        return [mean(x.xs(s, level="seed")) - mean(y.xs(s, level="seed")) for s in x.index.get_level_values("seed").unique()]

    def _pair(self, dataset: str, metric: str, a: str, b: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        if metric == "net wins":  # per prompt: +1 win, -1 lose
            x, y = (self.rows(dataset, arm, "win").assign(weight=1.0) for arm in (a, b))
            x, y = (f.assign(value=f.value - self.rows(dataset, arm, "lose").value) for f, arm in ((x, a), (y, b)))
        else:
            x, y = self.rows(dataset, a, metric), self.rows(dataset, b, metric)
        both = x.index.intersection(y.index)
        return x.loc[both], y.loc[both]

    def ratio(self, dataset: str, metric: str, a: str, b: str):
        """(1 - mean of a) / (1 - mean of b): the share of b's loss that a alone explains."""
        x, y = self.rows(dataset, a, metric), self.rows(dataset, b, metric)
        return stats.ratio_ci(1 - x.value.to_numpy(), 1 - y.value.to_numpy(), _rng(), clusters=_prompts(x), level=LEVEL)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)  # the same resamples for every claim: verdicts do not depend on their order


def _sums(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    weight = rows.weight.fillna(1.0).to_numpy(float)
    return rows.value.to_numpy(float) * weight, weight


def _prompts(rows: pd.DataFrame) -> np.ndarray:
    return rows.index.get_level_values("prompt_id").to_numpy()


def _outcome(interval, verdict: str, sign: float = 1.0) -> Outcome:
    low, high = sorted((sign * interval.low, sign * interval.high))
    return Outcome(sign * interval.value, low, high, interval.n, verdict)


def better(a: str, b: str, metric: str, *, tests: int, dataset: str = "test prompts") -> Callable[[Pool], Outcome]:
    """Improvement of a over b, oriented so that positive is better.

    holds: the corrected interval lies above 0 and every seed alone is on that side; direction holds: at least the uncorrected one
    lies above 0; fails: the uncorrected one lies below 0 (a loss needs no more evidence than a gain's direction).
    """
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0

    def rule(pool: Pool) -> Outcome:
        strict = pool.difference(dataset, metric, a, b, level=1 - (1 - LEVEL) / tests)
        plain = pool.difference(dataset, metric, a, b)
        low, high = sorted((sign * plain.low, sign * plain.high))
        agree = all(sign * d > 0 for d in pool.by_seed(dataset, metric, a, b))
        if min(sign * strict.low, sign * strict.high) > 0 and agree:
            verdict = "holds"
        else:
            verdict = "direction holds" if low > 0 else "fails" if high < 0 else "not resolved"
        return _outcome(strict, verdict, sign)

    return rule


def _accuracy_hides_flips(pool: Pool) -> Outcome:
    """Holds: the accuracy interval contains 0 and lies within 5 points, while more than 2 % of tokens flip."""
    d = pool.difference("common knowledge", "accuracy", "rtn", "fp")
    flips = pool.rate("test prompts", "rtn", "flips").low > 0.02
    hidden = d.low <= 0 <= d.high
    verdict = "holds" if flips and hidden and d.low > -0.05 else "not resolved" if flips and hidden else "fails"
    return _outcome(d, verdict)


def _small_margins(pool: Pool) -> Outcome:
    """Holds: flipped positions have the smaller margin and the flip rate falls over its deciles (rank correlation <= -0.9)."""
    a, b = (pool.rows("test prompts", "rtn", f"margin where {x}") for x in ("flipped", "kept"))
    both = a.index.intersection(b.index)
    d = stats.ratio_diff_ci(*_sums(a.loc[both]), *_sums(b.loc[both]), _rng(), clusters=_prompts(a.loc[both]), level=LEVEL)
    deciles = pool.metrics[pool.metrics.metric.str.startswith("flip rate, margin decile")]
    rates = deciles.assign(k=deciles.metric.str.split().str[-1].astype(int)).groupby("k").value.mean().sort_index()
    monotone = rates.rank().corr(pd.Series(rates.index, index=rates.index).rank()) <= -0.9
    return _outcome(d, ("holds" if monotone else "direction holds") if d.high < 0 else "fails" if d.low > 0 else "not resolved")


def _share(variant: str, *, above: float | None = None, below: float | None = None) -> Callable[[Pool], Outcome]:
    """Agreement lost by one variant over the agreement lost by full quantized decoding: the interval lies above (below) a bound."""

    def rule(pool: Pool) -> Outcome:
        r = pool.ratio("first divergence", "agreement", variant, "full quantized decoding")
        holds = r.low > above if above is not None else r.high < below
        fails = r.high < above if above is not None else r.low > below
        return _outcome(r, "holds" if holds else "fails" if fails else "not resolved")

    return rule


def _labels(dataset: str, part: str) -> Callable[[Pool], Outcome]:
    """Share of pairs whose quantity is >= 0: holds at 95 % or more, direction holds above one half."""

    def rule(pool: Pool) -> Outcome:
        r = pool.rate(f"pairs, {dataset}", "label", part)
        return _outcome(r, "holds" if r.low >= 0.95 else "direction holds" if r.low > 0.5 else "fails" if r.high < 0.5 else "not resolved")

    return rule


def _exact(pool: Pool) -> Outcome:
    """Share of pairs with Delta >= 0 when both answers are cut at the first divergence: holds only if it is all of them."""
    r = pool.rate("pairs, cut at the first divergence", "label", "delta")
    return _outcome(r, "holds" if r.value == 1 else "direction holds" if r.low >= 0.95 else "fails")


def _no_tax(pool: Pool) -> Outcome:
    """Holds: not worse than the un-tuned quantized model by more than 3 points."""
    d = pool.difference("common knowledge", "accuracy", "qdpo", "rtn")
    return _outcome(d, "holds" if d.low > -0.03 else "fails" if d.high < -0.03 else "not resolved")


REPAIR = ["flips", "kl", "agreement prefix"]
QDPO = [
    Claim("C1a", "Quantization flips tokens (more than 2 %) that task accuracy hides: accuracy of round-to-nearest minus full precision, within 5 points", _accuracy_hides_flips, trained=False),
    Claim("C1b", "Flips happen where full precision's margin is small: margin at flipped minus kept positions", _small_margins, trained=False),
    Claim("C2a", "The flipped token alone explains most of the divergence: share of the agreement lost, more than 0.5", _share("flip only", above=0.5), trained=False),
    Claim("C2b", "The perturbed KV cache alone is small: share of the agreement lost, less than 0.25", _share("perturbed KV only", below=0.25), trained=False),
    Claim("C3a", "Labels need no annotator: pairs whose full-precision bracket is >= 0, at least 0.95", _labels("whole answers", "full-precision bracket")),
    Claim("C3b", "Labels need no annotator: pairs whose quantized bracket is >= 0, at least 0.95", _labels("whole answers", "quantized bracket")),
    Claim("C3c", "Labels need no annotator: pairs with Delta >= 0, at least 0.95", _labels("whole answers", "delta")),
    Claim("C3d", "Cut at the first divergence the label is exact: pairs with Delta >= 0, all of them", _exact),
    Claim("C3e", "Cut at the first divergence, full-precision bracket >= 0, at least 0.95 (all but for rounding)", _labels("cut at the first divergence", "full-precision bracket")),
    Claim("C3f", "Cut at the first divergence, quantized bracket >= 0, at least 0.95 (all but for rounding)", _labels("cut at the first divergence", "quantized bracket")),
    *[
        Claim(f"C4 {rival} {metric}", f"QDPO repairs: improvement over {rival.upper()} at equal bits, {metric}", better("qdpo", rival, metric, tests=8))
        for rival in ("rtn", "awq")
        for metric in REPAIR
    ],
    *[
        Claim(f"C4 {rival} judge", f"QDPO repairs: net wins against full precision, gain over {rival.upper()} (judge: likelihood under full precision)",
              better("qdpo", rival, "net wins", tests=8, dataset="judge vs fp"))
        for rival in ("rtn", "awq")
    ],
    *[
        Claim(f"C5 {metric}", f"QDPO beats distillation at equal data and steps: improvement over KD, {metric}", better("qdpo", "kd", metric, tests=7))
        for metric in [*REPAIR, "exact match", "rouge-l", "fp likelihood"]
    ],
    Claim("C5 judge", "QDPO beats distillation at equal data and steps: net wins against full precision, gain over KD (judge: likelihood under full precision)",
          better("qdpo", "kd", "net wins", tests=7, dataset="judge vs fp")),
    Claim("C6", "No tax: task accuracy of QDPO minus round-to-nearest, not 3 points worse", _no_tax),
]  # fmt: skip
CLAIMS: dict[str, list[Claim]] = {"qdpo": QDPO}


def card(paper: str, runs: Sequence) -> pd.DataFrame:
    """One row a claim, columns as results/tables/claims.csv; `runs` are of one paper and one preset."""
    pool = Pool(runs)
    preset = runs[0].manifest["preset"] if runs else ""
    rows = []
    for c in CLAIMS[paper]:
        pool.used = set(pool.seeds)
        try:
            o = c.rule(pool) if runs else None
        except NotRun:
            o = None
        seeds = 0 if o is None else len(pool.used) if c.trained else 1
        verdict = "not run" if o is None else "smoke" if preset == "smoke" else o.verdict
        if o is not None and preset != "smoke" and c.trained and seeds < MIN_SEEDS:
            verdict = "not resolved"
        nan = float("nan")
        numbers = (o.value, o.low, o.high, o.n) if o else (nan, nan, nan, 0)
        rows.append((c.id, paper, c.statement, c.source, c.published, *numbers, seeds, preset, verdict))
    return pd.DataFrame(rows, columns=COLUMNS)


def evaluate(runs: Sequence) -> pd.DataFrame:
    """All papers' claims from the cited runs of preset `small`; a paper without runs reads "not run"."""
    cards = [card(p, [r for r in runs if r.manifest["paper"] == p and r.manifest["preset"] == "small"]) for p in CLAIMS]
    return pd.concat(cards, ignore_index=True)


def arms_table(paper: str, runs: Sequence) -> pd.DataFrame:
    """One row an arm: pooled mean [95 % interval] of each metric over prompts and seeds."""
    pool = Pool([r for r in runs if r.manifest["paper"] == paper])
    where = [("test prompts", m) for m in TABLE_METRICS] + [("common knowledge", "accuracy"), ("common knowledge", "answer flips")]
    arms = list(dict.fromkeys(pool.items[(pool.items.dataset == "test prompts") & (pool.items.metric == "flips")].arm))
    rows = []
    for arm in arms:
        row = {"arm": arm}
        for dataset, metric in where:
            try:
                i = pool.rate(dataset, arm, metric)
                row[metric] = f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]"
            except NotRun:
                row[metric] = ""
        bits = pool.metrics[(pool.metrics.arm == arm) & (pool.metrics.metric == "bits per weight")].value
        row["bits per weight"] = f"{bits.mean():.2f}" if len(bits) else ""
        changed = pool.metrics[(pool.metrics.arm == arm) & (pool.metrics.metric == "codes changed")].value
        row["codes changed"] = f"{changed.mean():.4f}" if len(changed) else ""
        rows.append(row)
    return pd.DataFrame(rows)


def sentence(paper: str, runs: Sequence) -> str:
    """The card in words: how many claims ended with each verdict, and every one that fails, by name."""
    table = card(paper, runs)
    counts = table.verdict.value_counts()
    said = ", ".join(f"{n} {v}" for v, n in counts.items())
    fails = table[table.verdict == "fails"]
    tail = f" Fails: {'; '.join(fails.claim)}." if len(fails) else ""
    return f"Of {len(table)} rows: {said} ({table.seeds.max()} seed(s), preset {table.preset.iloc[0]}).{tail}"
