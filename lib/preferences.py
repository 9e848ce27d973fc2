"""Preference sets with a known oracle: a model's own samples, ranked by a programmatic reward whose true value is kept."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib import oracles
from lib.data import Prompt
from lib.generation import generate
from lib.harness.cache import cached
from lib.models import fingerprint

Ids = Sequence[Sequence[int]]


class Candidates(NamedTuple):
    """Answers sampled for each prompt: N prompts, n answers each."""

    prompts: list[Prompt]
    ids: list[list[int]]  # (N) prompt token ids
    answers: list[list[list[int]]]  # (N, n) answer token ids
    texts: list[list[str]]

    def rows(self) -> list[tuple[list[int], list[list[int]]]]:
        """(prompt, answers) as `logprobs.pack` takes them."""
        return list(zip(self.ids, self.answers))

    def rewards(self, name: str) -> Tensor:
        """True rewards (N, n) float64 under a programmatic oracle."""
        flat = oracles.score(name, [t for row in self.texts for t in row])
        return flat.view(len(self.texts), -1)


class Choice(NamedTuple):
    """One preference: answer `chosen` of prompt `row` over answer `rejected`, and by how much the oracle prefers it."""

    row: int
    chosen: int
    rejected: int
    gap: float


def sample(
    model, tokenizer, prompts: Sequence[Prompt], ids: Ids, *, temperatures: Sequence[float], each: int, max_new_tokens: int, stop_ids: Sequence[int],
    batch: int, seed: int,
) -> Candidates:
    """`each` answers per prompt at every temperature, drawn once per (weights, prompts, settings) and kept in data/cache."""
    settings = dict(max_new_tokens=max_new_tokens, stop_ids=list(stop_ids), batch=batch)
    key = {
        "code": 1,  # raise it when a draw can change
        "weights": fingerprint(model), "dtype": str(model.dtype), "device": model.device.type, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "prompts": [list(p) for p in ids], "temperatures": list(temperatures), "each": each, "seed": seed, **settings,
    }  # fmt: skip

    def draw():
        out: list[list[list[int]]] = [[] for _ in ids]
        for k, t in enumerate(temperatures):
            generator = torch.Generator(device=model.device).manual_seed(seed * 1009 + k)
            done = generate(model, ids, n=each, temperature=t, generator=generator, **settings)
            for i, c in enumerate(done):
                out[i // each].append(c.tokens)
        return out

    answers = cached("samples", key, draw)
    texts = [[tokenizer.decode(a, skip_special_tokens=True) for a in row] for row in answers]
    return Candidates(list(prompts), [list(i) for i in ids], answers, texts)


def choices(
    candidates: Candidates, reward: str, *, n: int, rng: np.random.Generator, categories: Collection[str] | None = None, least: float = 0.0
) -> list[Choice]:
    """n preferences between answers of one prompt whose rewards differ by more than `least`, spread evenly over the prompts.

    Equal answers and smaller gaps are left out, and prompts of other categories. ValueError if the candidates do not hold n such pairs.
    """
    values = candidates.rewards(reward)
    queues: list[list[Choice]] = []
    for row, (r, answers) in enumerate(zip(values.tolist(), candidates.answers)):
        if categories is not None and candidates.prompts[row].category not in categories:
            queues.append([])
            continue
        found = [(a, b) if r[a] > r[b] else (b, a) for a, b in combinations(range(len(r)), 2) if abs(r[a] - r[b]) > least and answers[a] != answers[b]]
        queues.append([Choice(row, a, b, r[a] - r[b]) for a, b in (found[k] for k in rng.permutation(len(found)))])
    total = sum(map(len, queues))
    if total < n:
        raise ValueError(f"the candidates hold {total} pairs with a gap in {reward!r} above {least}, {n} were asked for: sample more answers")
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


def load_pairs(path: Path | str) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) texts of a file: JSON lines with those three fields, or a BIG-bench task.json of two scored answers.

    FileNotFoundError, or ValueError naming the row that is neither.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file of preference pairs at {path}; give JSON lines with prompt, chosen and rejected, or a BIG-bench task.json")
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text)["examples"] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line.strip()]
    out = []
    for n, row in enumerate(rows, 1):
        if scores := row.get("target_scores"):
            ranked = sorted(scores, key=scores.get, reverse=True)
            row = {"prompt": row["input"], "chosen": ranked[0], "rejected": ranked[-1]} if len(set(scores.values())) == len(scores) == 2 else {}
        if not all(isinstance(row.get(k), str) and row[k].strip() for k in ("prompt", "chosen", "rejected")) or row["chosen"] == row["rejected"]:
            raise ValueError(f"{path.name} row {n} needs a prompt and two different answers, chosen and rejected; it has {sorted(row) or 'other scores'}")
        out.append((row["prompt"], row["chosen"], row["rejected"]))
    return out
