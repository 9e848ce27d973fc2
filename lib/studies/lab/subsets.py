"""Rows drawn at random from more of them, so that what is compared is equally many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def random_subset(rows: Sequence, n: int, seed: int) -> list:
    """n of the rows at random: a prefix would hold more of the leaves whose turn came first."""
    return [rows[i] for i in np.random.default_rng([seed, 0xC0, n]).permutation(len(rows))[:n].tolist()]


def equally_many(keeps: Mapping[str, Sequence[dict]], seed: int) -> dict[str, list[dict]]:
    """As many rows of every arm as the poorest one has, drawn at random. ValueError naming an arm that has none."""
    poorest = min(keeps, key=lambda name: len(keeps[name]), default="")
    if keeps and not keeps[poorest]:
        raise ValueError(
            f"{poorest} kept no row, so no student can be compared at equal numbers: leave it out, or make more calls"
        )
    return {name: random_subset(rows, len(keeps[poorest]), seed) for name, rows in keeps.items()}


def at_most_per_skill(data: Sequence[dict], n: int, seed: int) -> list[dict]:
    """At most n rows of each skill, drawn at random without replacement; all of knowledge."""
    left, kept = dict.fromkeys((row["leaf"] for row in data), n), set()
    for i in np.random.default_rng([seed, 0xCA9]).permutation(len(data)).tolist():
        leaf = data[i]["leaf"]
        if leaf.startswith("knowledge/") or left[leaf]:
            left[leaf] -= 1
            kept.add(i)
    return [row for i, row in enumerate(data) if i in kept]
