"""Forests: an estimate, its interval and the band that is not worth having, a row each."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lib.harness import board, claims, front, style
from lib.harness.claims.verdicts import KINDS


def point(axes, y: float, value: float, low: float, high: float, look=(style.GREY, "o", True)) -> None:
    """One row: the interval as a line, the estimate as a mark."""
    colour, marker, filled = look
    axes.plot([low, high], [y, y], color=colour, lw=2, solid_capstyle="butt", zorder=3, alpha=0.9)
    axes.plot(value, y, marker, color=colour, markersize=6, markeredgewidth=1.4, zorder=4,
        markerfacecolor=colour if filled else "none")  # fmt: skip


def scaled(table: pd.DataFrame) -> pd.DataFrame:
    """Headline claims with `at`, `from_`, `to`: estimate and interval in smallest effects worth having (of a claim with
    a bound: distance from it, in effects that the study can see), and `nulls`, what the interval has to exclude."""
    rows = []
    for r in front.heads(table).itertuples():
        c = next(c for c in claims.PAPERS[r.paper].CLAIMS if c.id == r.claim)
        zero, unit = (0.0, r.smallest) if c.bound is None else (c.bound, r.detectable)
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
