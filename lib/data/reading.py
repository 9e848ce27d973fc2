"""The one reader of what people bring: prompts, pairs, rows and dialogues out of files, folders and data sets."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib.data import passages, preference_forms
from lib.data.dialogues import Unusable
from lib.data.passages import dialogue, passage
from lib.data.preferences import Dropped, form_of, pairs_of
from lib.data.prompts import PAIRED, Prompt, of_split, prompt_of_row
from lib.data.rows import told
from lib.data.sources import Found, Place, find

LIMIT = 0.1  # share of rows with errors above which a source is taken to be misread
LONGEST = 200_000  # characters: some fifty thousand tokens, more than any model here reads
BESIDE = ("id", "category", "split", "system")  # columns that are read as they are beside mapped ones
NONE = ("", "none")
Rows = Sequence[tuple[Place, dict]]
Made = tuple[Sequence[tuple[Place, object]], Dropped, str]  # what was made, what was dropped, the form's name


class Kind(NamedTuple):
    """What rows are called, how they are made, and the fields that a column map may name."""

    name: str
    make: Callable[[Rows, str], Made]
    fields: tuple[str, ...]


class Read(NamedTuple):
    """What a source gave, in its order, and what was dropped: (place, reason), the place a line of the one file or a
    text that names file and line."""

    rows: list
    dropped: list[tuple[Place, str]]
    source: str
    kind: str = "rows"
    unit: str = "line"
    digest: str = ""
    errors: int = 0  # of the dropped, those that something is wrong with: ties and repeated rows are no errors

    def of(self, split: str) -> list[Prompt]:
        """The prompts of a split; ValueError where there are none."""
        return of_split(self.rows, split, self.source)

    def summary(self) -> str:
        """One line: how many were read, how many rows were dropped and why."""
        reasons = Counter(reason for _, reason in self.dropped)
        first = {reason: place for place, reason in reversed(self.dropped)}
        why = "; ".join(f"{n} x {reason} ({self._at(first[reason])})" for reason, n in reasons.most_common(5))
        more = f"; {len(reasons) - 5} other reasons" if len(reasons) > 5 else ""
        told = f"{self.source}: {len(self.rows)} {self.kind}, {len(self.dropped)} rows dropped"
        return told + f": {why}{more}" * bool(why)

    def listing(self) -> list[str]:
        """Every dropped row: where it stands, and the reason."""
        return [f"{self.source} {self._at(place)}: {reason}" for place, reason in self.dropped]

    def record(self) -> dict:
        """What a run's manifest says of it."""
        told = {"file": self.source, "sha256": self.digest, "rows": len(self.rows)}
        return told | ({"dropped": len(self.dropped), "why": self.listing()[:20]} if self.dropped else {})

    def _at(self, place: Place) -> str:
        return f"{self.unit} {place}" if isinstance(place, int) else place


def read(
    source: Path | str,
    kind: str | Kind,
    *,
    columns: str = "none",
    limit: float = LIMIT,
    folder: Path | str | None = None,
    longest: int = LONGEST,
) -> Read:
    """`kind` (prompts, pairs, rows, dialogues, or a Kind of one's own) of a file, a folder, or a data set written as
    `sources.FORM`.

    The form is told by the fields; `columns` names them where they are others, "prompt=question,chosen=best" (a dot
    goes into an object: "prompt=data.question"). Rows that cannot be used are dropped, counted and named; ties,
    repeated and overlong rows (more characters than `longest`) are dropped too, but are no errors.
    FileNotFoundError, or ValueError naming file, lines and reasons: no such source or column, no known form, no row to
    use, or more errors than the share `limit` of the rows (one is always let pass unless the limit is 0).
    """
    if isinstance(kind, str) and kind not in KINDS:
        raise ValueError(f"what is read is one of {', '.join(KINDS)}; given {kind!r}")
    kind = KINDS[kind] if isinstance(kind, str) else kind
    if not 0 <= limit <= 1:
        raise ValueError(f"the largest share of bad rows lies in 0 .. 1, given {limit}")
    named = column_map(columns, kind)
    found = find(source, folder, {"pairs": "preference pair"}.get(kind.name, kind.name.removesuffix("s")))
    rows, dropped = [], [(place, Unusable(reason)) for place, reason in found.bad]
    for place, row in _mapped(found, named) if named else found.rows:
        if (n := _size(row)) > longest:
            dropped.append((place, Unusable(f"has {n} characters, more than {longest}", harmless=True)))
        else:
            rows.append((place, row))
    made, more, form = kind.make(rows, found.name) if rows else ([], [], "")
    out, dropped = _once(made, dropped + more)
    return _checked(found, kind.name, form, out, dropped, limit)


def read_sets(
    sources: Sequence[str],
    kind: str,
    folder: Path | str,
    *,
    columns: str = "none",
    limit: float = LIMIT,
    longest: int = LONGEST,
) -> dict[str, Read]:
    """`read` of each source but "none"."""
    how: dict[str, Any] = dict(columns=columns, limit=limit, folder=folder, longest=longest)
    return {s: read(s, kind, **how) for s in sources if s != "none"}


def load_pairs(source: Path | str, *, limit: float = LIMIT) -> Read:
    """`read` of pairs: comparisons of a file or a data set in any form of `preference_forms.FORMS`."""
    return read(source, "pairs", limit=limit)


# ---- columns


