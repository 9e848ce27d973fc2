"""How many times fewer queries one method needs than another, in every cell of SEA's exact worlds: the table and its
picture.

A ratio is exp of the mean over worlds of a difference of log queries, each cut at the budget (`lib.bandit.reaching`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib import stats
from lib.harness import claims, style
from lib.harness.claims.claim import Claim, metric_of
from lib.harness.claims.sea import COMPARISONS, EXACT

COLUMNS = ["cell", "comparison", "ratio", "low", "high", "uncut", "worlds", "reached", "reached by the other"]


def table(runs: Sequence, level: float = 0.8, pairs: Mapping[str, tuple[str, str]] = COMPARISONS) -> pd.DataFrame:
    """One row a cell and comparison: how many times fewer queries the first method needs, its 95 % interval over
    worlds, the same without the cut at the budget if log queries are normal (`stats.uncut`), and the share of worlds
    in which each method reaches the level at all. Cells and methods not run are left out."""
    pool, rows = claims.Pool(runs), []
    for cell in EXACT:
        for name, arms in pairs.items():
            claim = Claim(id=name, statement=name, dataset=cell, metric=f"log queries, {level}", arms=arms,
                unit="world")  # fmt: skip
            try:
                ratio, low, high = np.exp(pool.of(claim).interval()[:3])
                logs = [pool.rows(cell, arm, f"log queries, {level}").value for arm in arms]
                there = [pool.rows(cell, arm, f"reached, {level}").value for arm in arms]
            except claims.NotRun:
                continue
            # a world that was cut off stands at the budget; where none was, there is no cut
            cut = max((x[t == 0].max() for x, t in zip(logs, there) if (t == 0).any()), default=np.inf)
            one, other = stats.uncut(logs, cut)
            rows.append((cell.removeprefix("exact "), name, ratio, low, high, np.exp(other - one), len(logs[0]),
                *(t.mean() for t in there)))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


BETTER, WORSE, OPEN = (style.VERDICTS[v][0] for v in ("holds", "fails", "not resolved"))
AXIS = (0.5, 0.7, 1, 1.4, 2, 3, 5)


@style.drawn
def figure(runs: Sequence, level: float = 0.8):
    """The map: a row a cell, a column a comparison; a dot and its interval, green where fewer queries are needed,
    vermillion where more, grey where the interval contains 1. The band is what is not worth having."""
    found = table(runs, level)
    cells, names = list(dict.fromkeys(found.cell)), [n for n in COMPARISONS if n in set(found.comparison)]
    worth = np.exp(metric_of("log queries").smallest)
    drawn, panels = plt.subplots(
        1, max(1, len(names)), figsize=(1.5 + 1.45 * max(1, len(names)), 1.1 + 0.36 * max(1, len(cells))),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    low, high = (float(f(v)) for f, v in ((np.min, [AXIS[0], *found.low]), (np.max, [AXIS[-2], *found.high])))
    for axes, name in zip(panels[0], names):
        axes.axvspan(1 / worth, worth, color=style.BAND, lw=0, zorder=0)
        axes.axvline(1, color=style.INK, lw=0.8, zorder=1)
        for r in found[found.comparison == name].itertuples():
            y, color = cells.index(r.cell), BETTER if r.low > 1 else WORSE if r.high < 1 else OPEN
            axes.plot([r.low, r.high], [y, y], color=color, lw=2.2, solid_capstyle="round", zorder=2)
            axes.plot(r.ratio, y, "o", color=color, markersize=5, zorder=3)
            axes.annotate(f"{r.ratio:.2f}", (r.ratio, y), xytext=(0, 4), textcoords="offset points", ha="center",
                fontsize=7, color=color, zorder=4)  # fmt: skip
        axes.set(xscale="log", xlim=(low * 0.93, high * 1.07), ylim=(len(cells) - 0.45, -0.65))
        ticks = [x for x in AXIS if low <= x <= high]
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks], fontsize=7)
        axes.minorticks_off()
        axes.set_title(name, fontsize=8.5, loc="left", weight="bold" if name == next(iter(COMPARISONS)) else None)
        axes.spines[["left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0][0].set_yticks(range(len(cells)), cells, fontsize=8)
    if len(found):
        over = f"95 % interval over {found.worlds.min()} worlds or more"
        drawn.supxlabel(f"times fewer queries to a win rate of {level:g}; {over}", fontsize=8)
        of = found[found.comparison == names[0]]
        drawn.suptitle(f"{names[0]}: fewer queries in {int((of.low > 1).sum())} of {len(of)} worlds, more in "
            f"{int((of.high < 1).sum())}; {of.ratio.min():.2f} to {of.ratio.max():.2f} times", x=0.01, ha="left",
            fontsize=9.5)  # fmt: skip
    return drawn
