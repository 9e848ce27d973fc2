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

import numpy as np

from lib import scoring
from lib.synthesis import phrases, prose, truth
from lib.synthesis.exams import Question, key
from lib.synthesis.pipelines import shown_context
from lib.taxonomy.tree import Leaf


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


def apart(rows: Sequence[dict], exam: Sequence[Question]) -> list[dict]:
    """The rows that ask nothing of the exam."""
    asked = {key(q.question, q.context) for q in exam}
    return [row for row in rows if key(row["question"], shown_context(row)) not in asked]
