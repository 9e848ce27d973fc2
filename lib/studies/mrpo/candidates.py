"""Preference sets with a known oracle: a model's own samples, ranked by a programmatic reward whose true value is
kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.data import Comparison, Prompt, encode
from lib.engine.models import end_of_turn
from lib.scoring import oracles

Ids = Sequence[Sequence[int]]
LONGEST = 1024  # tokens of a pair's longer answer with its prompt: MRPO's release and its data


class Candidates(NamedTuple):
    """Answers sampled for each prompt: N prompts, n answers each."""

    prompts: list[Prompt]
    ids: list[list[int]]  # (N) prompt token ids
    answers: list[list[list[int]]]  # (N, n) answer token ids
    texts: list[list[str]]

    def rows(self) -> list[tuple[list[int], list[list[int]]]]:
        """(prompt, answers) as `logprobs.pack` takes them."""
        return list(zip(self.ids, self.answers))

    def part(self, category: str) -> Candidates:
        """The prompts of a category; all of them for an empty one."""
        keep = [i for i, p in enumerate(self.prompts) if category in ("", p.category)]
        columns: Any = ([column[i] for i in keep] for column in self)
        return Candidates(*columns)

    def rewards(self, name: str) -> Tensor:
        """True rewards (N, n) float64 under a programmatic oracle."""
        flat = oracles.score(name, [t for row in self.texts for t in row])
        return flat.view(len(self.texts), -1)


def halves(prompts: Sequence[Prompt]) -> tuple[list[int], list[int]]:
    """Rows of the prompts of every second category, which scarce pairs are about, and those of the others, which made
    the second reference."""
    own = sorted({p.category for p in prompts})[1::2]
    first, rest = ([i for i, p in enumerate(prompts) if (p.category in own) == mine] for mine in (True, False))
    return first, rest


class Choice(NamedTuple):
    """One preference: answer `chosen` of prompt `row` over answer `rejected`, and by how much the oracle prefers it."""

    row: int
    chosen: int
    rejected: int
    gap: float


def choices(
    candidates: Candidates,
    reward: str,
    *,
    n: int,
    rng: np.random.Generator,
    categories: Collection[str] | None = None,
    least: float = 0.0,
) -> list[Choice]:
    """n preferences between answers of one prompt whose rewards differ by more than `least`, spread evenly over the
    prompts.

    Equal answers and smaller gaps are left out, and prompts of other categories. ValueError if the candidates do not
    hold n such pairs.
    """
    values = candidates.rewards(reward)
    queues: list[list[Choice]] = []
    for row, (r, answers) in enumerate(zip(values.tolist(), candidates.answers)):
        if categories is not None and candidates.prompts[row].category not in categories:
            queues.append([])
            continue
        found = [
            (a, b) if r[a] > r[b] else (b, a)
            for a, b in combinations(range(len(r)), 2)
            if abs(r[a] - r[b]) > least and answers[a] != answers[b]
        ]
        queues.append([Choice(row, a, b, r[a] - r[b]) for a, b in (found[k] for k in rng.permutation(len(found)))])
    total = sum(map(len, queues))
    if total < n:
        raise ValueError(
            f"the candidates hold {total} pairs with a gap in {reward!r} above {least}, {n} were asked for: "
            "sample more answers"
        )
    out: list[Choice] = []
    while len(out) < n:
        for row in rng.permutation(len(queues)).tolist():
            if queues[row] and len(out) < n:
                out.append(queues[row].pop())
    return out


def gather(matrix: Tensor, picks: Sequence[Choice]) -> tuple[Tensor, Tensor]:
    """(chosen, rejected) (B,) of a per-candidate matrix (N, n)."""
    rows, w, l = (torch.tensor([c[k] for c in picks]) for k in range(3))
    return matrix[rows, w], matrix[rows, l]


def of_pairs(
    sets: Mapping[str, Sequence[Comparison]],
    tokenizer,
    *,
    sizes: Mapping[str, int],
    stop_ids: Sequence[int],
    longest: int = LONGEST,
) -> dict[str, Candidates]:
    """Candidates by split of people's preferences: each comparison's conversation with two answers, the chosen first;
    the set's name is the category.

    A prompt is used once; pairs of more than `longest` tokens, prompt included, are left out. ValueError if a set holds
    too few.
    """
    out, end = {split: Candidates([], [], [], []) for split in sizes}, end_of_turn(tokenizer, stop_ids)
    for name, pairs in sets.items():
        once = {repr(pair.prompt): pair for pair in reversed(pairs)}
        rows = [list(once.values())[i] for i in np.random.default_rng(0).permutation(len(once))]
        prompts = [Prompt(f"{name} {i}", name, pair.text, "", pair.prompt) for i, pair in enumerate(rows)]
        answers = [[[*tokenizer.encode(a, add_special_tokens=False), end] for a in row[1:]] for row in rows]
        kept = [
            r
            for r in zip(prompts, encode(tokenizer, prompts), answers, (list(row[1:]) for row in rows))
            if len(r[1]) + max(map(len, r[2])) <= longest
        ]
        if len(kept) < sum(sizes.values()):
            raise ValueError(
                f"{name} holds {len(kept)} pairs of different prompts and at most {longest} tokens, "
                f"{sum(sizes.values())} are needed"
            )
        for split, n in sizes.items():
            columns: Any = out[split]
            for column, values in zip(columns, zip(*kept[:n])):
                column.extend(values)
            kept = kept[n:]
    return {split: c._replace(prompts=[p._replace(split=split) for p in c.prompts]) for split, c in out.items()}
