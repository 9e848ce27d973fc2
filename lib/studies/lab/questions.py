"""Held-out questions about a taxonomy, and what counts as a right answer; none is asked in a row that is taught
(`apart`, `taught`).

Skills, facts and general questions are the same for every seed. Skills: new questions of a leaf's kind, whose right
answers are known word for word. Knowledge: taught statements, asked in another phrasing; and the leaf's facts, in
question forms that are never taught, with three wrong answers each, which tells what was learned from what was
understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib import scoring
from lib.synthesis import phrases, prose, truth
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


def facts(leaves: Sequence[Leaf]) -> list[Question]:
    """Every fact of the knowledge leaves, to be chosen from four answers."""
    return [
        Question(f"{leaf.path}#{i}", leaf.path, "facts", f.question, "", (f.answer,), (), f.distractors)
        for leaf in leaves
        for i, f in enumerate(leaf.facts)
    ]


def taught(
    rows: Sequence[dict], leaves: Sequence[Leaf], *, others: Sequence[dict] = (), part: str, n: int, seed: int
) -> list[Question]:
    """Up to n statements that these rows teach rightly, each asked in a phrasing that no row uses for it; what belongs
    there is right, alone or explained.

    others: rows of other parts; a statement with the same blank that one of them teaches, in any phrasing, is left out,
    so that each has one part.
    """
    by, out = {leaf.path: leaf for leaf in leaves}, {}
    used, elsewhere = {key(row["question"]) for row in rows}, {_statement(row) for row in others}
    for row in rows:
        if _statement(row) in elsewhere:
            continue
        leaf = by[row["leaf"]]
        again = phrases.asked_otherwise(leaf, row["question"], row["answer"]) if leaf.kind == "knowledge" else None
        if again and key(again[0]) not in used and truth.supported(leaf, row["question"], row["answer"]):
            out[key(again[0])] = Question(row["id"], leaf.path, part, again[0], "", *again[1])
    chosen = np.random.default_rng([seed, 0x7A06]).permutation(len(out))[:n].tolist()
    return [list(out.values())[i] for i in sorted(chosen)]


def _statement(row: dict) -> tuple[str, str]:
    """What a cloze row is about, however it is asked."""
    return row["leaf"], key(row["question"].partition('"')[2])


def general(path: Path) -> list[Question]:
    """Multiple-choice questions of an lm-eval task on disk (`scoring.load_task`), which nothing here teaches."""
    out = []
    for row in scoring.load_task(path)["rows"]:
        options = list(row["choices"])
        right = options.pop(row["answer"])
        out.append(Question(str(row["id"]), "general", "general", row["question"], "", (right,), (), tuple(options)))
    return out


def split(questions: Sequence[Question], asked: int, checks: int) -> tuple[list[Question], list[Question]]:
    """(`asked` of the questions, `checks` of the others), each evenly from first to last. ValueError if there are too
    few."""
    if min(asked, checks) < 1 or asked + checks > len(questions):
        raise ValueError(
            f"of {len(questions)} general questions, at least 1 is for exams and at least 1 for checkpoints, "
            f"none for both; given {asked} and {checks}"
        )
    exam = _spread(questions, asked)
    return exam, _spread([q for q in questions if q not in exam], checks)


def _spread(items: Sequence, n: int) -> list:
    """n of the items, evenly from the first to the last."""
    return [items[i] for i in np.linspace(0, len(items) - 1, n).round().astype(int)]


def prose_lines(n: int) -> list[str]:
    """n lines of general prose, the same for every seed."""
    return [opening + rest for opening, rest in prose.openings(n, rng=np.random.default_rng([0, 0x11E5]))]


def accepted(exam: Sequence[Question], texts: Sequence[str], leaves: Sequence[Leaf]) -> list[bool]:
    """Whether each skill's checker accepts the answer: forms that are not in `right` too, if they end with the
    result."""
    checker = {leaf.path: leaf.checker for leaf in leaves}
    return [checkers.passes(checker[q.leaf], q.question, q.context, text) for q, text in zip(exam, texts, strict=True)]


def key(question: str, context: str = "") -> str:
    """A question as it is compared: one line, no capitals."""
    return " ".join(f"{context} {question}".split()).casefold()


def apart(rows: Sequence[dict], exam: Sequence[Question]) -> list[dict]:
    """The rows that ask nothing of the exam."""
    asked = {key(q.question, q.context) for q in exam}
    return [row for row in rows if key(row["question"], shown_context(row)) not in asked]


def shown_context(row: dict) -> str:
    """What a question is asked with: its context; knowledge is asked without its document."""
    return "" if row["leaf"].startswith("knowledge") else row.get("context", "")