def column_map(text: str, kind: Kind) -> dict[str, str]:
    """{field: the source's column} of "field=column,field=column"; none for "none". ValueError for any other text."""
    if text.strip() in NONE:
        return {}
    known, out = [*dict.fromkeys([*kind.fields, *BESIDE])], {}
    for item in text.split(","):
        field, sign, column = (part.strip() for part in item.partition("="))
        if not sign or not field or not column:
            raise ValueError(f"columns are written prompt=question,chosen=best (field=column); given {text!r}")
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            raise ValueError(
                f"{kind.name} are read from the fields {', '.join(known)}; columns name {field!r}"
                + (f", did you mean {near[0]!r}?" if near else "")
            )
        if field in out:
            raise ValueError(f"columns name {field} twice, given {text!r}")
        out[field] = column
    return out


def _mapped(found: Found, named: dict[str, str]) -> list[tuple[Place, dict]]:
    """Rows that hold the named columns under their fields' names, and no other column but those of BESIDE."""
    for field, column in named.items():
        if found.rows and not any(_has(row, column) for _, row in found.rows):
            have = sorted({str(k) for _, row in found.rows for k in row})
            raise ValueError(
                f"{found.name} has no column {column!r}, which {field} is to be read from; it has {told(have)}"
            )
    beside = [k for k in BESIDE if k not in named and k not in named.values()]
    return [
        (place, {f: _at(row, c) for f, c in named.items()} | {k: row[k] for k in beside if k in row})
        for place, row in found.rows
    ]


def _at(row: dict, column: str) -> object:
    """The value of a column, or of a field inside an object by a dotted name; None where there is none."""
    if column in row or "." not in column:
        return row.get(column)
    head, _, rest = column.partition(".")
    return _at(row[head], rest) if isinstance(row.get(head), dict) else None


def _has(row: dict, column: str) -> bool:
    if column in row or "." not in column:
        return column in row
    head, _, rest = column.partition(".")
    return isinstance(row.get(head), dict) and _has(row[head], rest)


# ---- kinds


def each(rows: Rows, make: Callable[[dict, Place], object]) -> tuple[list[tuple[Place, object]], Dropped]:
    """`make` of each row and its place: what it gives, and the rows for which it raises Unusable."""
    out, dropped = [], []
    for place, row in rows:
        try:
            out.append((place, make(row, place)))
        except Unusable as e:
            dropped.append((place, e))
    return out, dropped


def _prompts(rows: Rows, name: str) -> Made:
    return *each(rows, prompt_of_row), "prompts"


def _passages(rows: Rows, name: str) -> Made:
    form = form_of([row for _, row in rows], passages.FORMS, name, "rows")
    return *each(rows, lambda row, _: passage(row, form)), form.name


def _dialogues(rows: Rows, name: str) -> Made:
    return *each(rows, lambda row, _: dialogue(row)), "dialogues"


def _fields(forms) -> tuple[str, ...]:
    return tuple(dict.fromkeys(field for form in forms for field in form.fields))


KINDS = {
    "prompts": Kind("prompts", _prompts, ("prompt",)),
    "pairs": Kind(
        "pairs", pairs_of,
        tuple(dict.fromkeys(("prompt", "chosen", "rejected", *(s for pair in preference_forms.SCORES for s in pair),
            *_fields(preference_forms.FORMS)))),
    ),
    "rows": Kind("rows", _passages, tuple(dict.fromkeys(("prompt", "text", "label", *_fields(passages.FORMS))))),
    "dialogues": Kind("dialogues", _dialogues, ("messages", "prompt", "completion")),
}  # fmt: skip


def _size(value: object) -> int:
    """Characters of all texts in a row."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0


def _once(out: Sequence[tuple[Place, object]], dropped: Dropped) -> tuple[list[tuple[Place, object]], Dropped]:
    """Each thing once; of prompts also each id."""
    seen: dict[str, Place] = {}
    ids: dict[str, Place] = {}
    once, dropped = [], list(dropped)
    for place, one in out:
        key = repr((one.text, one.turns)) if isinstance(one, Prompt) else repr(one)
        if key in seen:
            dropped.append((place, Unusable(f"says what {_told(seen[key])} says", harmless=True)))
        elif isinstance(one, Prompt) and one.id in ids:
            dropped.append((place, Unusable(f"has the id {one.id!r} of {_told(ids[one.id])}, {PAIRED}")))
        else:
            seen[key] = place
            ids[one.id if isinstance(one, Prompt) else key] = place
            once.append((place, one))
    return once, dropped


def _told(place: Place) -> str:
    return f"line {place}" if isinstance(place, int) else place


def _checked(found: Found, kind: str, form: str, out: Sequence, dropped: Dropped, limit: float) -> Read:
    """What was read, its drops in the source's order; ValueError for too many errors, or nothing left."""
    dropped = sorted(dropped, key=lambda d: _order(d[0]))
    total = len(found.rows) + len(found.bad)
    at = lambda place: f"{found.unit} {place}" if isinstance(place, int) else place  # noqa: E731
    errors = [(place, e) for place, e in dropped if not e.harmless]
    shown = "; ".join(f"{at(place)} {e}" for place, e in errors[:5]) + "; ..." * (len(errors) > 5)
    if len(errors) > max(limit > 0, limit * total):
        as_form = f"; they were read as {form}" if form not in ("", kind) else ""
        raise ValueError(
            f"{found.name}: {len(errors)} of {total} rows cannot be used, more than {limit:.0%} ({shown}){as_form}"
        )
    if not out:
        reasons = shown or "; ".join(f"{at(place)} {e}" for place, e in dropped[:5])
        what = {"pairs": "pair to learn from"}.get(kind, kind.removesuffix("s"))
        raise ValueError(f"{found.name} holds no {what}: {reasons}")
    told = [(place, str(e)) for place, e in dropped]
    return Read([one for _, one in out], told, found.name, kind, found.unit, found.digest, len(errors))


def _order(place: Place) -> tuple[str, int]:
    """The file and the line."""
    file, _, line = str(place).rpartition(" ")
    return file, int(line)
