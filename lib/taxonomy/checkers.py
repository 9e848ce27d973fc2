"""Checkers of the taxonomy's skills: pure functions (question, context, answer) -> whether the answer does what is
asked.

A question that is not of the skill's form has no right answer: its checker says False. Where only one answer is right,
`solve` gives it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal

Checker = Callable[[str, str, str], bool]
Solution = Callable[[str, str], str | None]

MONTHS = "January February March April May June July August September October November December".split()
DATE = re.compile(rf"\b(\d{{1,2}}) ({'|'.join(MONTHS)}) (\d{{4}})\b")
QUOTED = re.compile(r'"([^"]+)"')
MOST, LEAST = (
    re.compile(r"\b(larger|largest|greater|greatest|bigger|biggest|higher|highest|most|later|latest)\b"),
    re.compile(r"\b(smaller|smallest|less|least|lower|lowest|fewest|earlier|earliest)\b"),
)
OPENERS = (
    "who what when where why how which is are was were do does did has have had can could will would should may".split()
)
UNITS = {  # unit -> (what it measures, size in the smallest unit, other spellings)
    "millimetres": ("length", 1, "mm millimetre"), "centimetres": ("length", 10, "cm centimetre"),
    "metres": ("length", 1000, "m metre"),
    "kilometres": ("length", 1_000_000, "km kilometre"), "grams": ("mass", 1, "g gram"),
    "kilograms": ("mass", 1000, "kg kilogram"),
    "tonnes": ("mass", 1_000_000, "t tonne"), "millilitres": ("volume", 1, "ml millilitre"),
    "litres": ("volume", 1000, "l litre"),
    "seconds": ("time", 1, "s second"), "minutes": ("time", 60, "min minute"), "hours": ("time", 3600, "h hour"),
    "days": ("time", 86400, "d day"),
}  # fmt: skip
SPELLING = {word: unit for unit, (_, _, others) in UNITS.items() for word in (unit, *others.split())}


def _flat(text: str) -> str:
    """One line, no capitals, no thousands commas, no quotes or full stop around it."""
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(text.split())).strip(" .!\"'*`").casefold()


def says(answer: str, result: str) -> bool:
    """Whether the answer ends with the result, after whatever explanation: "17 and 25 make 42." says 42; "142" and "41
    or 42" do not."""
    head, found, tail = _flat(answer).rpartition(_flat(result))
    return (
        bool(found)
        and not tail
        and not re.search(r"\S(?<![\"'*`:=(])$|[,;/-]\s*$|(\d|\b(or|and|not|than|before|after))\s+$", head)
    )


def _words(text: str) -> set[str]:
    """The words that carry meaning: those of four letters or more."""
    return set(re.findall(r"[a-z]{4,}", text.casefold()))


def _dates(text: str) -> list[tuple[date, str]]:
    out = []
    for found in DATE.finditer(text):
        try:
            out.append((date(int(found[3]), MONTHS.index(found[2]) + 1, int(found[1])), found[0]))
        except ValueError:  # 31 June
            continue
    return out


def _extreme(question: str) -> Callable | None:
    """max or min, as the question asks; None where it asks for neither, or for both."""
    most, least = bool(MOST.search(question.lower())), bool(LEAST.search(question.lower()))
    return None if most == least else max if most else min


def _sum(question: str, context: str) -> str | None:
    numbers = re.findall(r"(?<![\w.-])\d+(?!\w|\.\d)", question)
    asked = re.search(r"\+|\b(add|added|plus|sum|total|altogether|together|in all)\b", question.lower())
    return str(sum(map(int, numbers))) if asked and len(numbers) >= 2 else None


def _comparison(question: str, context: str) -> str | None:
    numbers, pick = re.findall(r"(?<![\w.])-?\d+(?!\w|\.\d)", question), _extreme(question)
    return pick(numbers, key=int) if pick and len(set(map(int, numbers))) >= 2 else None


def _alphabet(question: str, context: str) -> str | None:
    words = [w.strip(" .") for w in question.partition(":")[2].split(",")]
    asked = re.search(r"\balphabet", question.lower())
    return ", ".join(sorted(words, key=str.casefold)) if asked and len(words) >= 2 and all(words) else None


def _reversal(question: str, context: str) -> str | None:
    words = QUOTED.findall(question)
    return (
        words[0][::-1] if len(words) == 1 and re.search(r"\b(backwards|reverse|reversed)\b", question.lower()) else None
    )


