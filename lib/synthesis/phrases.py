"""What the templated teacher writes: questions, contexts and answers of every kind of our tree, right ones and wrong
ones, all from a generator."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lib.synthesis import truth
from lib.taxonomy import checkers
from lib.taxonomy.tree import Leaf

NOUNS = (
    "anchor", "apricot", "badger", "barrel", "basket", "beacon", "blanket", "bottle", "bucket", "button", "cabbage",
    "candle", "carpet", "castle", "cellar",
    "cherry", "compass", "copper", "cottage", "curtain", "dolphin", "feather", "ferry", "finger", "garden", "goblet",
    "hammer", "harbour", "hazelnut",
    "helmet", "island", "jacket", "kettle", "ladder", "lemon", "letter", "mirror", "mountain", "mushroom", "napkin",
    "onion", "orchard", "paddle", "parrot",
    "pepper", "pillow", "puddle", "rabbit", "ribbon", "saddle", "shovel", "sparrow", "spider", "summer", "table",
    "thunder", "ticket", "tunnel", "turnip",
    "umbrella", "velvet", "village", "walnut", "whistle", "window", "winter",
)  # fmt: skip
NAMES = (
    "Adele", "Bruno", "Cora", "Dario", "Edith", "Felix", "Greta", "Hugo", "Ines", "Jasper", "Kira", "Linus", "Mabel",
    "Nora", "Otto", "Petra", "Quinn",
    "Rosa", "Stefan", "Thea",
)  # fmt: skip
TITLES = ("Mrs Berg", "Mr Alden", "Doctor Kane", "Professor Holm", "Captain Reyes", "Miss Vale")
MATTERS = (
    "the key of the {}",
    "a new {}",
    "the broken {}",
    "help with the {}",
    "the lost {}",
    "a later visit to the {}",
)
SUBJECTS = (
    "the {} keeper",
    "the old {}",
    "a {} from the north",
    "the captain's {}",
    "the {} below the deck",
    "every {} on board",
)
DOES = (
    "stands near the door", "was sold last week", "is covered with snow", "belongs to the miller", "needs more paint",
    "arrived before noon",
    "has been found again", "smells of tar",
)  # fmt: skip
UNANSWERABLE = "What does the picture of the {} show?"

# Phrasings of each kind; the words in braces are drawn by `_slots`.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "sum": (
        "What is {a} + {b}?", "Add {a} and {b}.", "What is the sum of {a} and {b}?",
        "A {w} weighs {a} grams and another one {b} grams. What do they weigh together?",
    ),
    "comparison": (
        "Which is larger, {a} or {b}?", "Which number is smaller, {a} or {b}?", "Which is the largest of {a}, {b} "
            "and {c}?",
        "Which is the lowest: {a}, {b} or {c}?",
    ),
    "date_order": (
        "Which date is earlier, {d} or {e}?", "Which date is later, {d} or {e}?", "Which comes first, {d} or {e}?",
        "Which is the latest of {d}, {e} and {f}?",
    ),
    "letter_count": (
        'How many times does the letter "{l}" occur in '
            '"{w}"?', 'How often does "{l}" stand in "{w}"?', 'How many letters "{l}" are there in "{w}"?',
    ),
    "reversal": ('Write the word "{w}" backwards.', 'What is "{w}" in reverse?', 'Give the letters of "{w}" in '
        'reverse order.'),
    "alphabetical": (
        "Sort these words alphabetically: {w}, {x}, {y}.", "Put into alphabetical order: {w}, {x}, "
            "{y}, {z}.", "Sort alphabetically: {N}, {M}, {O}.",
    ),
    "conversion": ("Convert {a} {u} to {v}.", "How many {v} are in {a} {u}?", "Write {a} {u} in {v}."),
    "json_object": (
        "Write this record as a JSON object: name = {N}, item = {w}, count "
            "= {a}.", "Turn the pairs into JSON: title = The {W}, pages = {a}.",
        "Give the following as JSON: owner = {N}, animal = {x}.",
    ),
    "three_bullets": (
        "Turn this into exactly three bullet points: {w}, {x} "
            "and {y}.", "Write as three bullet points: a {w}, two of {x}, one {y}.",
        "Give me three bullets for the list: {N}, {M} and {O}.",
    ),
    "question": ("Turn this statement into a question: "
        "{S} {p}.", "Make a question of this: {S} {p}.", "Rewrite as a question: {N} says that {s} {p}."),
    "polite_note": (
        "Write a polite note to {T} from {N} asking for {m}.", "Write a short polite note to {T} from {N} about {m}.",
        "Write a polite note to {M} from {N} about {m}.",
    ),
    "ships_mate": (
        "You are a ship's mate. Report that {s} {p}.", "Speak as the mate of a ship. Report that "
            "{s} {p}.", "You are the mate on watch. Report that {s} {p}.",
    ),
}  # fmt: skip
CONTEXTS = {
    "replacement": (
        "The {w} {p}. In the evening the {w} {q}.", "A {w} and a {x} share the yard. The {w} {p}.", "{N} keeps a "
            "{w}. Nobody knows why the {w} {p}.",
    ),
    "date_in_context": (
        "The {w} market took place in the {x} yard on {d}, with {a} guests.", "Parcel {c}, one {w}, sent {d} by {N}.",
        "{N} bought the {w} for {a} crowns on {d} and sold it the year after.",
    ),
}  # fmt: skip
ABOUT = {
    "replacement": ('Replace every "{w}" with "{x}".', 'Please replace "{w}" with "{x}".', 'Replace the word "{w}" '
        'with "{x}" throughout.'),
    "date_in_context": ("Which date is named? Give it as "
        "YYYY-MM-DD.", "On which date was it? Write YYYY-MM-DD.", "Give the date in the form YYYY-MM-DD."),
    "table_cell": ("What is the {c} of the {r}?", "Which {c} has the {r}?", "Look up the {c} of the {r}."),
    "record_holder": ("Who has the highest number?", "Who has the lowest number?", "Which one has the most?"),
}  # fmt: skip
LEADS = {  # how an explained answer begins; the result follows
    "sum": "Adding the numbers place by place gives", "comparison": "Compared digit by digit, the one asked for is",
    "date_order": "Compared by year, month and day, it is",
    "letter_count": "Going through the word letter by letter, the "
        "count is", "reversal": "Read from the last letter to the first, this is",
    "alphabetical": "Compared letter by letter, the order is",
    "conversion": "With the size of one unit in the other, this "
        "makes", "date_in_context": "The only date in the text, written as asked, is",
    "table_cell": "Where that row meets that column stands",
    "record_holder": "Going through all the numbers in the list, it is",
}  # fmt: skip


def word(rng: np.random.Generator) -> str:
    """A noun."""
    return NOUNS[rng.integers(len(NOUNS))]


def _slots(rng: np.random.Generator) -> dict[str, str]:
    w, n = ([items[i] for i in rng.permutation(len(items))[:4]] for items in (NOUNS, NAMES))
    numbers = rng.choice(np.arange(2, 1000), 3, replace=False).tolist()
    dates = [f"{rng.integers(1, 29)} {checkers.MONTHS[rng.integers(12)]} {rng.integers(1850, 2030)}" for _ in range(3)]
    what = ("length", "mass", "volume", "time")[rng.integers(4)]
    u, v = rng.permutation([unit for unit, (measures, *_) in checkers.UNITS.items() if measures == what])[:2].tolist()
    subject, does = (
        SUBJECTS[rng.integers(len(SUBJECTS))].format(word(rng)),
        [DOES[i] for i in rng.permutation(len(DOES))[:2]],
    )
    return {
        "a": numbers[0], "b": numbers[1], "c": numbers[2], "w": w[0], "x": w[1], "y": w[2], "z": w[3],
        "W": w[0].title(), "N": n[0], "M": n[1], "O": n[2],
        "d": dates[0], "e": dates[1], "f": dates[2], "l": w[0][rng.integers(len(w[0]))], "u": u, "v": v,
        "T": TITLES[rng.integers(len(TITLES))],
        "m": MATTERS[rng.integers(len(MATTERS))].format(word(rng)), "s": subject,
        "S": subject[0].upper() + subject[1:], "p": does[0], "q": does[1],
    }  # fmt: skip


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
    cells = [
        colours if column == "colour" else rng.choice(np.arange(2, 400), 5, replace=False).tolist()
        for column in columns
    ]
    rows = [
        " | ".join([NOUNS[k].title(), str(cells[0][i]), str(cells[1][i])])
        for i, k in enumerate(rng.permutation(len(NOUNS))[:n].tolist())
    ]
    return "\n".join([" | ".join(["thing", *columns]), *rows])


def about(text: str, rng: np.random.Generator) -> str:
    """A question that the context answers, of the kind that the context is for."""
    if " | " in text:
        rows = [line.split(" | ") for line in text.splitlines()]
        return _one(ABOUT["table_cell"], rng).format(
            c=_one(rows[0][1:], rng), r=_one([row[0] for row in rows[1:]], rng).lower()
        )
    if re.search(r"^[^:\n]+: \d+$", text, re.M):
        return _one(ABOUT["record_holder"], rng)
    if checkers.DATE.search(text):
        return _one(ABOUT["date_in_context"], rng)
    found = [w for w in NOUNS if re.search(rf"\b{w}\b", text)] or re.findall(r"[a-z]{4,}", text)
    return _one(ABOUT["replacement"], rng).format(w=_one(found, rng), x=_one([w for w in NOUNS if w not in text], rng))


def right(name: str, asked: str, given: str, explained: bool) -> str:
    """A right answer; explained where the kind allows it (an object in JSON and an edited text do not)."""
    shortest = truth.bare(name, asked, given)
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
    shortest = truth.bare(name, asked, given)
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


def cloze(leaf: Leaf, source: str, told: str, explained: bool, rng: np.random.Generator) -> tuple[str, str]:
    """(a sentence of the source with a blank, what belongs there: "right", something else of the leaf: "wrong", or a
    part of it: "truncated")."""
    sentences = _sentences(source) or [s for d in leaf.documents for s in _sentences(d.text)]

    # (sort, start, end) of what may be left out: numbers or else names or else long words; wrong answers are of the
    # same sort
    def spans(s):
        return next(
            (found for k, kind in enumerate(SPANS) if (found := [(k, *m.span()) for m in kind.finditer(s)])), []
        )  # noqa: E731

    for _ in range(200):
        sentence = sentences[rng.integers(len(sentences))]
        found = spans(sentence)
        if not found:
            continue
        sort, i, j = found[rng.integers(len(found))]
        asked = _one(CLOZES, rng).format(leaf.task, f"{sentence[:i]}____{sentence[j:]}")
        span = sentence[i:j]
        if told == "wrong":
            every = [o for d in leaf.documents for o in _sentences(d.text)]
            others = [o[a:b] for o in every for k, a, b in spans(o) if k == sort and o[a:b] != span]
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
