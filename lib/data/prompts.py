"""Prompts, their splits and token ids, and preference pairs of two models' answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.data import templates
from lib.data.dialogues import Messages, Unusable, as_text, message, messages, question
from lib.data.preference_forms import FORMS, given, lacking, prompt_of, tldr_prompt
from lib.data.rows import read_rows, told

SPLITS = ("train", "validation", "test")
VALIDATION = dict.fromkeys(("val", "valid", "valid1", "valid2"), "validation")  # HelpSteer2 and TL;DR call it so
PAIRED = "results are paired by id"


class Prompt(NamedTuple):
    """What is asked: `text` to read, and the conversation `turns` that a model is given (none: the text as the user's
    turn)."""

    id: str
    category: str
    text: str
    split: str
    turns: Messages = ()


Asked = Prompt | str | Sequence[dict[str, str]]  # how a person may give a prompt


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
    """Prompts of a file of rows, of which each must be one (`prompt_of_row`); what people bring is read by
    `reading.read`, which drops bad rows and names them.

    FileNotFoundError, or ValueError naming file, line and field.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file at {path}; give JSON lines with a 'prompt' or 'turns' field a line")
    check_split(split)
    prompts, lines = [], {}
    for n, row in read_rows(path, "prompt"):
        try:
            p = prompt_of_row(row, n)
        except Unusable as e:
            raise ValueError(f"{path.name} line {n}: {e}") from None
        if p.id in lines:
            raise ValueError(f"{path.name} line {n}: has the id {p.id!r} of line {lines[p.id]}, {PAIRED}")
        lines[p.id] = n
        prompts.append(p)
    return of_split(prompts, split, path.name)


def of_split(prompts: Sequence[Prompt], split: str | None, name: str) -> list[Prompt]:
    """Those of a split, all of them for None; ValueError where there are none."""
    check_split(split)
    found = [p for p in prompts if split in (None, p.split)]
    if not found:
        raise ValueError(f"{name} holds no prompt of split {split!r}")
    return found


def check_split(split: str | None) -> None:
    """ValueError unless it is None or one of SPLITS."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, given {split!r}")


def prompt_of_row(row: dict, place: int | str) -> Prompt:
    """What a row asks: ours ({"id", "category", "prompt", "split"}), MT-Bench ("turns", or a list as "prompt": the
    first is asked), Vicuna-Eval ("question_id", "text"), conversations ("messages", ShareGPT's "conversations",
    messages as "prompt", a transcript) up to the user's last turn, or the prompt of a preference in any known form.

    Rows without a split (foreign files) are dealt 70 / 10 / 20 by a hash of the prompt, those without a category are
    "all", those without an id are called by their place. Unusable says what is wrong.
    """
    turns = _asked(row)
    if not turns:
        raise Unusable(f"has neither a 'prompt' text nor 'turns'; it has {told(sorted(map(str, row)))}")
    text = as_text(turns)
    return Prompt(_named(row, place), _label(row), text, _split(row, text), turns[1:] and turns)


def _asked(row: dict) -> Messages:
    """The first field that holds something, none for a row without."""
    for field in ("prompt", "turns", "messages", "conversations", "text"):
        value = row.get(field)
        if value in (None, "", []) or value != value or (field == "text" and "question_id" not in row):
            continue
        if field in ("prompt", "turns") and isinstance(value, list) and (field == "turns" or isinstance(value[0], str)):
            value = value[0]
        return question(messages(value, field))
    if given(row, "info"):
        return tldr_prompt(row["info"])
    form = next((f for f in FORMS if f.read and not lacking(row, f.fields)), None)
    if form is not None and form.read is not None:
        return question(form.read(row)[0])
    return question(prompt_of(row)) if not lacking(row, ("prompt",)) else ()


def _named(row: dict, place: int | str) -> str:
    value = next((row[k] for k in ("id", "question_id", "prompt_id") if row.get(k) not in (None, "")), place)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:
        raise Unusable(f"has the id {value!r}, an id is a text or a number")
    return str(value)


def _label(row: dict) -> str:
    value = row.get("category")
    if value is None or value == "" or value != value:
        return "all"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Unusable(f"has the category {value!r}, a category is a text or a number")
    return str(value)


def _split(row: dict, text: str) -> str:
    value = row.get("split")
    if value is None or value == "" or value != value:
        return _dealt(text)
    value = VALIDATION.get(value, value) if isinstance(value, str) else value
    if value not in SPLITS:
        raise Unusable(f"has the split {value!r}, a split is one of {', '.join(SPLITS)}")
    return value


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
    """Token ids of turns {"role", "content"} in the model's chat template, up to where the answer starts; ValueError
    for a tokenizer without one (see `templates.use`)."""
    templates.check_has(tokenizer)
    return list(tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, return_dict=False))


def encode(tokenizer, prompts: Sequence[Asked]) -> list[list[int]]:
    """Token ids of each prompt as `chat` gives them: a `Prompt`, the user's text, or messages {"role", "content"}.

    ValueError for anything else, one text that stands alone among it.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts come in a list, given one text: write [{prompts[:40]!r}]")
    return [chat(tokenizer, _turns(p, f"prompts[{i}]")) for i, p in enumerate(prompts)]


def _turns(prompt: Asked, place: str) -> Messages:
    if isinstance(prompt, Prompt):
        return prompt.turns or (message("user", prompt.text),)
    if isinstance(prompt, str):
        return (message("user", prompt),)
    return messages(prompt, place)


def encode_pairs(tokenizer, pairs: Sequence[tuple[Asked, str, str]], *, end: int) -> list[Pair]:
    """Pairs as token ids, of (prompt, chosen, rejected) or a `Comparison`; `end` closes each answer
    (`models.end_of_turn`).

    ValueError, naming the pair, where two answers are the same tokens: nothing is preferred there.
    """
    ids, out = encode(tokenizer, [prompt for prompt, _, _ in pairs]), []
    for i, (x, (_, *answers)) in enumerate(zip(ids, pairs)):
        w, l = ([*tokenizer.encode(a, add_special_tokens=False), end] for a in answers)
        tau = first_divergence(w, l)
        if tau is None:
            raise ValueError(f"pairs[{i}]: both answers are {answers[0]!r} to the tokenizer: one cannot be preferred")
        out.append(Pair(str(i), x, w, l, tau))
    return out


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
    """Pairs of answers that part at a token, in order; the others are dropped, `dropped` counts them.

    Equal answers carry no gradient. Of two answers of which one is the start of the other (cut at the length, say) no
    token of the shorter one stands against a token of the longer one, so `divergence` has no place in both.
    """
    out = []
    for p, x, w, l in zip(prompts, ids, chosen, rejected, strict=True):
        tau = first_divergence(w, l)
        if tau is not None and tau < min(len(w), len(l)):
            out.append(Pair(p.id, list(x), list(w), list(l), tau))
    return out


def dropped(chosen: Sequence[list[int]], rejected: Sequence[list[int]]) -> dict[str, int]:
    """How many answers `pairs` drops, by reason: {"identical": n, "prefixes": m}."""
    tau = [(first_divergence(w, l), min(len(w), len(l))) for w, l in zip(chosen, rejected, strict=True)]
    return {"identical": sum(t is None for t, _ in tau), "prefixes": sum(t == shorter for t, shorter in tau)}


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