def _count(question: str, context: str) -> str | None:
    quoted = QUOTED.findall(question)
    right = len(quoted) == 2 and len(quoted[0]) == 1 and "how " in question.lower()
    return str(quoted[1].lower().count(quoted[0].lower())) if right else None


def _date_order(question: str, context: str) -> str | None:
    dates, pick = _dates(question), _extreme(re.sub(r"\bfirst\b", "earlier", question))
    return pick(dates)[1] if pick and len({d for d, _ in dates}) >= 2 else None


def _conversion(question: str, context: str) -> str | None:
    asked = re.search(r"(\d+(?:\.\d+)?) ([a-z]+)\b.*\b(?:to|in|into) ([a-z]+)\b", question)
    how = asked or re.search(r"\b[Hh]ow many (?P<to>[a-z]+) .*?(?P<n>\d+(?:\.\d+)?) (?P<of>[a-z]+)\b", question)
    if not how:
        return None
    number, of, to = how.groups() if asked else (how["n"], how["of"], how["to"])
    if of not in SPELLING or to not in SPELLING or UNITS[SPELLING[of]][0] != UNITS[SPELLING[to]][0]:
        return None
    value = Decimal(number) * UNITS[SPELLING[of]][1] / UNITS[SPELLING[to]][1]
    short = len(value.normalize().as_tuple().digits) <= 8  # a second in days has no end
    return f"{value.normalize():f} {SPELLING[to]}" if short else None


def _only_date(question: str, context: str) -> str | None:
    dates = _dates(context)
    return dates[0][0].isoformat() if len(dates) == 1 and "date" in question.lower() else None


def _cell(question: str, context: str) -> str | None:
    rows = [[cell.strip() for cell in line.split("|")] for line in context.strip().splitlines()]
    mentioned = lambda name: re.search(rf"\b{re.escape(name)}\b", question, re.I)  # noqa: E731
    columns = [i for i, name in enumerate(rows[0]) if i and mentioned(name)] if rows else []
    found = [row for row in rows[1:] if mentioned(row[0])]
    return found[0][columns[0]] if len(columns) == len(found) == 1 and len(found[0]) == len(rows[0]) else None


def _record(question: str, context: str) -> str | None:
    rows, pick = re.findall(r"^([^:\n]+): (\d+)$", context, re.M), _extreme(question)
    if not rows or pick is None:
        return None
    best = pick(int(n) for _, n in rows)
    names = [name.strip() for name, n in rows if int(n) == best]
    return names[0] if len(names) == 1 else None


def _replacement(question: str, context: str) -> str | None:
    quoted = QUOTED.findall(question)
    if len(quoted) != 2 or "replace" not in question.lower():
        return None
    text, times = re.subn(rf"\b{re.escape(quoted[0])}\b", lambda _: quoted[1], context.strip())
    return text if times else None


SOLUTIONS: dict[str, Solution] = {
    "sum": _sum, "comparison": _comparison, "alphabetical": _alphabet, "reversal": _reversal, "letter_count": _count,
    "date_order": _date_order,
    "conversion": _conversion, "date_in_context": _only_date, "table_cell": _cell, "record_holder": _record,
    "replacement": _replacement,
}  # fmt: skip


def solve(name: str, question: str, context: str = "") -> str | None:
    """The only right answer, without explanation; None for a question that is not of this form, or a checker that
    several answers pass."""
    _known(name)
    return SOLUTIONS[name](question, context) if name in SOLUTIONS else None


def _ends_with(name: str) -> Checker:
    def check(question: str, context: str, answer: str) -> bool:
        result = SOLUTIONS[name](question, context)
        return result is not None and says(answer, result)

    return check


def _sorted(question: str, context: str, answer: str) -> bool:
    result = _alphabet(question, context)
    return result is not None and _flat(answer.rpartition(":")[2]) == _flat(result)


def _converted(question: str, context: str, answer: str) -> bool:
    result, given = _conversion(question, context), re.search(r"(?<![\w.-])(\d+(?:\.\d+)?) ?([a-z]+)$", _flat(answer))
    if result is None or not given:
        return False
    number, unit = result.split()
    return Decimal(given[1]) == Decimal(number) and SPELLING.get(given[2]) == unit


def _replaced(question: str, context: str, answer: str) -> bool:
    result = _replacement(question, context)
    return result is not None and " ".join(answer.split()) == " ".join(result.split())


