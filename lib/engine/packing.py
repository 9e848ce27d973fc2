"""Rows of prompt and answer, several in a sequence, each of which sees itself alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lib.engine.cuts import cut
from lib.engine.logprobs import Packed

Row = tuple[tuple[int, ...], tuple[int, ...]]  # (prompt ids, answer ids): the loss is on the answer


def bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows by number, together at most `capacity` tokens a bin: longest first, each into the first bin with room.
    ValueError if one does not fit."""
    if max(lengths) > capacity:
        raise ValueError(
            f"a sequence of {capacity} tokens cannot hold a row of {max(lengths)}: raise the capacity or shorten "
            "the row"
        )
    out, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        k = next((k for k, r in enumerate(room) if r >= lengths[i]), len(out))
        if k == len(out):
            out, room = [*out, []], [*room, capacity]
        out[k].append(i)
        room[k] -= lengths[i]
    return out


def pack_rows(sequences: Sequence[Sequence[Row]]) -> Packed:
    """Rows one after another in each of S sequences; each starts at position 0 and sees itself alone. Alone it is
    padded as usual."""
    length = max(sum(len(p) + len(a) for p, a in rows) for rows in sequences)
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, -1)  # -1: padding, which sees padding, so that no softmax is empty
    row, source, target, branch, n = [], [], [], [], 0
    stretches = []
    for s, rows in enumerate(sequences):
        at = 0
        for prompt, answer in rows:
            end, first = at + len(prompt) + len(answer), at + len(prompt)
            ids[s, at:end] = torch.tensor([*prompt, *answer])
            positions[s, at:end], segment[s, at:end] = torch.arange(end - at), n
            row += [s] * len(answer)
            source += range(first - 1, end - 1)
            target += answer
            branch += [n] * len(answer)
            own = list(range(s * length + at, s * length + end))
            stretches.append((own, own))
            at, n = end, n + 1
    mask = (torch.ones(length, length, dtype=torch.bool).tril() & (segment[:, None] == segment[:, :, None]))[:, None]
    told: list[Any] = [torch.tensor(x, dtype=torch.long) for x in (row, source, target, branch)]
    told += [n, cut([stretches], len(sequences), length)]
    return Packed(ids, positions, mask, *told)
