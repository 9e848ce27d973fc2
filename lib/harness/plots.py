"""The figures of the notebooks and of results/. Ours solid, intervals always drawn, one colour an arm everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib import stats
from lib.harness import claims, maps, ratios

SIZE = (7.0, 3.6)
COLOURS = {
    "fp": "#444444", "rtn": "#b0b0b0", "awq": "#8c6d31", "gptq": "#bd9e39", "nf4": "#e7ba52", "sft": "#9467bd",
    "kd": "#1f77b4",
    "tskd": "#6baed6", "qdpo": "#d62728", "qdpo-r2": "#e6550d", "soft-qdpo": "#fd8d3c", "qdpo-dpop": "#e377c2",
    "qdpo-lora": "#7f2704",
    "qdpo-round2": "#17becf",
    "base": "#b0b0b0", "dpo": "#1f77b4", "single": "#6baed6", "multi-dpo": "#9467bd", "mrpo": "#d62728",
    "geometric": "#2ca02c", "arithmetic": "#98df8a",
}  # fmt: skip
LABELS = {
    "flips": "flipped tokens (share)",
    "kl": "KL(FP || Q), nats per token",
    "agreement prefix": "tokens before the first difference",
    "validation kl": "validation KL(FP || Q), nats per token",
}
GLOSSARY = {
    "loss": "loss: mean over the batch; log 2 means no preference yet",
    "margin": "margin: beta times how much more the policy raised the chosen answer than the rejected one, nats",
    "reward accuracy": "reward accuracy: share of pairs with a positive margin",
    "validation kl": "validation KL: how far the quantized model's next-token distribution lies from full "
    "precision's, on "
    "held-out "
    "prompts; 0 is a perfect repair. The checkpoint with the smallest value is kept",
}


def glossary(*names: str) -> str:
    """What the curves' names mean, one line each."""
    return "\n".join(GLOSSARY[n] for n in names)


def _axes(size=SIZE):
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curves(by_arm: dict[str, list[dict]], name: str):
    """One line an arm over optimizer steps, labelled at its end."""
    figure, axes = _axes()
    ends = []
    for arm, rows in by_arm.items():
        points = [(r["step"], r[name]) for r in rows if name in r]
        if points:
            x, y = zip(*points)
            axes.plot(x, y, color=COLOURS.get(arm), marker="o", markersize=3)
            ends.append([y[-1], x[-1], arm])
    ends.sort()
    if ends:  # spread the labels so that they do not overlap
        low, high = axes.get_ylim()
        gap = (high - low) / 18
        at = -np.inf
        for y, x, arm in ends:
            at = max(y, at + gap)
            axes.annotate(
                arm,
                (x, y),
                xytext=(max(e[1] for e in ends) * 1.03, at),
                color=COLOURS.get(arm),
                fontsize=8,
                va="center",
            )
    axes.set(xlabel="optimizer step", ylabel=LABELS.get(name, name))
    return figure


def _interval(pool: claims.Pool, dataset: str, arm: str, metric: str, unit: str) -> stats.Interval:
    """An arm's mean with its 95 % interval; of a single prompt the value alone."""
    try:
        return pool.level(dataset, arm, metric, unit=unit).interval()
    except claims.NotRun:
        rows = pool.rows(dataset, arm, metric)
        value = float(np.average(rows.value, weights=rows.weight))
        return stats.Interval(value, value, value, len(rows))


def arms(runs: Sequence, metric: str, dataset: str = "test prompts"):
    """One bar an arm with its 95 % interval over seeds and prompts; each seed a dot."""
    pool, unit = claims.Pool(runs), claims.units(runs[0].manifest["paper"]).get(dataset, "prompt")
    chosen = pool.items[(pool.items.dataset == dataset) & (pool.items.metric == metric)]
    names = [a for a in dict.fromkeys(chosen.arm) if a != "fp"]
    figure, axes = _axes((7.0, 0.24 * len(names) + 0.9))
    for k, arm in enumerate(names):
        i = _interval(pool, dataset, arm, metric, unit)
        axes.barh(k, i.value, color=COLOURS.get(arm), alpha=0.75, height=0.7)
        axes.errorbar(
            i.value, k, xerr=[[max(0, i.value - i.low)], [max(0, i.high - i.value)]], color="black", capsize=2, lw=1
        )
        for _, rows in chosen[chosen.arm == arm].groupby("seed"):
            axes.plot(np.average(rows.value, weights=rows.weight.fillna(1.0)), k, "o", color="black", markersize=2.5)
    size = pool.metrics[pool.metrics.metric == "bits per weight"].groupby("arm").value.mean()
    axes.set_yticks(range(len(names)), [f"{a}, {size[a]:.1f} bit" if a in size else a for a in names])
    axes.invert_yaxis()
    axes.set_xlabel(
        f"{LABELS.get(metric, metric)}; {len(pool.seeds)} seed(s), 95 % interval over them and "
        f"{chosen.prompt_id.nunique()} prompts"
    )
    return figure


