"""Figures of MRPO's exact world: where one arm beats another, as heatmaps, and what moves that, as sections.

Red: the first of two arms is better; blue: the second; the black line is where they are equal. A cell has its own
ground, so that it reads alike on a light and a dark page. Numbers are means over worlds and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FormatStrFormatter

from lib.harness import forest, style
from lib.harness.claims.claim import metric_of

REWARD, EQUAL = "expected reward", "expected reward, equal KL"
PANELS = {
    "mrpo minus dpo": "MRPO minus DPO\n(does a second reference help?)",
    "mrpo minus multi-dpo": "MRPO minus Multi-DPO\n(does the harmonic mean?)",
    "single minus mrpo": "second alone minus MRPO\n(is one reference enough?)",
    "mrpo minus mrpo-unclipped": "clipped minus unclipped\n(what clipping saves and costs)",
}
ROWS = {REWARD: "same $\\beta$", EQUAL: "same KL to the start"}
GOOD, NONE, WRONG = style.GREEN, style.GREY, style.PURPLE  # a second reference, by its quality
WORTH = metric_of(REWARD).smallest


def cells(runs: Sequence) -> pd.DataFrame:
    """Means over runs of every number of the map: dataset, arm, metric, value, error (95 %, of all worlds together)."""
    m = pd.concat([r.metrics() for r in runs])
    m = m[m.exhibit == "map"].assign(half=lambda t: (t.high - t.low) / 2)
    by = m.groupby(["dataset", "arm", "metric"], sort=False)
    return by.agg(value=("value", "mean"), error=("half", lambda h: (h**2).sum() ** 0.5 / len(h))).reset_index()


@style.drawn
def _not_run():
    """What stands for a figure where no run has drawn the map."""
    figure = plt.figure(figsize=(6.0, 0.6))
    figure.text(0.5, 0.5, "no cited run has the exact world's map yet", ha="center", va="center", fontsize=9)
    return figure


@style.drawn
def exact(runs: Sequence):
    """Pairs against the quality of the second reference: a panel a comparison, above at equal beta, below at equal
    KL."""
    m = cells(runs)
    if m.empty:
        return _not_run()
    figure, panels = plt.subplots(2, 4, figsize=(12.4, 6.0), layout="constrained", sharex=True, sharey=True)
    for (metric, row), axes_row in zip(ROWS.items(), panels):
        for (arm, title), axes in zip(PANELS.items(), axes_row):
            grid = _grid(m[(m.arm == arm) & (m.metric == metric)])
            image = _heat(axes, grid)
            if axes in panels[0]:
                axes.set_title(title, fontsize=9.5)
            if axes in panels[1]:
                axes.set_xlabel(
                    "quality of the second reference\n(wrong below 0, useless 0, the truth 1)", fontsize=8.5
                )
        axes_row[0].set_ylabel(f"{row}\npreference pairs", fontsize=9.5)
    bar = figure.colorbar(image, ax=panels, shrink=0.75, aspect=32, pad=0.015, extend="both")
    bar.set_label("difference in expected true reward (deviations of the answers)", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    said = [f"{title.split(chr(10))[0]}: {_ahead(_grid(m[(m.arm == arm) & (m.metric == EQUAL)]))}" for arm, title in
        PANELS.items()]  # fmt: skip
    figure.suptitle(f"Cells where the first is better by {WORTH:g} or more at equal KL. {'; '.join(said)}", x=0.01,
        ha="left", fontsize=9.5)  # fmt: skip
    return figure


def _ahead(grid: pd.DataFrame) -> str:
    return f"{int((grid.to_numpy() >= WORTH).sum())} of {grid.size}"


def _grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Numbers of the map proper as a table: pairs down, qualities across."""
    named = rows.dataset.str.extract(r"^n (?P<n>\d+), quality (?P<q>\S+)$").dropna()
    return rows.loc[named.index].assign(n=named.n.astype(int), q=named.q.astype(float)).pivot(
        index="n", columns="q", values="value")  # fmt: skip


