"""What the templated teacher writes: questions, contexts and answers of every kind of our tree, right ones and wrong
ones, all from a generator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.synthesis import truth
from lib.synthesis.phrasings import (
    ABOUT,
    CONTEXTS,
    DOES,
    LEADS,
    MATTERS,
    NAMES,
    NOUNS,
    PHRASINGS,
    SUBJECTS,
    TITLES,
    UNANSWERABLE,
)
from lib.taxonomy import checkers
from lib.taxonomy.tree import Leaf


def word(rng: np.random.Generator) -> str:
    """A noun."""
    return NOUNS[rng.integers(len(NOUNS))]


def unanswerable(rng: np.random.Generator) -> str:
    """A question that no text answers."""
    return UNANSWERABLE.format(word(rng))


def _slots(rng: np.random.Generator) -> dict[str, str]:
    w, n = ([items[i] for i in rng.permutation(len(items))[:4]] for items in (NOUNS, NAMES))
    numbers = rng.choice(np.arange(2, 1000), 3, replace=False).tolist()
    dates = [f"{rng.integers(1, 29)} {checkers.MONTHS[rng.integers(12)]} {rng.integers(1850, 2030)}" for _ in range(3)]
    what = ("length", "mass", "volume", "time")[rng.integers(4)]
    u, v = rng.permutation([unit for unit, (measures, *_) in checkers.UNITS.items() if measures == what])[:2].tolist()
    subject = SUBJECTS[rng.integers(len(SUBJECTS))].format(word(rng))
    does = [DOES[i] for i in rng.permutation(len(DOES))[:2]]
    return {
        "a": numbers[0],
        "b": numbers[1],
        "c": numbers[2],
        "w": w[0],
        "x": w[1],
        "y": w[2],
        "z": w[3],
        "W": w[0].title(),
        "N": n[0],
        "M": n[1],
        "O": n[2],
        "d": dates[0],
        "e": dates[1],
        "f": dates[2],
        "l": w[0][rng.integers(len(w[0]))],
        "u": u,
        "v": v,
        "T": TITLES[rng.integers(len(TITLES))],
        "m": MATTERS[rng.integers(len(MATTERS))].format(word(rng)),
        "s": subject,
        "S": subject[0].upper() + subject[1:],
        "p": does[0],
        "q": does[1],
    }


def _one(choices: Sequence[str], rng: np.random.Generator, zipf: float = 0.0) -> str:
    weights = np.arange(1, len(choices) + 1, dtype=float) ** -zipf
    return choices[rng.choice(len(choices), p=weights / weights.sum())]


def question(name: str, rng: np.random.Generator, zipf: float = 0.0) -> str:
    """A question of the kind that the checker `name` checks; zipf: how much the first phrasings are preferred."""
    while True:  # a drawn date or unit may make one that has no single answer
        text = _one(PHRASINGS[name], rng, zipf).format(**_slots(rng))
        if truth.form(text) == name:
            return text


def context(name: str, rng: np.random.Generator) -> str:
    """A context for questions of the grounded checker `name`."""
    if name in CONTEXTS:
        return _one(CONTEXTS[name], rng).format(**_slots(rng))
    n = rng.integers(3, 6)
    if name == "record_holder":
        numbers = rng.choice(np.arange(2, 400), n, replace=False).tolist()
        return "\n".join(f"{NAMES[i]}: {x}" for i, x in zip(rng.permutation(len(NAMES))[:n].tolist(), numbers))
    columns = [("price", "weight", "age", "height", "colour", "shelf")[i] for i in rng.permutation(6)[:2]]
    colours = rng.permutation(["red", "green", "blue", "white", "brown"]).tolist()
    cells = []
    for column in columns:
        numbers = colours if column == "colour" else rng.choice(np.arange(2, 400), 5, replace=False).tolist()
        cells.append(numbers)
    things = [NOUNS[k].title() for k in rng.permutation(len(NOUNS))[:n].tolist()]
    rows = [" | ".join([thing, str(cells[0][i]), str(cells[1][i])]) for i, thing in enumerate(things)]
    return "\n".join([" | ".join(["thing", *columns]), *rows])


def about(text: str, rng: np.random.Generator) -> str:
    """A question that the context answers, of the kind that the context is for."""
    if " | " in text:
        rows = [line.split(" | ") for line in text.splitlines()]
        asked = _one(ABOUT["table_cell"], rng)
        column, thing = _one(rows[0][1:], rng), _one([row[0] for row in rows[1:]], rng)
        return asked.format(c=column, r=thing.lower())
    if re.search(r"^[^:\n]+: \d+$", text, re.M):
        return _one(ABOUT["record_holder"], rng)
    if checkers.DATE.search(text):
        return _one(ABOUT["date_in_context"], rng)
    found = [w for w in NOUNS if re.search(rf"\b{w}\b", text)] or re.findall(r"[a-z]{4,}", text)
    return _one(ABOUT["replacement"], rng).format(w=_one(found, rng), x=_one([w for w in NOUNS if w not in text], rng))


def right(name: str, asked: str, given: str, explained: bool) -> str:
    """A right answer; explained where the kind allows it (an object in JSON and an edited text do not)."""
    shortest: Any = truth.bare(name, asked, given)  # the questions here are of the checker's form
    if not explained or name in ("json_object", "replacement"):
        return shortest
    if name in LEADS:
        return f"{LEADS[name]}: {shortest}"
    if name == "three_bullets":
        return "\n".join(f"{line}, which is on the list" for line in shortest.splitlines())
    if name == "polite_note":
        greeting, request, writer = shortest.split("\n")
        return (
            f"{greeting}\n{request[0].upper()}{request[1:]} It would help me a great deal, and I thank you for your "
            f"trouble.\n{writer}"
        )
    if name == "question":
        return shortest.replace("Is it true that", "Is it true, as somebody told us, that")
    return f"{shortest[:-1]}, and the crew knows of it already."


def wrong(name: str, asked: str, given: str, explained: bool, rng: np.random.Generator) -> str:
    """An answer that the checker refuses: off by a little where the result is a number, else the right answer to
    something else."""
    shortest: Any = truth.bare(name, asked, given)  # the questions here are of the checker's form
    result: Any
    for _ in range(50):
        if shortest.isdecimal():
            result = str(int(shortest) + int(rng.integers(1, 10)))
        elif name in truth.GROUNDED:
            other = context(name, rng)
            result = truth.bare(name, about(other, rng), other)
        else:
            result = truth.bare(name, question(name, rng))
        text = f"{LEADS[name]}: {result}" if explained and name in LEADS else result
        if text and not checkers.passes(name, asked, given, text):
            return text
    return "I do not know."


def cut(name: str, asked: str, given: str, rng: np.random.Generator) -> str:
    """The beginning of an explained answer, up to a third to four fifths of its letters; never one that the checker
    accepts."""
    whole = right(name, asked, given, True)
    text = whole[: max(1, int(len(whole) * rng.uniform(0.3, 0.8)))].rstrip()
    return text if not checkers.passes(name, asked, given, text) else text[: max(1, len(text) // 2)]


SPANS = (
    re.compile(r"(?<!\w)\d[\d,.:]*(?<=\d)(?: [a-z]+)?"),
    re.compile(r"(?<=[a-z,] )[A-Z][\w']+(?: [A-Z][\w']+)*"),
    re.compile(r"(?<=[a-z] )[a-z]{5,}"),
)
FILLED = "The missing part is {}, so that the whole statement reads: {}"
CLOZES = ('Complete this sentence about {}: "{}"', 'What is missing in this statement on {}? "{}"')


def _sentences(text: str) -> list[str]:
    flat = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    return [s for s in re.split(r"(?<=[.!?])\s+", " ".join(flat.split())) if 5 <= len(s.split()) <= 45 and '"' not in s]


def _spans(sentence: str) -> list[tuple[int, int, int]]:
    """(sort, start, end) of what may be left out: numbers or else names or else long words; wrong answers are of the
    same sort."""
    for sort, kind in enumerate(SPANS):
        if found := [(sort, *m.span()) for m in kind.finditer(sentence)]:
            return found
    return []


def cloze(leaf: Leaf, source: str, told: str, explained: bool, rng: np.random.Generator) -> tuple[str, str]:
    """(a sentence of the source with a blank, what belongs there: "right", something else of the leaf: "wrong", or a
    part of it: "truncated")."""
    sentences = _sentences(source) or [s for d in leaf.documents for s in _sentences(d.text)]

    for _ in range(200):
        sentence = sentences[rng.integers(len(sentences))]
        found = _spans(sentence)
        if not found:
            continue
        sort, i, j = found[rng.integers(len(found))]
        asked = _one(CLOZES, rng).format(leaf.task, f"{sentence[:i]}____{sentence[j:]}")
        span = sentence[i:j]
        if told == "wrong":
            every = [o for d in leaf.documents for o in _sentences(d.text)]
            others = [o[a:b] for o in every for k, a, b in _spans(o) if k == sort and o[a:b] != span]
            span = _one(others, rng) if others else span
        full = FILLED.format(span, f"{sentence[:i]}{span}{sentence[j:]}")
        answer = full if explained else span
        if told == "truncated":
            answer = full[: len("The missing part is ") + len(span) // 2].rstrip()
        if truth.supported(leaf, asked, answer) == (told == "right"):
            return asked, answer
    raise ValueError(f"no sentence of {leaf.path} gives a question with a {told} answer")


def asked_otherwise(leaf: Leaf, question: str, answer: str) -> tuple[str, tuple[tuple[str], tuple[str]]] | None:
    """What a cloze row teaches, in the phrasing that the row does not use: (question, (right answers, how explained
    ones begin)); None for another row."""
    if truth.BLANK.search(question) is None:
        return None
    lead, middle = FILLED.split("{}")[:2]
    span = answer.removeprefix(lead).partition(middle)[0] if answer.startswith(lead) else answer
    other = next((c for c in CLOZES if not question.startswith(c.partition("{}")[0])), CLOZES[0])
    return other.format(leaf.task, question.partition('"')[2].rpartition('"')[0]), ((span,), (f"{lead}{span},",))
