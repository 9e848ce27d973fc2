"""How every figure of the repository looks: colours by arm and by verdict (Okabe and Ito's, safe for colour-blind
readers), no background, ink that is read on white and on dark."""

from __future__ import annotations

from functools import wraps
from pathlib import Path

import matplotlib.pyplot as plt

from lib.harness import claims

INK, GREY, FAINT = "#7d7d7d", "#8f8f8f", "#a9a9a9"
VERMILLION, ORANGE, BLUE, SKY, GREEN, PURPLE = "#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7"
METHOD, VARIANT, BAND = (
    VERMILLION,
    ORANGE,
    "#7d7d7d33",
)  # the paper's method, what is made from it, what is not worth it
SIZE = (7.0, 3.6)
METHODS = {paper: module.METHOD for paper, module in claims.PAPERS.items()}
ARMS = {  # the methods, the rivals that claims name, and methods in their detail; every other arm is a shade of grey
    **dict.fromkeys(METHODS.values(), METHOD),
    "kd": BLUE, "tskd": SKY, "sft": GREEN, "fp": INK, "rtn": GREY,
    "phased": PURPLE, "stacked": BLUE, "reversed": GREEN, "leaf": METHOD, "quota": VARIANT,
    "pool": BLUE, "teacher": METHOD, "rl": BLUE, "filtering": PURPLE, "nado-sft": GREEN,
    "dpo": BLUE, "multi-dpo": GREEN, "single": PURPLE, "geometric": SKY,
    "passive": BLUE, "passive-matched": SKY, "random-sea": GREEN, "offline": PURPLE,
}  # fmt: skip
RC = {
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "legend.frameon": False, "legend.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.labelsize": 9, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5, "legend.fontsize": 8, "svg.hashsalt": "plumbline",
}  # fmt: skip
VERDICTS = {  # colour, marker, whether it is filled: told apart without colour too
    "holds": (GREEN, "o", True), "fails": (VERMILLION, "X", True), "no difference": (BLUE, "s", True),
    "not resolved": (GREY, "o", False), "cannot tell here": (GREY, "D", False), "smoke": (GREY, "o", False),
}  # fmt: skip


def colour(arm: str) -> str:
    """The colour of an arm everywhere: its own; orange for a variant of a paper's method; else a grey."""
    if arm in ARMS:
        return ARMS[arm]
    made = any(arm.startswith((f"{m}-", f"{m},")) or arm.endswith(f"-{m}") for m in METHODS.values())
    return VARIANT if made or arm.startswith("sea") else FAINT


def drawn(function):
    """A function that draws, in the style of all."""

    @wraps(function)
    def wrapped(*args, **kwargs):
        with plt.rc_context(RC):
            return function(*args, **kwargs)

    return wrapped


def axes(size=SIZE):
    """A figure and its one pair of axes."""
    return plt.subplots(figsize=size, layout="constrained")


def save(figure, path: Path) -> Path:
    """Write a figure as SVG without a background, byte-equal when nothing changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(RC):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", transparent=True)
    plt.close(figure)
    return path
