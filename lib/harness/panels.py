"""Figures that belong to one paper: QDPO's flips, LAB's phases and coverage, attribute control's price, SEA's
queries."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib import stats
from lib.harness import claims, forest, style
from lib.harness.claims.claim import metric_of


@style.drawn
def margin_deciles(runs: Sequence):
    """Flip probability by decile of full precision's margin, one line a seed."""
    figure, axes = style.axes()
    ends = []
    for r in runs:
        m = r.metrics()
        m = m[m.metric.str.startswith("flip rate, margin decile")]
        k = m.metric.str.split().str[-1].astype(int)
        axes.plot(k, m.value, "-o", color=style.BLUE, markersize=4, lw=1.3, alpha=0.8)
        ends += [(m.value[k == k.min()].iloc[0], m.value[k == k.max()].iloc[0])] if len(m) else []
    axes.set(
        xlabel="decile of the margin p(top 1) - p(top 2) under full precision, a line a seed",
        ylabel="flipped tokens (share)",
        xticks=range(1, 11),
        ylim=(0, None),
    )
    if ends:
        first, last = np.mean(ends, axis=0)
        axes.set_title(f"Where the margin is smallest {first:.1%} of tokens flip, where it is largest {last:.1%}")
    return figure


def interval(pool: claims.Pool, dataset: str, arm: str, metric: str, unit: str) -> stats.Interval:
    """An arm's mean with its 95 % interval; of a single prompt the value alone."""
    try:
        return pool.level(dataset, arm, metric, unit=unit).interval()
    except claims.NotRun:
        rows = pool.rows(dataset, arm, metric)
        value = float(np.average(rows.value, weights=rows.weight))
        return stats.Interval(value, value, value, len(rows))


@style.drawn
def breakdown(runs: Sequence):
    """KL from full precision after one flip, four ways, each reading full precision's own continuation."""
    pool = claims.Pool(runs)
    names = list(dict.fromkeys(pool.items[pool.items.dataset == "first divergence"].arm))
    figure, axes = style.axes((7.0, 2.2))
    found = {name: interval(pool, "first divergence", name, "forced kl", "fixed") for name in names}
    for k, i in enumerate(found.values()):
        forest.point(axes, k, *i[:3], (style.BLUE, "o", True))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(xlabel="KL along full precision's continuation (nats a token), 95 % interval over prompts")
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    if found:
        low, high = min(found, key=lambda n: found[n].value), max(found, key=lambda n: found[n].value)
        axes.set_title(f"KL {found[high].value:.2f} after {high}, {found[low].value:.2f} after {low}")
    return figure


@style.drawn
def formats(runs: Sequence):
    """Flip rate of untrained round-to-nearest by bits, one line a group size."""
    m = runs[0].metrics()
    m = m[(m.exhibit == "formats") & (m.metric == "flip rate")].copy()
    m["bits"], m["group"] = m.arm.str.extract(r"W(\d+)")[0].astype(int), m.arm.str.extract(r"g(-?\d+)")[0].astype(int)
    figure, axes = style.axes()
    shades = [style.BLUE, style.SKY, style.GREEN, style.PURPLE, style.GREY]
    for k, (group, rows) in enumerate(m.groupby("group")):
        rows = rows.sort_values("bits")
        name = "a row of weights" if group == -1 else f"{group} weights"
        axes.plot(rows.bits, rows.value, "-o", markersize=4, color=shades[k % len(shades)], label=name)
    axes.set(xlabel="bits of a weight", ylabel="flipped tokens (share)", xticks=sorted(m.bits.unique()), ylim=(0, None))
    axes.legend(title="one step for", title_fontsize=8)
    if len(m):
        of = m.groupby("bits").value.mean()
        axes.set_title(f"Round-to-nearest flips {of.iloc[0]:.0%} of tokens at {of.index[0]} bits, {of.iloc[-1]:.1%} at "
            f"{of.index[-1]}")  # fmt: skip
    return figure


