"""The figures of the notebooks and of results/, by paper. Differences with their intervals wherever arms are compared,
one colour an arm everywhere (`style`), a title that says what is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.harness import claims, forest, maps, ratios, style
from lib.harness.forest import LABELS, arms
from lib.harness.panels import breakdown, by_lambda, by_phase, by_queries, covered, formats, margin_deciles, pareto
from lib.harness.style import save

__all__ = ["INDEX", "SPEED_ALT", "Figure", "arms", "breakdown", "by_lambda", "by_phase", "by_queries", "covered",
           "curves", "formats", "glossary", "index_figures", "margin_deciles", "pareto", "save", "speed"]  # fmt: skip

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


@style.drawn
def curves(by_arm: dict[str, list[dict]], name: str):
    """One line an arm over optimizer steps, labelled at its end."""
    figure, axes = style.axes()
    ends = []
    for arm, rows in by_arm.items():
        points = [(r["step"], r[name]) for r in rows if name in r]
        if points:
            x, y = zip(*points)
            axes.plot(x, y, color=style.colour(arm), marker="o", markersize=3)
            ends.append([y[-1], x[-1], arm])
    ends.sort()
    if ends:  # spread the labels so that they do not overlap
        low, high = axes.get_ylim()
        gap, right, at = (high - low) / 18, max(e[1] for e in ends) * 1.03, -np.inf
        for y, x, arm in ends:
            at = max(y, at + gap)
            axes.annotate(arm, (x, y), xytext=(right, at), color=style.colour(arm), fontsize=8, va="center")
    axes.set(xlabel="optimizer step", ylabel=LABELS.get(name, name))
    return figure


def _accuracy(dataset: str):
    return lambda runs: arms(runs, "accuracy", dataset)


class Figure(NamedTuple):
    """One figure of results/: what draws it from a paper's runs, and words for who cannot see it."""

    draw: Callable
    alt: str

    def __call__(self, runs: Sequence):
        return self.draw(runs)


OTHERS = "with 95 % intervals"
INDEX = {  # paper -> its figures in results/; the first is the one that shows its finding
    "qdpo": {
        "truth": Figure(lambda r: arms(r, "accuracy", "exam"), f"Exam accuracy of every arm {OTHERS}"),
        "flips": Figure(lambda r: arms(r, "flips"), f"Flipped tokens of every arm {OTHERS}"),
        "kl": Figure(lambda r: arms(r, "kl"), f"KL from full precision of every arm {OTHERS}"),
        "margins": Figure(margin_deciles, "Flipped tokens by decile of full precision's margin, a line a seed"),
        "breakdown": Figure(breakdown, f"KL after one flip, four ways, {OTHERS}"),
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
        **{f"{reward}-{second.split()[0]}": Figure(_accuracy(f"language {reward}, {second}"),
            f"Held-out accuracy of every arm on {reward} answers, {second}, {OTHERS}")
            for reward in ("rich", "full") for second in ("complementary second", "foreign second",
            "mis-scored second")},
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


@style.drawn
def speed(table):
    """Ratio to each peer with its range over the repeats, a mark a kind of machine; the dashed line is parity."""
    rows = list(table.groupby(["task", "metric", "peer"], sort=False))
    kinds = dict(zip(table.machine.unique(), "o^D"))
    figure, axes = style.axes((7.6, (0.2 + 0.12 * len(kinds)) * len(rows) + 1.3))
    looks = {"per second": (style.METHOD, True), "peak GB": (style.BLUE, False)}
    for k, ((_, metric, _), group) in enumerate(rows):
        for r in group.itertuples():
            at = k + 0.3 * (list(kinds).index(r.machine) - (len(kinds) - 1) / 2)
            colour, filled = looks[metric]
            forest.point(axes, at, r.ratio, r.low, r.high, (colour, kinds[r.machine], filled))
    axes.axvline(1, color=style.INK, ls="--", lw=1)
    axes.set_yticks(range(len(rows)), [", ".join(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    marks = ", ".join(f"{dict(o='circle', D='diamond').get(m, 'triangle')}: {kind}" for kind, m in kinds.items())
    axes.set(xscale="log", xlabel="times better than the peer (log), range over repeats; filled: units a second, open: "
        f"peak memory\n{marks}")  # fmt: skip
    axes.set_xticks([0.5, 1, 2, 3, 5, 10], ["0.5", "1", "2", "3", "5", "10"])
    axes.minorticks_off()
    said = [f"{what} in {int((g.low > 1).sum())} of {len(g)}" for metric, what in (("per second", "faster"),
        ("peak GB", "smaller")) for g in [table[table.metric == metric]]]  # fmt: skip
    figure.suptitle(f"Whole range above the peer: {', '.join(said)}", x=0.01, ha="left", fontsize=9.5)
    return figure


def index_figures(paper: str, runs: Sequence, folder: Path) -> list[Path]:
    """Write the paper's figures; returns their paths."""
    return [save(draw(runs), folder / f"{paper}_{name}.svg") for name, draw in INDEX[paper].items()]
