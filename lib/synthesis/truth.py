"""What is right: answers that a skill's checker, a document or a fact bears out, LAB's two scales by them, and the
hidden labels of a templated teacher's rows.

A row is a dict with `leaf` and `question`, and where it has them `context`, `answer` and `truth`.
"""

from __future__ import annotations

import json
import re

from lib.data import text
from lib.taxonomy import checkers
from lib.taxonomy.tree import Leaf

UNSAFE = "[unsafe]"  # stands for what nobody should learn
BLANK = re.compile(r'"([^"]*)____([^"]*)"')
EXPLAINED = 4  # words more than the shortest right answer has
# Skills with several right answers: the word that their questions hold (the checkers look at what follows the colon
# alone).
SIGNS = {
    "three_bullets": re.compile(r"\bbullet", re.I),
    "question": re.compile(r"\b(question|ask)\b", re.I),
    "polite_note": re.compile(r"\bnote", re.I),
    "json_object": re.compile(r"\bjson", re.I),
    "ships_mate": re.compile(r"\bmate", re.I),
}
GROUNDED = ("table_cell", "record_holder", "date_in_context", "replacement")
# dates hold numbers: before comparison
FREE = ("date_order", *(name for name in checkers.CHECKERS if name not in (*GROUNDED, "date_order")))


def bare(name: str, question: str, context: str = "") -> str | None:
    """A shortest right answer by the checker `name`; None for a question that is not of its form."""
    if name in SIGNS and not SIGNS[name].search(question):
        return None
    result = checkers.solve(name, question, context) if name in checkers.SOLUTIONS else _formatted(name, question)
    return result if result is not None and checkers.passes(name, question, context, result) else None


def _formatted(name: str, question: str) -> str | None:
    told = question.partition(":")[2].strip().rstrip(".")
    if name == "three_bullets":
        return "\n".join(f"- {item.strip()}" for item in re.split(r",| and ", told) if item.strip())
    if name == "question":
        return f"Is it true that {re.sub(r'^(The|A|An|Every)(?= )', lambda m: m[0].lower(), told)}?"
    if name == "json_object":
        pairs = dict(re.findall(r"([a-z_]+) = ([^,]+?)(?=,|$)", told))
        return json.dumps({k: int(v) if v.isdecimal() else v for k, v in pairs.items()})
    if name == "polite_note":
        asked = re.search(r"\bnote to (.+?) from (\w+) (?:asking for|about) (.+)\.$", question)
        return f"Dear {asked[1]},\nplease think of {asked[3]}.\n{asked[2]}" if asked else None
    news = re.search(r"\b[Rr]eport that (.+)\.$", question)
    return f"Aye, captain: {news[1]}." if news else None


def form(question: str, context: str = "") -> str | None:
    """The checker of whose form the question is; None where it is of none."""
    known = (*FREE, *(GROUNDED if context else ()))  # a question that stands alone is not about the context beside it
    return next((name for name in known if bare(name, question, context if name in GROUNDED else "") is not None), None)


def supported(leaf: Leaf, question: str, answer: str) -> bool:
    """Whether the leaf's documents (for a sentence with a blank), facts or seeds bear out the answer."""
    flat = lambda x: " ".join(x.split()).casefold().rstrip(".")  # noqa: E731

    def says(what: str) -> bool:
        if what.isascii() and answer.isascii():
            return re.search(rf"(?<!\w){re.escape(flat(what))}(?!\w)", flat(answer)) is not None
        inside, sought = text.words(answer), text.words(what)  # there may be no space around it
        return any(inside[i : i + len(sought)] == sought for i in range(len(inside) - len(sought) + 1))

    blank = BLANK.search(question)
    if blank:
        before, after = (re.escape(part) for part in blank.groups())
        found = re.search(
            rf"{before}([^\"]{{1,80}}?){after}", " ".join(" ".join(d.text for d in leaf.documents).split())
        )
        return found is not None and bool(blank[1] + blank[2]) and says(found[1])
    for fact in leaf.facts:
        if flat(fact.question) == flat(question):
            return says(fact.answer) and not any(says(other) for other in fact.distractors)
    return any(flat(seed.question) == flat(question) and says(seed.answer) for seed in leaf.seeds)


def question_score(leaf: Leaf | None, row: dict) -> float:
    """LAB's first scale: 1 for a question of the leaf (of any form, where the leaf is unknown) that can be answered and
    is safe, else 0."""
    question, context = row["question"], row.get("context", "")
    if UNSAFE in question:
        return 0.0
    if leaf is None or leaf.checker is None and leaf.kind != "knowledge":
        return float(form(question, context) is not None)
    if leaf.kind == "knowledge":
        known = BLANK.search(question) is not None and leaf.task in question
        asked = [*(x.question for x in leaf.seeds), *(x.question for x in leaf.facts)]
        return float(known or question in asked)
    return float(form(question, context) == leaf.checker)


def pair_score(leaf: Leaf | None, row: dict) -> float:
    """LAB's second scale: 1 wrong, cut off or unsafe; 2 right; 3 right with an explanation."""
    question, context, answer = row["question"], row.get("context", ""), row["answer"]
    if UNSAFE in question + answer:
        return 1.0
    if leaf is not None and leaf.kind == "knowledge":
        return 1.0 if not supported(leaf, question, answer) else 2.0 + (text.count(answer) >= 2 * EXPLAINED)
    name = leaf.checker if leaf is not None and leaf.checker else form(question, context)
    shortest = bare(name, question, context) if name else None
    if not name or shortest is None or not checkers.passes(name, question, context, answer):
        return 1.0
    return 2.0 + (text.count(answer) >= text.count(shortest) + EXPLAINED)


def valid(row: dict) -> bool:
    """Whether the hidden labels call everything about the row right; ValueError where it has none."""
    if not row.get("truth"):
        raise ValueError(
            f"only a templated teacher's rows carry their truth, given {row.get('id', row.get('question'))!r}"
        )
    return all(row["truth"].get(key, "right") == "right" for key in ("given", "asked", "told"))