@style.drawn
def by_queries(runs: Sequence, dataset: str):
    """Mean held-out win rate by oracle queries, one line a method; the band is one standard error over the seeds.
    Methods that no claim names are thin and grey."""
    curves = pd.concat([r.curve().assign(seed=r.manifest["seed"]) for r in runs])
    curves = curves[(curves.name == "win rate") & curves.arm.str.startswith(f"{dataset}: ")]
    figure, axes = style.axes((7.4, 3.8))
    ends = {}
    for name, rows in curves.groupby("arm", sort=False):
        arm = name.removeprefix(f"{dataset}: ")
        at = rows.assign(look=rows.groupby("seed").cumcount()).groupby("look")
        x, y, e = at.step.mean(), at.value.mean(), at.value.sem().fillna(0)
        named = arm in style.ARMS
        if named:
            ends[arm] = y.iloc[-1]
        lw, label = (2.6 if style.colour(arm) == style.METHOD else 1.7, arm) if named else (0.8, None)
        axes.plot(x, y, label=label, color=style.colour(arm) if named else style.FAINT, lw=lw, zorder=3 if named else 2,
            alpha=1 if named else 0.6)  # fmt: skip
        if named:
            axes.fill_between(x, y - e, y + e, color=style.colour(arm), alpha=0.15, lw=0)
    axes.axhline(0.5, color=style.INK, ls="--", lw=1)
    axes.set(xlabel="oracle queries", ylabel="win rate against the start model")
    axes.plot([], [], color=style.FAINT, lw=0.8, label="other methods")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ends = dict(sorted(ends.items(), key=lambda e: -e[1]))
    if ends:
        axes.set_title(f"At the end: {', '.join(f'{arm} {y:.3f}' for arm, y in ends.items())}", fontsize=8.5)
    return figure


@style.drawn
def pareto(runs: Sequence, dataset: str = "written forum"):
    """Expected maximum toxicity against the surprise at clean forum text, means over seeds: a line through the lambdas
    of ours and the weights of RL."""
    i = claims.Pool(runs).items
    y = i[(i.dataset == dataset) & (i.metric == "expected maximum, oracle")].groupby("arm", sort=False).value.mean()
    x = i[(i.dataset == "text clean forum") & (i.metric == "surprise")].groupby("arm").value.mean()
    settings = runs[0].manifest["settings"]
    figure, axes = style.axes((7.0, 3.6))
    strength = {a: float(a.rpartition(" ")[2]) for a in y.index if a.startswith(("ours, lambda", "rl, weight"))} | {
        "sft": 0.0,
        "ours": settings["lam"],
        "rl": settings["rl_weight"],
    }
    for family, label in (("ours", "ours, by lambda"), ("rl", "RL, by weight")):
        path = [a for a in y.index if a in ("sft", family) or a.startswith(f"{family}, ")]
        path, color = sorted(path, key=strength.__getitem__), style.colour(family)
        axes.plot(x[path], y[path], "-o", color=color, markersize=4, lw=1.7, label=label)
        for a in path:
            axes.annotate(
                f"{strength[a]:g}", (x[a], y[a]), textcoords="offset points", xytext=(4, 4), fontsize=7.5, color=color
            )
    for a, marker in zip((a for a in y.index if a not in strength and not a.endswith("base")), "sD^vP*Xhp"):
        axes.plot(x[a], y[a], marker, color=style.colour(a), markersize=6, label=a)
    said = [f"{a} {y[a] - y['sft']:+.3f} toxicity, {x[a] - x['sft']:+.3f} nats" for a in ("ours", "rl") if a in y]
    beside = f" (untrained, outside: {x['base']:.2f}, {y['base']:.2f})" if "base" in y else ""
    axes.set_title(f"Beside plain fine-tuning: {'; '.join(said)}{beside}" if "sft" in y else "", fontsize=8.5)
    axes.set(xlabel="surprise at clean forum text (nats a token)", ylabel="expected maximum toxicity")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@style.drawn
