"""Plain text as token ids: read as the tokenizer reads text, and continued without a seam."""

from __future__ import annotations

from collections.abc import Sequence


def plain(tokenizer, text: str) -> list[int]:
    """Ids of text that something will follow: what the tokenizer puts in front (BOS) stands there once, what it puts
    behind (an end token) does not."""
    front, inner = _front(tokenizer), _inner(tokenizer, text)
    return inner if inner[: len(front)] == front else [*front, *inner]


def continuation(tokenizer, prompt: str, answer: str, *, end: int | None = None) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids), which together are the ids of the text prompt + answer; `end` closes the answer once.

    A token of both texts belongs to the answer: tokenised apart, SentencePiece-like tokenizers put a space in front of
    the answer. Only where no prompt would be left are the two read apart. For raw text: a chat template ends in special
    tokens, or in a text that the model was trained to go on from, and there the answer is read by itself.
    """
    alone, joint = plain(tokenizer, prompt), plain(tokenizer, prompt + answer)
    shared = next((i for i, (a, b) in enumerate(zip(alone, joint)) if a != b), min(len(alone), len(joint)))
    first, rest = joint[:shared], joint[shared:]
    if alone and not first:
        first, rest = alone, _inner(tokenizer, answer)
    return first, rest if end is None or rest[-1:] == [end] else [*rest, end]


def _inner(tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _front(tokenizer) -> Sequence[int]:
    """The special tokens that the tokenizer puts before a text."""
    probe = "a"
    whole, inner = list(tokenizer(probe).input_ids), _inner(tokenizer, probe)
    return next((whole[:i] for i in range(len(whole)) if inner and whole[i : i + len(inner)] == inner), [])
