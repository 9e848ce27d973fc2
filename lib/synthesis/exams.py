"""Exams of a taxonomy's skills: new questions without end, the answers that are right word for word, and checkers that
accept other forms. The same for every seed of a study unless it asks for others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lib.synthesis import phrases, truth
from lib.taxonomy import checkers
from lib.taxonomy.tree import Leaf

PATIENCE = 500  # questions in a row that were nothing new before a skill counts as exhausted
# which of the parts of LAB's curriculum (`curricula.PARTS`) teaches leaves of a kind
PART = {"foundational": "knowledge-long", "freeform": "skills", "grounded": "skills"}


class Question(NamedTuple):
    """A question of a leaf with every answer that counts as right, word for word, beginnings that suffice, and wrong
    answers to choose from (none for a skill)."""

    id: str
    leaf: str
    part: str  # what teaches it: one of `curricula.PARTS`, or "general" or "facts" where nothing does
    question: str
    context: str
    right: tuple[str, ...]
    begins: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


def skills(leaves: Sequence[Leaf], *, each: int, seed: int = 0, others: Sequence[Question] = ()) -> list[Question]:
    """`each` new questions of every skill; none repeats a seed, another, or one of the `others`. ValueError for a skill
    that no checker of ours knows, or too many questions."""
    out, before = [], {key(q.question, q.context) for q in others}
    for leaf in (x for x in leaves if x.kind != "knowledge"):
        if leaf.checker is None or each < 1:
            raise ValueError(
                f"held-out questions are made of skills with a checker, at least 1 each, given {leaf.path} and {each}"
            )
        rng = np.random.default_rng([seed, 0xE4A3, *leaf.path.encode()])
        known, made, misses = before | {key(s.question, s.context) for s in leaf.seeds}, 0, 0
        while made < each:
            if misses == PATIENCE:
                raise ValueError(f"{leaf.path} has fewer than {each} different questions: ask for fewer")
            context = phrases.context(leaf.checker, rng) if leaf.kind == "grounded" else ""
            text = phrases.about(context, rng) if context else phrases.question(leaf.checker, rng)
            if truth.form(text, context) != leaf.checker or key(text, context) in known:
                misses += 1
                continue
            misses = 0
            known.add(key(text, context))
            right = dict.fromkeys(phrases.right(leaf.checker, text, context, explained) for explained in (False, True))
            out.append(Question(f"{leaf.path}#{made}", leaf.path, PART[leaf.kind], text, context, tuple(right)))
            made += 1
    return out


def accepted(exam: Sequence[Question], texts: Sequence[str], leaves: Sequence[Leaf]) -> list[bool]:
    """Whether each skill's checker accepts the answer: forms that are not in `right` too, if they end with the
    result."""
    checker = {leaf.path: leaf.checker or "" for leaf in leaves}
    return [checkers.passes(checker[q.leaf], q.question, q.context, text) for q, text in zip(exam, texts, strict=True)]


def key(question: str, context: str = "") -> str:
    """A question as it is compared: one line, no capitals."""
    return " ".join(f"{context} {question}".split()).casefold()
