"""A corpus of one's own: lines of a file, or labelled texts beside general ones as ToxiGen stands beside WikiText."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lib.data import Read, read
from lib.data.dialogues import Unusable, as_text
from lib.data.passages import FORMS, Passage, passage
from lib.data.preferences import form_of
from lib.data.reading import Kind, Made, Rows, each
from lib.studies.attribute_control.forum import Line

SAID = {"true": True, "false": False}  # as JSON and CSV have it
OPENING = 4  # words of a text by itself that are taken for its prompt
LEAST = OPENING + 2  # words of such a text
HEADING = "= "  # WikiText's titles stand between equals signs
TOXIC = 0.5  # labels from here up have the attribute


def load(source: str, *, folder: Path | str, columns: str, limit: float) -> tuple[list[Line], list[Read]]:
    """(lines, what was read) of one source of prompt, text, toxic and domain (forum or general), or of two, separated
    by a comma: related texts with labels, and general ones. ValueError names what is wrong, or the domain that is
    empty."""
    parts = [part.strip() for part in source.split(",")]
    if len(parts) > 2:
        raise ValueError(f"a corpus is one source, or related and general ones separated by a comma; given {source!r}")
    kinds = [LINES] if len(parts) == 1 else [RELATED, GENERAL]
    found = [
        read(part, kind, folder=folder, columns=columns if i == 0 else "none", limit=limit)
        for i, (part, kind) in enumerate(zip(parts, kinds))
    ]
    lines = [line for one in found for line in one.rows]
    for domain in ("forum", "general"):
        if not any(x.domain == domain for x in lines):
            raise ValueError(f"{source} has no line of the domain {domain!r}")
    return lines, found


def _line(row: dict, place: object) -> Line:
    toxic = SAID.get(str(row.get("toxic")).lower()) if isinstance(row.get("toxic"), (bool, str)) else None
    wrong = [k for k in ("prompt", "text") if not isinstance(row.get(k), str) or not row[k].strip()]
    wrong += ["toxic"] * (toxic is None) + ["domain"] * (row.get("domain") not in ("forum", "general"))
    if wrong or toxic is None:
        raise Unusable(
            "needs prompt and text, toxic true or false, and domain forum or general; its "
            + ", ".join(f"{k} is {row[k]!r:.40}" if k in row else f"{k} is missing" for k in wrong)
        )
    return Line(row["prompt"], row["text"], toxic, row["domain"])


def _lines(rows: Rows, name: str) -> Made:
    return *each(rows, _line), "lines of a corpus"


def _texts(rows: Rows, name: str, domain: str) -> Made:
    form = form_of([row for _, row in rows], FORMS, name, "texts of a corpus")

    def make(row: dict, _: object) -> Line:
        found = passage(row, form)
        if domain == "forum" and found.label is None:
            raise Unusable("has no label: related texts need one, or the other source comes first")
        return Line(*_parts(found), domain == "forum" and (found.label or 0) >= TOXIC, domain)

    return *each(rows, make), form.name


def _parts(one: Passage) -> tuple[str, str]:
    """(prompt, text); a text by itself is cut after its first words."""
    if one.prompt:
        return as_text(one.prompt), one.text if one.text[:1].isspace() else " " + one.text
    words = one.text.split()
    if len(words) < LEAST or one.text.strip().startswith(HEADING):
        raise Unusable(f"is a heading or has fewer than {LEAST} words", harmless=True)
    return " ".join(words[:OPENING]), " " + " ".join(words[OPENING:])


def _fields(forms: Sequence) -> tuple[str, ...]:
    return tuple(dict.fromkeys(field for form in forms for field in form.fields))


LINES = Kind("lines", _lines, ("prompt", "text", "toxic", "domain"))
RELATED = Kind("related lines", lambda rows, name: _texts(rows, name, "forum"), _fields(FORMS))
GENERAL = Kind("general lines", lambda rows, name: _texts(rows, name, "general"), _fields(FORMS))
