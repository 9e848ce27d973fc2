"""Forests: an estimate, its interval and the band that is not worth having, a row each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib import stats
from lib.harness import board, claims, front, style
from lib.harness.claims.claim import Claim, metric_of
from lib.harness.claims.verdicts import KINDS


def point(axes, y: float, value: float, low: float, high: float, look=(style.GREY, "o", True)) -> None:
    """One row: the interval as a line, the estimate as a mark."""
    colour, marker, filled = look
    axes.plot([low, high], [y, y], color=colour, lw=2, solid_capstyle="butt", zorder=3, alpha=0.9)
    axes.plot(value, y, marker, color=colour, markersize=6, markeredgewidth=1.4, zorder=4,
        markerfacecolor=colour if filled else "none")  # fmt: skip


def scaled(table: pd.DataFrame) -> pd.DataFrame:
    """Headline claims with `at`, `from_`, `to`: estimate and interval in smallest effects worth having (of a claim with
    a bound: distance from it, in effects that the study can see, in single rows of its n where all agree), and `nulls`,
    what the interval has to exclude."""
    rows = []
    for r in front.heads(table).itertuples():
        c = next(c for c in claims.PAPERS[r.paper].CLAIMS if c.id == r.claim)
        zero, unit = (0.0, r.smallest) if c.bound is None else (c.bound, r.detectable or 1 / r.n)
        at, low, high, *nulls = ((x - zero) / unit for x in (r.ours, r.low, r.high, *KINDS[c.kind].nulls(c)))
        rows.append((r.paper, r.claim, front.clause(r.paper, r.claim, r.statement), at, low, high, nulls, r.verdict))
    return pd.DataFrame(rows, columns=["paper", "claim", "says", "at", "from_", "to", "nulls", "verdict"])


@style.drawn
def headlines(table: pd.DataFrame):
    """All headline claims in one picture: coloured by verdict, grouped by paper; linear inside the band of what is not
    worth having, logarithmic outside it. A short stroke marks what the interval has to pass."""
    rows = scaled(table)
    rows = rows[np.isfinite(rows["at"].astype(float))]
    papers = list(dict.fromkeys(rows.paper))
    figure, axes = style.axes((9.2, 0.25 * (len(rows) + 1.25 * len(papers)) + 1.0))
    y, marks, labels = 0.0, [], []
    for paper in papers:
        axes.text(-0.005, y, front.about(paper)["name"], transform=axes.get_yaxis_transform(), ha="right", va="center",
            weight="bold", fontsize=9)  # fmt: skip
        for r in rows[rows.paper == paper].itertuples():
            y += 1
            look = style.VERDICTS[r.verdict]
            point(axes, y, r.at, r.from_, r.to, look)
            for null in r.nulls:
                axes.plot([null, null], [y - 0.3, y + 0.3], color=style.INK, lw=1, zorder=2)
            axes.text(
                1.01, y, r.verdict, transform=axes.get_yaxis_transform(), va="center", color=look[0], fontsize=8.5
            )
            marks.append(y)
            labels.append(f"{r.says[0].upper()}{r.says[1:]}")
        y += 1.25
    axes.axvspan(-1, 1, color=style.BAND, lw=0, zorder=0)
    far = max(10.0, 10 ** math.ceil(math.log10(max([1.0, *rows.from_.abs(), *rows.to.abs()]))))
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    axes.set(xlim=(-far, far), ylim=(y - 0.6, -0.8))
    ticks = [10.0**k for k in range(int(math.log10(far)) + 1)]
    axes.set_xticks([*(-t for t in reversed(ticks)), 0, *ticks], [*(f"−{t:g}" for t in reversed(ticks)), "0",
        *(f"{t:g}" for t in ticks)])  # fmt: skip
    axes.minorticks_off()
    axes.set_yticks(marks, labels)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left"]].set_visible(False)
    axes.set_xlabel(
        "← against the claim       effect in smallest effects worth having (the band)       for the claim →"
    )
    figure.suptitle(f"{len(rows)} headline claims: {board.said(rows)}", x=0.01, ha="left", weight="bold", fontsize=11)
    return figure


BASES = {"qdpo": "rtn", "lab": "stacked", "attribute_control": "sft", "mrpo": "dpo", "sea": "passive"}  # who is beaten
LABELS = {
    "flips": "flipped tokens (share)",
    "kl": "KL(FP || Q), nats a token",
    "agreement prefix": "tokens before the first difference",
    "validation kl": "validation KL(FP || Q), nats a token",
    "accuracy": "accuracy (share)",
    "accuracy, primary reference": "accuracy beside the primary reference (share)",
    "forgotten": "forgotten (share of what was known)",
    "expected maximum, oracle": "expected maximum toxicity (0 to 1, the worst of many answers)",
    "effective leaves": "effective leaves",
}


def differences(runs: Sequence, metric: str, dataset: str, base: str | None = None) -> tuple[str, pd.DataFrame]:
    """The arm that the others are compared with (the paper's own base, else the first), and a row an arm: level, and
    value, low, high of its gain over the base, positive where it is better; no interval where one prompt is all."""
    paper = runs[0].manifest["paper"]
    pool, unit = claims.Pool(runs), claims.units(paper).get(dataset, "prompt")
    chosen = pool.items[(pool.items.dataset == dataset) & (pool.items.metric == metric)]
    names = list(dict.fromkeys(chosen.arm))
    base = next((b for b in (base, BASES.get(paper)) if b and b in names), names[0] if names else "")
    rows = []
    for arm in names:
        c = Claim(id=arm, statement=arm, dataset=dataset, metric=metric, arms=(arm, base), unit=unit)
        level = _mean(pool, dataset, arm, metric)
        try:
            value, low, high, _ = stats.Interval(0.0, 0.0, 0.0, 0) if arm == base else pool.of(c).interval()
        except claims.NotRun:
            turn = 1 if metric_of(metric).higher_is_better else -1
            value = turn * (level - _mean(pool, dataset, base, metric))
            low = high = value
        rows.append((arm, level, value, low, high))
    return base, pd.DataFrame(rows, columns=["arm", "level", "value", "low", "high"])


def _mean(pool: claims.Pool, dataset: str, arm: str, metric: str) -> float:
    rows = pool.rows(dataset, arm, metric)
    return float(np.average(rows.value, weights=rows.weight))


def title(found: pd.DataFrame, base: str, method: str) -> str:
    """What the forest shows, in a line: how many arms are better and worse than the base, and where the method is."""
    rest = found[found.arm != base]
    better, worse = int((rest.low > 0).sum()), int((rest.high < 0).sum())
    said = f"Of {len(rest)} arms {better} better than {base}, {worse} worse, {len(rest) - better - worse} open"
    mine = rest[rest.arm == method]
    if len(mine):
        r = mine.iloc[0]
        said += f"; {method} {r.value:+.3f} [{r.low:.3f}, {r.high:.3f}]"
    return said


def rows(axes, found: pd.DataFrame, base: str, worth: float, names: dict[str, str] | None = None) -> None:
    """Arms down, best first; their gain over the base with its interval in the arm's colour, their level at the
    right."""
    found = found.sort_values("value", ascending=False, kind="stable").reset_index(drop=True)
    axes.axvspan(-worth, worth, color=style.BAND, lw=0, zorder=0)
    axes.axvline(0, color=style.INK, lw=1, zorder=1)
    for k, r in found.iterrows():
        colour = style.colour(r.arm)
        point(axes, k, r.value, r.low, r.high, (colour, "o" if r.arm != base else "|", True))
        axes.text(1.01, k, f"{r.level:.3f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [(names or {}).get(a, a) for a in found.arm])
    for label, arm in zip(axes.get_yticklabels(), found.arm):
        if arm in style.METHODS.values():
            label.set(color=style.METHOD, weight="bold")
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left"]].set_visible(False)


@style.drawn
def arms(
    runs: Sequence, metric: str, dataset: str = "test prompts", base: str | None = None, without: Sequence = ("fp",)
):
    """Every arm beside one of them: the gain with its 95 % interval over seeds and prompts, the level at the right;
    `without` those whose level is given by definition."""
    base, found = differences(runs, metric, dataset, base)
    pool, paper = claims.Pool(runs), runs[0].manifest["paper"]
    n = pool.items[(pool.items.dataset == dataset) & (pool.items.metric == metric)].prompt_id.nunique()
    found = found[~found.arm.isin(without) | (found.arm == base)]
    size = pool.metrics[pool.metrics.metric == "bits per weight"].groupby("arm").value.mean()
    figure, axes = style.axes((7.6, 0.25 * len(found) + 1.2))
    rows(axes, found, base, metric_of(metric).smallest, {a: f"{a}, {size[a]:.1f} bit" for a in found.arm if a in size})
    axes.text(1.01, -0.75, "level", transform=axes.get_yaxis_transform(), fontsize=8, va="bottom", style="italic")
    what = f"{LABELS.get(metric, metric)}, {'more' if metric_of(metric).higher_is_better else 'less'} is better"
    seeds = f"{len(pool.seeds)} seed{'s' if len(pool.seeds) > 1 else ''}"
    axes.set_xlabel(
        f"better than {base} by: {what}\n95 % interval over {seeds} and {n} prompts; band: not worth having"
    )
    figure.suptitle(title(found, base, style.METHODS.get(paper, "")), x=0.01, ha="left", fontsize=9.5)
    return figure