def _heat(axes, grid: pd.DataFrame, largest: float = 0.3):
    """One panel: colour, number in each cell, the line where both are equal."""
    values = grid.to_numpy()
    image = axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, origin="lower", aspect="auto")
    for i, j in np.ndindex(values.shape):
        dark = abs(values[i, j]) > 0.62 * largest
        text = f"{values[i, j]:+.2f}".replace("+0.00", "0").replace("-0.00", "0")
        axes.text(
            j, i, text.replace("0.", "."), ha="center", va="center", fontsize=7, color="w" if dark else "0.2", zorder=4
        )
    if min(values.shape) > 1 and values.min() < -0.005 and values.max() > 0.005:
        axes.contour(values, levels=[0.0], colors="black", linewidths=1.4)
    axes.set_xticks(range(len(grid.columns)), [f"{q:g}" for q in grid.columns], fontsize=8)
    axes.set_yticks(range(len(grid.index)), grid.index, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


@style.drawn
def sections(runs: Sequence):
    """Through the scarce row of the map: CTRO's window, the number of references, the weights' rules; all minus DPO at
    equal KL."""
    m = cells(runs)
    m = m[m.metric == EQUAL]
    if m.empty:
        return _not_run()
    figure, panels = plt.subplots(1, 3, figsize=(12.4, 3.5), layout="constrained", width_ratios=[1, 0.8, 1.1])
    _window(panels[0], m)
    _count(panels[1], m)
    _rules(panels[2], m)
    for axes in panels:
        axes.tick_params(labelsize=8)
    panels[0].set_ylabel("expected reward minus DPO's, same KL", fontsize=8.5)
    rules = m[m.dataset == "good and wrong"].sort_values("value")
    if len(rules):
        best, worst = (rules.iloc[k] for k in (-1, 0))
        figure.suptitle("With a good and a wrong reference, expected reward beside DPO: "
            f"{_name(best.arm)} {best.value:+.2f}, {_name(worst.arm)} {worst.value:+.2f}", x=0.01, ha="left",
            fontsize=9.5)  # fmt: skip
    return figure


def _name(arm: str) -> str:
    return {"mrpo": "mrpo (arwc)"}.get(arm.removesuffix(" minus dpo"), arm.removesuffix(" minus dpo"))


def _window(axes, m: pd.DataFrame) -> None:
    found = m[m.arm == "mrpo minus dpo"]
    named = found.dataset.str.extract(r"^epsilon (?P<e>\S+), quality (?P<q>\S+)$").dropna()
    found = found.loc[named.index].assign(e=named.e, q=named.q.astype(float))
    names = list(dict.fromkeys(found.e))
    for (q, rows), color, name in zip(found.groupby("q"), (WRONG, NONE, GOOD), ("wrong", "useless", "good")):
        _line(axes, range(len(rows)), rows, color, f"{name} ({q:g})")
    axes.set_xticks(range(len(names)), names)
    axes.axhline(0, color=style.INK, lw=0.8)
    axes.set_title("CTRO's window: from DPO to no clipping", fontsize=9.5)
    axes.set_xlabel("largest $\\epsilon$", fontsize=8.5)
    axes.legend(title="second reference", fontsize=8, title_fontsize=8, loc="lower left")


def _count(axes, m: pd.DataFrame) -> None:
    found = m[m.dataset.str.match(r"references \d+$")]
    for arm, color, name in (
        ("geometric minus dpo", style.colour("geometric"), "geometric, unclipped"),
        ("mrpo minus dpo", style.colour("mrpo"), "MRPO"),
        ("multi-dpo minus dpo", style.colour("multi-dpo"), "Multi-DPO"),
    ):
        rows = found[found.arm == arm]
        _line(axes, rows.dataset.str.split().str[1].astype(int), rows, color, name)
    axes.set_xticks(sorted(found.dataset.str.split().str[1].astype(int).unique()))
    axes.set_ylim(bottom=0)
    axes.set_title("more references, each good", fontsize=9.5)
    axes.set_xlabel("references, the start among them", fontsize=8.5)
    axes.legend(fontsize=8, loc="lower right")


def _rules(axes, m: pd.DataFrame) -> None:
    rows = m[m.dataset == "good and wrong"].sort_values("value")
    for k, r in enumerate(rows.itertuples()):
        look = style.colour(r.arm.removesuffix(" minus dpo")), "o", True
        forest.point(axes, k, r.value, r.value - r.error, r.value + r.error, look)
    axes.set_yticks(range(len(rows)), [_name(arm) for arm in rows.arm])
    axes.axvline(0, color=style.INK, lw=0.8)
    axes.xaxis.set_major_formatter(FormatStrFormatter("%+.2f"))
    axes.set_title("one good and one wrong beside the start", fontsize=9.5)
    axes.set_xlabel("expected reward minus DPO's, same KL", fontsize=8.5)


def _line(axes, x, rows: pd.DataFrame, color: str, name: str) -> None:
    x = np.asarray(list(x))
    axes.plot(x, rows.value, "-o", color=color, markersize=3.5, lw=1.6, label=name)
    axes.fill_between(x, rows.value - rows.error, rows.value + rows.error, color=color, alpha=0.18, lw=0)
