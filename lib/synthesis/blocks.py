"""Blocks of data synthesis: rows in, an outcome for every item out, so that nothing is lost without being counted and
without a reason.

A block counts `rows` (what came in), `in` (the items that these were to give) and what became of the items: in = out +
failed + rejected + duplicate. A 1->1 block has as many items as rows; a generating block n for each row, and an item
that cannot be read has failed (what a reply holds beyond n is ignored); the chunker has its chunks. Rows are dicts with
id, leaf, task, examples, and what the blocks add.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from lib.data.sentences import UNIT, WIDE_ENDS, units
from lib.data.text import words
from lib.synthesis.judges import Judge
from lib.synthesis.requests import LISTED, Request
from lib.synthesis.teachers import Teacher

FATES = ("out", "failed", "rejected", "duplicate")
Ask = Callable[[str, Sequence, Sequence[str], Callable], tuple[list, str]]  # `synthesis.Journal.ask`


class Outcome(NamedTuple):
    row: dict
    fate: str  # one of FATES
    reason: str = ""


class Block(Protocol):
    """name; items(rows): how many items the rows are to give, or None where that shows only afterwards; apply."""

    @property
    def name(self) -> str: ...

    def items(self, rows: int) -> int | None: ...
    def apply(self, rows: list[dict], ask: Ask, seen: Dedup) -> list[Outcome]: ...


class Generate(NamedTuple):
    """Asks the teacher for something of each row: n contexts, questions or pairs (1->n), or the answer (1->1)."""

    name: str
    teacher: Teacher
    ask: str
    n: int = 1

    def items(self, rows: int) -> int:
        return rows * self.n

    def apply(self, rows: list[dict], ask: Ask, seen: Dedup) -> list[Outcome]:
        asked = [
            Request(
                r["id"],
                self.ask,
                r["leaf"],
                r["task"],
                tuple(r["examples"]),
                self.n,
                r.get("question", ""),
                r.get("context", ""),
            )
            for r in rows
        ]
        replies, reason = ask(f"teacher {self.teacher.name}", asked, [r["leaf"] for r in rows], self.teacher)
        return [o for row, reply in zip(rows, replies) for o in self._outcomes(row, reply, reason)]

    def _outcomes(self, row: dict, reply: str | None, reason: str) -> list[Outcome]:
        if reply is None:
            return [Outcome(row, "failed", reason)] * self.n
        items = parse_list(reply, self.n) if self.ask in LISTED else [reply.strip() or None]
        truth, out = getattr(reply, "truth", ()), []
        for i in range(self.n):
            fields = self._columns(items[i]) if i < len(items) else None
            if fields is None:
                out.append(Outcome(row | {"reply": str(reply)}, "failed", f"item {i + 1} of {self.n} cannot be read"))
                continue
            labels = {**row.get("truth", {}), **truth[i]} if i < len(truth) else row.get("truth", {})
            out.append(Outcome(row | fields | {"id": f"{row['id']}.{i}", "truth": labels}, "out"))
        return out

    def _columns(self, item: str | None) -> dict | None:
        if not item:
            return None
        if self.ask != "pairs":
            return {{"contexts": "context", "questions": "question", "answer": "answer"}[self.ask]: item}
        found = re.fullmatch(r"Question:\s*(.+?)\s*\n\s*Answer:\s*(.+)", item, re.S)
        return {"question": found[1], "answer": found[2]} if found else None


# "1. " and "1) ", or the full-width marks of Chinese and Japanese lists, which no space follows
NUMBER = re.compile(r"\s{0,3}(\d{1,3})(?:[.)](?:\s+|$)|[．、）]\s*)")


def parse_list(text: str, n: int) -> list[str | None]:
    """Items 1 to n of a numbered list, None where an item is missing or empty; what is before the first or has a number
    above n is left out."""
    items: dict[int, list[str]] = {}
    at = 0
    for line in text.splitlines():
        number = NUMBER.match(line)
        if number and at < int(number[1]) <= at + 2:  # a gap of one is a lost item; other numbers belong to the text
            at = int(number[1])
            items[at] = [line[number.end() :]]
        elif at:
            items[at].append(line)
    return [("\n".join(items.get(i, ())).strip() or None) for i in range(1, n + 1)]


class Filter(NamedTuple):
    """Keeps the rows that the judge keeps (1->1); a verdict that cannot be read has failed, which is not a
    rejection."""

    name: str
    judge: Judge

    def items(self, rows: int) -> int:
        return rows

    def apply(self, rows: list[dict], ask: Ask, seen: Dedup) -> list[Outcome]:
        keys = [{k: r.get(k, "") for k in ("id", "leaf", "question", "context", "answer")} for r in rows]
        at = {json.dumps(key): row for key, row in zip(keys, rows)}
        scores, reason = ask(
            f"judge {self.judge.name}",
            keys,
            [r["leaf"] for r in rows],
            lambda part: self.judge.score([at[json.dumps(k)] for k in part]),
        )
        out = []
        for row, score in zip(rows, scores):
            row = row | {"scores": {**row.get("scores", {}), self.name: score}}
            why = self.judge.why(row) if self.judge.why and score is not None and score < self.judge.least else ""
            low = f"{why or 'score'} ({score:g}, kept from {self.judge.least:g})" if score is not None else ""
            out.append(
                Outcome(row, "failed", reason)
                if score is None
                else Outcome(row, "out")
                if score >= self.judge.least
                else Outcome(row, "rejected", low)
            )
        return out


class Unique(NamedTuple):
    """Drops rows that the whole run has seen before (1->1), by the text of these fields."""

    name: str
    fields: tuple[str, ...] = ("context", "question")

    def items(self, rows: int) -> int:
        return rows

    def apply(self, rows: list[dict], ask: Ask, seen: Dedup) -> list[Outcome]:
        out = []
        for row in rows:
            like = seen.add(self.name, "\n".join(row.get(f) or "" for f in self.fields), row["id"])
            out.append(Outcome(row, "duplicate", f"like {like}") if like else Outcome(row, "out"))
        return out


class Dedup:
    """Texts seen so far: equal ones after normalising (case, white space), and ones whose ROUGE-L F lies above the
    threshold.

    The first of a group of like texts stays. Of a chain (a like b, b like c, a unlike c) the order decides; of groups
    that are all alike it does not.
    """

    def __init__(self, threshold: float = 0.9):
        if not 0 < threshold <= 1:
            raise ValueError(f"a threshold of ROUGE-L F lies in (0, 1]; 1 drops only equal texts; given {threshold}")
        self.threshold, self.exact, self.tokens = threshold, {}, {}

    def add(self, kind: str, text: str, name: str) -> str | None:
        """The name of a text of this kind that is like this one; None for a new text, which is then remembered."""
        key = kind, " ".join(unicodedata.normalize("NFKC", text).split()).casefold()
        found = tokens(text)
        like = self.exact.setdefault(key, name)
        if like != name:
            return like
        bag, size = Counter(found), len(found)
        known = self.tokens.setdefault(kind, [])
        for other, others, at in known if self.threshold < 1 else ():
            need = (
                self.threshold * (size + len(other)) / 2
            )  # of the common subsequence, whose length the common words bound
            if min(size, len(other)) > need and sum((bag & others).values()) > need and common(found, other) > need:
                del self.exact[key]
                return at
        known.append((found, bag, name))
        return None


def tokens(text: str) -> list[str]:
    """Words in any script (`lib.data.text.words`); of ASCII text those that the package rouge-score counts."""
    return words(text)


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence; ROUGE-L F is twice that over both lengths."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


class Chunk(NamedTuple):
    """A row for each chunk of the leaf's documents, as its context."""

    name: str
    documents: Mapping[str, Sequence[str]]
    words: int

    def items(self, rows: int) -> None:
        return None

    def apply(self, rows: list[dict], ask: Ask, seen: Dedup) -> list[Outcome]:
        out = []
        for row in rows:
            texts = [text for document in self.documents[row["leaf"]] for text in chunks(document, self.words)]
            for i, text in enumerate(texts):
                out.append(Outcome(row | {"id": f"{row['id']}.{i}", "context": text.strip()}, "out"))
        return out


