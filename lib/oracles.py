"""Programmatic rewards of a text: preferences whose true value is known, exact and the same on every machine."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

WORD = re.compile(r"[A-Za-z']+")
READER = {"you", "your", "yours", "yourself", "yourselves", "you're", "you'll", "you've", "you'd"}
NOTHING = -1e3  # the reward of a text without a word: below every other


def _words(text: str) -> list[str]:
    return [w.lower() for w in WORD.findall(text)]


def plain(text: str) -> float:
    """Minus the mean number of letters a word: short, plain words."""
    words = _words(text)
    return -sum(map(len, words)) / len(words) if words else NOTHING


def direct(text: str) -> float:
    """Share of words that address the reader (you, your, ...), in [0, 1]."""
    words = _words(text)
    return sum(w in READER for w in words) / len(words) if words else NOTHING


def varied(text: str) -> float:
    """Distinct words over all words, in (0, 1]: no repetition."""
    words = _words(text)
    return len(set(words)) / len(words) if words else NOTHING


def full(text: str) -> float:
    """Words in the text over 20: answers that say something before they end. Pairs of equal length tie."""
    return len(_words(text)) / 20 if _words(text) else NOTHING


REWARDS = {"plain": plain, "direct": direct, "varied": varied, "full": full}


def score(name: str, texts: Sequence[str]) -> Tensor:
    """Rewards (N,) float64 of the texts; ValueError for a name that no reward has. Several names joined by + add up, each standardised."""
    parts = name.split("+")
    for part in parts:
        if part not in REWARDS:
            raise ValueError(f"a reward is one of {', '.join(REWARDS)}, or some joined by +, given {name!r}")
    columns = [torch.tensor([REWARDS[part](t) for t in texts], dtype=torch.float64) for part in parts]
    if len(columns) == 1:
        return columns[0]
    spoken = columns[0] > NOTHING
    total = torch.full((len(texts),), NOTHING, dtype=torch.float64)
    total[spoken] = sum((c[spoken] - c[spoken].mean()) / c[spoken].std().clamp(min=1e-9) for c in columns)
    return total
