"""Prompts, their splits and token ids, and preference pairs of two models' answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


class Prompt(NamedTuple):
    id: str
    category: str
    text: str
    split: str


class Pair(NamedTuple):
    """A prompt with the answer to prefer and the answer to avoid, as token ids."""

    id: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    divergence: int  # first position at which the two answers differ

    def truncated(self, extra: int = 0) -> Pair:
        """Both answers cut `extra` tokens after the first differing one: there the label needs no assumption."""
        stop = self.divergence + 1 + extra
        return self._replace(chosen=self.chosen[:stop], rejected=self.rejected[:stop])


def load_prompts(path: Path | str, split: str | None = None) -> list[Prompt]:
    """Rows of a JSON-lines file: ours ({"id", "category", "prompt", "split"}) or FastChat's question.jsonl ("turns").

    Rows without a split (foreign files) are dealt 70 / 10 / 20 by a hash of the prompt. Raises FileNotFoundError or
    ValueError naming the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no prompt file at {path}; give a JSON-lines file with a 'prompt' or 'turns' field a line"
        )
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, given {split!r}")
    prompts = []
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        text = row.get("prompt") or (row.get("turns") or [None])[0]
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{path.name} line {n} has neither a 'prompt' text nor 'turns'; it has {sorted(row)}")
        where = row.get("split") or _dealt(text)
        prompts.append(Prompt(str(row.get("id", row.get("question_id", n))), row.get("category", "all"), text, where))
    prompts = [p for p in prompts if split in (None, p.split)]
    if not prompts:
        raise ValueError(f"{path.name} holds no prompt of split {split!r}")
    return prompts


def _dealt(text: str) -> str:
    u = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8
    return "train" if u < 0.7 else "validation" if u < 0.8 else "test"


def sample(prompts: Sequence[Prompt], n: int, rng: np.random.Generator) -> list[Prompt]:
    """n prompts without replacement, the categories as even as they can be, in the file's order."""
    if n > len(prompts):
        raise ValueError(f"{n} prompts asked for, the split has {len(prompts)}")
    queues: dict[str, list[int]] = {}
    for i in rng.permutation(len(prompts)).tolist():
        queues.setdefault(prompts[i].category, []).append(i)
    names = sorted(queues)
    chosen = []
    while len(chosen) < n:
        for name in names:
            if queues[name] and len(chosen) < n:
                chosen.append(queues[name].pop())
    return [prompts[i] for i in sorted(chosen)]


def chat(tokenizer, turns: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of turns {"role", "content"} in the model's chat template, up to where the answer starts; a base model
    without one gets LAB's tags as text."""
    if tokenizer.chat_template is None:
        return list(
            tokenizer("".join(f"<|{t['role']}|>\n{t['content']}\n" for t in turns) + "<|assistant|>\n").input_ids
        )
    return list(tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, return_dict=False))


def encode(tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt as `chat` gives them."""
    return [chat(tokenizer, [{"role": "user", "content": p.text}]) for p in prompts]


def agreement_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of equal leading tokens."""
    n = 0
    for x, y in zip(a, b):
        if x != y:
            break
        n += 1
    return n


def first_divergence(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first differing token, counting a missing token as different; None if the answers are identical."""
    n = agreement_prefix(a, b)
    return None if n == len(a) == len(b) else n


def pairs(
    prompts: Sequence[Prompt], ids: Sequence[list[int]], chosen: Sequence[list[int]], rejected: Sequence[list[int]]
) -> list[Pair]:
    """Pairs of differing answers; equal ones carry no gradient and are dropped (count them: len(prompts) -
    len(pairs))."""
    out = []
    for p, x, w, l in zip(prompts, ids, chosen, rejected, strict=True):
        tau = first_divergence(w, l)
        if tau is not None and tau < min(len(w), len(l)):
            out.append(Pair(p.id, list(x), list(w), list(l), tau))
    return out


def calibration(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, n: int, batch: int
) -> list[tuple[Tensor, Tensor]]:
    """[(ids (B, T), mask (B, T)), ...]: n prompts followed by their answers, right-padded, for AWQ and GPTQ.

    The n are spread evenly over the rows, which files sort by category: the first n would be of one kind.
    """
    if not 1 <= n <= len(prompts):
        raise ValueError(f"calibration takes 1 to {len(prompts)} prompts, given {n}")
    rows = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
    rows = sorted((rows[i * len(rows) // n] for i in range(n)), key=len)
    out = []
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        ids = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for r, row in enumerate(part):
            ids[r, : len(row)], mask[r, : len(row)] = torch.tensor(row), 1
        out.append((ids, mask))
    return out
