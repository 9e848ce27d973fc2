"""Online alignment as a contextual dueling bandit: which answers to compare (`duels`), the loop (`online`), exact
worlds (`enumerated`)."""

from lib.bandit.duels import (
    SPREADS,
    Ensemble,
    alike,
    anchor,
    best_and_worst,
    best_arm,
    double_thompson,
    entropy,
    first_two,
    kinds_of,
    least_certain,
    regret,
    release_anchor,
    reward_loss,
    spread,
    two_of,
    widest,
)

__all__ = [
    "Ensemble",
    "SPREADS",
    "alike",
    "anchor",
    "best_and_worst",
    "best_arm",
    "double_thompson",
    "entropy",
    "first_two",
    "kinds_of",
    "least_certain",
    "regret",
    "release_anchor",
    "reward_loss",
    "spread",
    "two_of",
    "widest",
]