def _cut(text: str, words: int) -> list[str]:
    """The text in pieces of `words` units."""
    starts = [unit.start() for unit in UNIT.finditer(text)][words::words]
    return [text[i:j] for i, j in zip([0, *starts], [*starts, len(text)])]


def chunks(text: str, words: int) -> list[str]:
    """Pieces of at most `words` words that end where a sentence ends and join to the text; only a longer sentence is
    cut, between words. A character is a word where a script sets no spaces (`lib.data.sentences.units`)."""
    if words < 1:
        raise ValueError(f"a chunk holds at least 1 word, given {words}")
    # a sentence, or a paragraph without a full stop, with the headings above it
    sentences, out, size = (
        re.findall(
            r"\s*(?:#+ [^\n]*\n\s*)*\S.*?(?:[.!?؟۔।॥][\"')”’»]*(?=\s)\s*"
            rf"|[{WIDE_ENDS}][\"')”’」』）】》]*\s*|\n\s*\n\s*|\Z)",
            text,
            re.S,
        ),
        [],
        0,
    )
    for sentence in sentences or ([text] if text else []):
        parts = [sentence] if len(units(sentence)) <= words else _cut(sentence, words)
        for part in parts:
            n = len(units(part))
            if out and size + n <= words:
                out[-1], size = out[-1] + part, size + n
            else:
                out.append(part)
                size = n
    return out