def margin_deciles(runs: Sequence):
    """Flip probability by decile of full precision's margin, one line a seed."""
    figure, axes = _axes()
    for r in runs:
        m = r.metrics()
        m = m[m.metric.str.startswith("flip rate, margin decile")]
        k = m.metric.str.split().str[-1].astype(int)
        axes.plot(k, m.value, marker="o", color=COLOURS["rtn"], markeredgecolor="black", markersize=4)
    axes.set(
        xlabel="decile of the margin p(top 1) - p(top 2) under full precision",
        ylabel="flipped tokens (share)",
        xticks=range(1, 11),
        ylim=(0, None),
    )
    return figure


def breakdown(runs: Sequence):
    """Agreement with full precision's own continuation after one flip, four ways."""
    pool = claims.Pool(runs)
    names = list(dict.fromkeys(pool.items[pool.items.dataset == "first divergence"].arm))
    figure, axes = _axes((7.0, 2.4))
    for k, name in enumerate(names):
        i = _interval(pool, "first divergence", name, "agreement", "fixed")
        axes.barh(k, i.value, color="#4c78a8", alpha=0.8, height=0.6)
        axes.errorbar(
            i.value, k, xerr=[[max(0, i.value - i.low)], [max(0, i.high - i.value)]], color="black", capsize=2, lw=1
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="tokens equal to full precision's continuation (share)", xlim=(0, 1))
    return figure


