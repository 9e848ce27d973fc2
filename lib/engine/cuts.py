"""Packed rows cut into parts that attend apart: each part with the keys that it may see, and no others.

Eight answers of 64 tokens behind a prompt of 48 make one row of 560 keys, of which each answer sees 112. Attention over
whole rows forms every score and masks most of them; over parts it forms a fifth, with the prompt's keys once an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

SHARE = 0.5  # of the whole rows' scores: above it the copies of keys cost what the scores save
STEP = 16  # keys are padded to a multiple: a softmax over 110 takes a third longer than one over 112

Stretch = tuple[Sequence[int], Sequence[int]]  # places of queries, and of all keys that one of them sees


class Part(NamedTuple):
    """N stretches of about one length. A place is row * L + position; behind a stretch's end it is 0."""

    query: Tensor  # (N, T) places
    key: Tensor  # (N, K) places
    real: Tensor  # (N, K) bool, whether a key is there
    row: Tensor  # (N,)

    def mask(self, mask: Tensor) -> Tensor:
        """(N, 1, T, K) bool out of the whole rows' (B, 1, L, L)."""
        at = self.row[:, None, None], 0, (self.query % mask.shape[-1])[:, :, None], (self.key % mask.shape[-1])[:, None]
        return (mask[at] & self.real[:, None])[:, None]


class Cut(NamedTuple):
    """All parts of B rows of length L."""

    parts: tuple[Part, ...]
    back: Tensor  # (B L,) of each place, where its query is among the parts' one after another; of padding, 0

    def to(self, device) -> Cut:
        return Cut(tuple(Part(*(x.to(device) for x in p)) for p in self.parts), self.back.to(device))


def cut(groups: Sequence[Sequence[Stretch]], rows: int, length: int) -> Cut | None:
    """A part for each group of stretches; together they hold every place that is no padding. None where the parts
    would form more than `SHARE` of the whole rows' scores."""
    sizes = [(len(g), max(len(q) for q, _ in g), -(-max(len(k) for _, k in g) // STEP) * STEP) for g in groups]
    if sum(n * t * k for n, t, k in sizes) > SHARE * rows * length**2:
        return None
    back = torch.zeros(rows * length, dtype=torch.long)
    parts = []
    for group, (n, t, k), first in zip(groups, sizes, accumulate((n * t for n, t, _ in sizes), initial=0)):
        query, key = torch.zeros(n, t, dtype=torch.long), torch.zeros(n, k, dtype=torch.long)
        for i, (q, seen) in enumerate(group):
            query[i, : len(q)], key[i, : len(seen)] = torch.tensor(q), torch.tensor(seen)
            back[query[i, : len(q)]] = torch.arange(len(q)) + first + i * t
        there = torch.tensor([len(seen) for _, seen in group])
        parts.append(Part(query, key, torch.arange(k) < there[:, None], query[:, 0] // length))
    return Cut(tuple(parts), back)