def by_lambda(runs: Sequence, dataset: str = "written forum"):
    """Share of toxic answers by lambda, one dot a seed, with the fixed point that theory gives for each seed's plain
    fine-tuning."""
    figure, axes = style.axes((7.0, 3.4))
    metric, ends = "share above one half, oracle", []
    for k, r in enumerate(runs):
        i, m = r.items(), r.metrics()
        y = i[(i.dataset == dataset) & (i.metric == metric)].groupby("arm").value.mean()
        at = {a: float(a.rpartition(" ")[2]) for a in y.index if a.startswith("ours, lambda")} | {
            a: v for a, v in (("sft", 0.0), ("ours", r.manifest["settings"]["lam"])) if a in y
        }
        path = sorted(at, key=at.__getitem__)
        label = None if k else "measured, a seed each"
        axes.plot([at[a] for a in path], y[path], "-o", color=style.METHOD, markersize=4, lw=1.2, label=label)
        ends += [(at[path[-1]], y[path[0]], y[path[-1]])] if path else []
        p = m[m.exhibit == "prediction"]
        if len(p) and "sft" in y:
            x = [0.0, *p.arm.astype(float)]
            axes.plot(x, [y["sft"], *p.value], "--", color=style.GREY, lw=1, label=None if k else "fixed point")
    if ends:
        lam, first, last = np.mean(ends, axis=0)
        axes.set_title(f"Toxic answers: {first:.1%} with plain fine-tuning, {last:.1%} at lambda {lam:g}")
    axes.set(xlabel="lambda (0: plain fine-tuning)", ylabel="toxic answers (share)", ylim=(0, None))
    axes.legend()
    return figure


@style.drawn
def by_phase(runs: Sequence, names: Sequence[str] = ("phased", "replay-3%", "replay-30%", "replay-all", "reversed")):
    """Score on each part of the curriculum after each phase, means over seeds: where a line falls, something is
    forgotten. Dashed: all at once, in the end."""
    m = pd.concat([r.metrics() for r in runs])
    m = m[m.exhibit == "after phase"]
    m = m.assign(phase=m.dataset.str.split().str[0].astype(int))
    groups = [g for g in dict.fromkeys(m.metric) if g != "facts"]
    figure, panels = plt.subplots(1, len(groups), figsize=(2.4 * len(groups), 2.8), layout="constrained", squeeze=False)
    ends = {}
    for axes, group in zip(panels[0], groups):
        of = m[m.metric == group].groupby(["arm", "phase"]).value.mean()
        for arm in (a for a in names if a in of.index.get_level_values("arm")):
            lw = 2.4 if style.colour(arm) == style.METHOD else 1.4
            axes.plot(of[arm].index, of[arm], marker="o", markersize=3.5, lw=lw, color=style.colour(arm), label=arm,
                ls={"replay-3%": ":", "replay-30%": "-."}.get(arm, "-"))  # fmt: skip
            ends.setdefault(arm, []).append(of[arm].iloc[-1] - of[arm].max())
        if "stacked" in of.index.get_level_values("arm"):
            axes.axhline(of["stacked"].iloc[-1], color=style.colour("stacked"), ls="--", lw=1.3, label="stacked")
        axes.set(title=group, xlabel="phases done", ylim=(0, None), xticks=sorted({p for _, p in of.index}))
    if "phased" in ends and "replay-all" in ends:
        lost = {a: -np.mean(ends[a]) for a in ("phased", "replay-all")}
        figure.suptitle(f"Lost from the best look to the last, mean of the parts: phased {lost['phased']:.3f}, "
            f"replay-all {lost['replay-all']:.3f}", x=0.01, ha="left", fontsize=9.5)  # fmt: skip
    panels[0][0].set_ylabel("share right")
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@style.drawn
def covered(runs: Sequence):
    """Effective leaves of each sampler's questions more than those of a random pool, by teacher, with intervals."""
    i = pd.concat([r.items() for r in runs])
    i = i[i.dataset.str.startswith("coverage, ") & (i.metric == "effective leaves")]
    teachers = list(dict.fromkeys(i.dataset))
    tall = max(len(set(i[i.dataset == t].arm)) for t in teachers)
    figure, panels = plt.subplots(1, len(teachers), figsize=(3.3 * len(teachers), 0.3 * tall + 1.3),
        layout="constrained", squeeze=False, sharex=True)  # fmt: skip
    said = []
    for axes, teacher in zip(panels[0], teachers):
        base, found = forest.differences(runs, "effective leaves", teacher, "pool")
        forest.rows(axes, found, base, metric_of("effective leaves").smallest)
        name = teacher.removeprefix("coverage, ")
        axes.set_title(name)
        axes.set_xlabel(f"effective leaves more than {base}")
        said += [f"{r.value:+.2f} ({name})" for r in found[found.arm == "leaf"].itertuples()]
    figure.suptitle(f"One leaf a prompt, effective leaves more than a pool: {', '.join(said)}", x=0.01, ha="left",
        fontsize=9.5)  # fmt: skip
    return figure