def formats(runs: Sequence):
    """Flip rate of untrained round-to-nearest by bits, one line a group size."""
    m = runs[0].metrics()
    m = m[(m.exhibit == "formats") & (m.metric == "flip rate")].copy()
    m["bits"], m["group"] = m.arm.str.extract(r"W(\d+)")[0].astype(int), m.arm.str.extract(r"g(-?\d+)")[0].astype(int)
    figure, axes = _axes()
    for group, rows in m.groupby("group"):
        rows = rows.sort_values("bits")
        axes.plot(rows.bits, rows.value, marker="o", label=f"group {group}")
    axes.set(xlabel="bits of a weight", ylabel="flipped tokens (share)", xticks=sorted(m.bits.unique()), ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def _accuracy(reward: str):
    return lambda runs: arms(runs, "accuracy, primary reference", f"held-out {reward}")


def by_queries(runs: Sequence, dataset: str):
    """Mean held-out win rate by oracle queries, one line a method; the band is one standard error over the seeds."""
    curves = pd.concat([r.curve().assign(seed=r.manifest["seed"]) for r in runs])
    curves = curves[(curves.name == "win rate") & curves.arm.str.startswith(f"{dataset}: ")]
    figure, axes = _axes()
    for k, (arm, rows) in enumerate(curves.groupby("arm", sort=False)):
        at = rows.assign(look=rows.groupby("seed").cumcount()).groupby("look")
        x, y, e = at.step.mean(), at.value.mean(), at.value.sem().fillna(0)
        axes.plot(
            x, y, label=arm.removeprefix(f"{dataset}: "), color=plt.cm.tab20(k % 20), lw=1.5, ls="-" if k < 20 else "--"
        )
        axes.fill_between(x, y - e, y + e, color=plt.cm.tab20(k % 20), alpha=0.15)
    axes.axhline(0.5, color="gray", ls="--", lw=1)
    axes.set(xlabel="oracle queries", ylabel="win rate against the start model")
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def pareto(runs: Sequence, dataset: str = "written forum"):
    """Expected maximum toxicity against the surprise at clean forum text, means over seeds: a line through the lambdas
    of ours and the weights of RL."""
    pool = claims.Pool(runs)
    i = pool.items
    y = i[(i.dataset == dataset) & (i.metric == "expected maximum, oracle")].groupby("arm", sort=False).value.mean()
    x = i[(i.dataset == "text clean forum") & (i.metric == "surprise")].groupby("arm").value.mean()
    settings, figure, axes = runs[0].manifest["settings"], *_axes((6.0, 3.6))
    strength = {a: float(a.rpartition(" ")[2]) for a in y.index if a.startswith(("ours, lambda", "rl, weight"))} | {
        "sft": 0.0,
        "ours": settings["lam"],
        "rl": settings["rl_weight"],
    }
    for family, color in (("ours", "#d62728"), ("rl", "#1f77b4")):
        path = sorted(
            (a for a in y.index if a == "sft" or a == family or a.startswith(f"{family}, ")), key=strength.get
        )
        axes.plot(
            x[path],
            y[path],
            "-o",
            color=color,
            markersize=4,
            lw=1.5,
            label={"ours": "ours, by lambda", "rl": "RL, by weight"}[family],
        )
        for a in path:
            axes.annotate(
                f"{strength[a]:g}", (x[a], y[a]), textcoords="offset points", xytext=(4, 4), fontsize=7, color=color
            )
    if "base" in y:  # far to the right, with its decoding: it has not learned the corpus
        axes.set_title(f"untrained: {x['base']:.2f}, {y['base']:.2f}, outside", fontsize=8, loc="right")
    for k, a in enumerate(a for a in y.index if a not in strength and not a.endswith("base")):
        axes.plot(x[a], y[a], "s", color=plt.cm.Dark2(k % 8), markersize=5, label=a)
    axes.set(xlabel="surprise at clean forum text (nats a token)", ylabel="expected maximum toxicity")
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def by_lambda(runs: Sequence, dataset: str = "written forum"):
    """Share of toxic answers by lambda, one dot a seed, with the fixed point that theory gives for each seed's plain
    fine-tuning."""
    figure, axes, metric = *_axes((6.0, 3.2)), "share above one half, oracle"
    for k, r in enumerate(runs):
        i, m = r.items(), r.metrics()
        y = i[(i.dataset == dataset) & (i.metric == metric)].groupby("arm").value.mean()
        at = {a: float(a.rpartition(" ")[2]) for a in y.index if a.startswith("ours, lambda")} | {
            a: v for a, v in (("sft", 0.0), ("ours", r.manifest["settings"]["lam"])) if a in y
        }
        path = sorted(at, key=at.get)
        axes.plot(
            [at[a] for a in path],
            y[path],
            "-o",
            color="#d62728",
            markersize=4,
            lw=1,
            label="measured, a seed each" if not k else None,
        )
        p = m[m.exhibit == "prediction"]
        if len(p) and "sft" in y:
            x = [0.0, *p.arm.astype(float)]
            axes.plot(x, [y["sft"], *p.value], "--", color="gray", lw=1, label="fixed point" if not k else None)
    axes.set(xlabel="lambda", ylabel="toxic answers (share)", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return figure


def by_phase(runs: Sequence, names: Sequence[str] = ("phased", "replay-3%", "replay-30%", "replay-all", "reversed")):
    """Score on each part of the curriculum after each phase, means over seeds: where a line falls, something is
    forgotten. Dashed: all at once, in the end."""
    m = pd.concat([r.metrics() for r in runs])
    m = m[m.exhibit == "after phase"]
    m = m.assign(phase=m.dataset.str.split().str[0].astype(int))
    groups = [g for g in dict.fromkeys(m.metric) if g != "facts"]
    figure, panels = plt.subplots(1, len(groups), figsize=(2.3 * len(groups), 2.6), layout="constrained", squeeze=False)
    for axes, group in zip(panels[0], groups):
        axes.spines[["top", "right"]].set_visible(False)
        of = m[m.metric == group].groupby(["arm", "phase"]).value.mean()
        for k, arm in enumerate(a for a in names if a in of.index.get_level_values("arm")):
            axes.plot(of[arm].index, of[arm], "-o", markersize=3, lw=1.3, color=plt.cm.tab10(k), label=arm)
        if "stacked" in of.index.get_level_values("arm"):
            axes.axhline(of["stacked"].iloc[-1], color="gray", ls="--", lw=1, label="stacked")
        axes.set(title=group, xlabel="phases done", ylim=(0, None), xticks=sorted({p for _, p in of.index}))
        axes.title.set_fontsize(9)
    panels[0][0].set_ylabel("share right")
    panels[0][-1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def covered(runs: Sequence):
    """Effective leaves of each sampler's questions, by teacher: a dot a repetition, a bar their mean. Dashed: all
    leaves alike."""
    i = pd.concat([r.items() for r in runs])
    i = i[i.dataset.str.startswith("coverage, ") & (i.metric == "effective leaves")]
    teachers = list(dict.fromkeys(i.dataset))
    figure, panels = plt.subplots(
        1, len(teachers), figsize=(2.8 * len(teachers), 2.4), layout="constrained", squeeze=False, sharex=True
    )
    for axes, teacher in zip(panels[0], teachers):
        axes.spines[["top", "right"]].set_visible(False)
        of = i[i.dataset == teacher].groupby("arm", sort=False).value
        for k, (arm, values) in enumerate(of):
            axes.barh(k, values.mean(), color="#d62728" if arm in ("leaf", "quota") else "#b0b0b0", alpha=0.75)
            axes.plot(values, [k] * len(values), "o", color="black", markersize=2)
        axes.set_yticks(range(len(of)), list(of.groups), fontsize=8)
        axes.invert_yaxis()
        axes.set_title(teacher.removeprefix("coverage, "), fontsize=9)
        axes.set_xlabel("effective leaves")
    return figure


class Figure(NamedTuple):
    """One figure of results/: what draws it from a paper's runs, and words for who cannot see it."""

    draw: Callable
    alt: str

    def __call__(self, runs: Sequence):
        return self.draw(runs)


OTHERS = "with 95 % intervals"
INDEX = {  # paper -> its figures in results/; the first is the one that shows its finding
    "qdpo": {
        "flips": Figure(lambda r: arms(r, "flips"), f"Flipped tokens of every arm {OTHERS}"),
        "kl": Figure(lambda r: arms(r, "kl"), f"KL from full precision of every arm {OTHERS}"),
        "prefix": Figure(
            lambda r: arms(r, "agreement prefix"), f"Tokens before the first difference of every arm {OTHERS}"
        ),
        "margins": Figure(margin_deciles, "Flipped tokens by decile of full precision's margin, a line a seed"),
        "breakdown": Figure(breakdown, f"Agreement after one flip, four ways, {OTHERS}"),
        "formats": Figure(formats, "Flipped tokens of round-to-nearest by bits, a line a group size"),
    },
    "lab": {
        "forgetting": Figure(
            lambda r: arms(r, "forgotten", "forgetting"), f"Forgotten share of every curriculum {OTHERS}"
        ),
        "exam": Figure(lambda r: arms(r, "accuracy", "exam"), f"Exam accuracy of every student {OTHERS}"),
        "phases": Figure(by_phase, "Share right on each part of the curriculum after each phase, a line a curriculum"),
        "coverage": Figure(covered, "Effective leaves of each sampler by teacher, a dot a repetition"),
    },
    "attribute_control": {
        "toxicity": Figure(
            lambda r: arms(r, "expected maximum, oracle", "written forum"),
            f"Expected maximum toxicity of every arm {OTHERS}",
        ),
        "pareto": Figure(pareto, "Expected maximum toxicity against the surprise at clean text, a line a method"),
        "lambda": Figure(by_lambda, "Share of toxic answers by lambda beside the fixed point of theory, a line a seed"),
    },
    "mrpo": {
        "exact": Figure(maps.exact, "Heatmaps of one arm minus another by preference pairs and reference quality"),
        "sections": Figure(maps.sections, "Expected reward minus DPO's by window, references and rule of weights"),
        "plain": Figure(_accuracy("plain"), f"Held-out accuracy of every arm on the plain set {OTHERS}"),
        "direct": Figure(_accuracy("direct"), f"Held-out accuracy of every arm on the direct set {OTHERS}"),
        "varied": Figure(_accuracy("varied"), f"Held-out accuracy of every arm on the varied set {OTHERS}"),
        "abundant": Figure(_accuracy("plain+varied"), f"Held-out accuracy with abundant pairs {OTHERS}"),
    },
    "sea": {
        "map": Figure(ratios.figure, "Times fewer queries of one method than another in every exact world, with "
            "intervals"),
        "exact": Figure(lambda r: by_queries(r, claims.PAPERS["sea"].HOME),
            "Win rate by oracle queries in the exact world, a line a method"),
        "queries": Figure(lambda r: by_queries(r, "language"),
            "Win rate by oracle queries with a language model, a line a method"),
    },
}  # fmt: skip
SPEED_ALT = "Times better than each peer in units a second and in peak memory, with the range over repeats"


def speed(table):
    """Ratio to each peer with its range over the repeats; the dashed line is parity."""
    figure, axes = _axes((7.0, 0.34 * len(table) + 1.2))
    for k, r in enumerate(table.itertuples()):
        color = "#d62728" if r.metric == "per second" else "#4c78a8"
        axes.plot([r.low, r.high], [k, k], color=color, lw=2)
        axes.plot(r.ratio, k, "o", color=color, markersize=4)
    axes.axvline(1, color="gray", ls="--", lw=1)
    axes.set_yticks(range(len(table)), [f"{r.task}, {r.metric}, {r.peer}" for r in table.itertuples()], fontsize=8)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="times better than the peer\nred: units a second, blue: peak memory")
    axes.set_xticks([0.5, 1, 2, 3, 5, 10], ["0.5", "1", "2", "3", "5", "10"])
    axes.minorticks_off()
    return figure


def save(figure, path: Path) -> Path:
    """Write a figure as SVG that is byte-equal when nothing changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "plumbline"}):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return path


def index_figures(paper: str, runs: Sequence, folder: Path) -> list[Path]:
    """Write the paper's figures; returns their paths."""
    with plt.rc_context({"svg.hashsalt": "plumbline"}):
        return [save(draw(runs), folder / f"{paper}_{name}.svg") for name, draw in INDEX[paper].items()]