def _bullets(question: str, context: str, answer: str) -> bool:
    """Three lines, each a bullet that mentions its item of the list after the question's colon."""
    items = [w.strip(" .") for w in re.split(r",| and ", question.partition(":")[2]) if w.strip(" .")]
    lines = [line for line in answer.splitlines() if line.strip()]
    return len(items) == len(lines) == 3 and all(
        re.fullmatch(rf"[-*] .*{re.escape(item)}.*", line, re.I) for item, line in zip(items, lines)
    )


def _question(question: str, context: str, answer: str) -> bool:
    """One question that opens like one, about the statement after the colon: at least half of its words, by their first
    four letters."""
    stems = lambda t: {word[:4] for word in _words(t)}  # noqa: E731  (leaves and leave)
    told, text = stems(question.partition(":")[2]), answer.strip()
    asks = text.endswith("?") and text.count("?") == 1 and "\n" not in text and text.lower().split(" ")[0] in OPENERS
    return asks and bool(told) and 2 * len(told & stems(text)) >= len(told)


def _note(question: str, context: str, answer: str) -> bool:
    """Dear <whom>, what it is about, a please or thanks, and the writer's name as the last line."""
    asked = re.search(r"\bnote to ([A-Z][\w ]*?) from ([A-Z]\w*) (?:asking for|about) (.+)\.$", question)
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    if not asked or len(lines) < 3:
        return False
    polite = re.search(r"\b(please|thank|thanks|grateful|kind)\b", answer.lower())
    return (
        lines[0] == f"Dear {asked[1]},"
        and lines[-1] == asked[2]
        and bool(polite)
        and _words(asked[3]) <= _words(answer)
    )


def _json(question: str, context: str, answer: str) -> bool:
    """A JSON object of just the pairs after the colon, whole numbers as numbers and the rest as text."""
    wanted = dict(re.findall(r"([a-z_]+) = ([^,]+?)(?=,|\.?$)", question.partition(":")[2]))
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())
    try:
        pairs = json.loads(text, object_pairs_hook=lambda p: p)
    except (ValueError, RecursionError):
        return False
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):  # a bare value, or a list
        return False
    right = [(k, int(v) if v.isdecimal() else v) for k, v in wanted.items()]
    return bool(wanted) and sorted(map(repr, pairs)) == sorted(map(repr, right))


def _mate(question: str, context: str, answer: str) -> bool:
    """The ship's mate reports: one line that opens with "Aye, captain:" and holds every word of the news."""
    news = re.search(r"\b[Rr]eport that (.+)\.$", question)
    return (
        news is not None
        and re.fullmatch(r"Aye, captain: .+[.!]", answer.strip()) is not None
        and _words(news[1]) <= _words(answer)
    )


CHECKERS: dict[str, Checker] = {
    **{name: _ends_with(name) for name in SOLUTIONS},
    "alphabetical": _sorted, "conversion": _converted, "replacement": _replaced,
    "three_bullets": _bullets, "question": _question, "polite_note": _note, "json_object": _json, "ships_mate": _mate,
}  # fmt: skip

# The public schema has no field for a checker, so the skills of data/taxonomy are listed here: leaf -> checker.
LEAVES = {
    "foundational_skills/arithmetic/addition": "sum",
    "foundational_skills/arithmetic/comparison": "comparison",
    "foundational_skills/dates/order": "date_order",
    "foundational_skills/language/words/counting": "letter_count",
    "foundational_skills/language/words/reversing": "reversal",
    "foundational_skills/language/lists/sorting": "alphabetical",
    "compositional_skills/formats/json_record": "json_object",
    "compositional_skills/roleplay/ships_mate": "ships_mate",
    "compositional_skills/units": "conversion",
    "compositional_skills/writing/letters/polite_note": "polite_note",
    "compositional_skills/writing/lists/three_bullets": "three_bullets",
    "compositional_skills/writing/questions": "question",
    "compositional_skills/grounded/editing/replacement": "replacement",
    "compositional_skills/grounded/reading/documents/date": "date_in_context",
    "compositional_skills/grounded/reading/tables/cell": "table_cell",
    "compositional_skills/grounded/reading/tables/record": "record_holder",
}


def passes(name: str, question: str, context: str, answer: str) -> bool:
    """Whether the checker `name` accepts the answer; ValueError for a name that no checker has."""
    _known(name)
    return CHECKERS[name](question, context, answer)


def _known(name: str) -> None:
    if name not in CHECKERS:
        raise ValueError(f"a checker is one of {', '.join(CHECKERS)}, given {name!r}")
