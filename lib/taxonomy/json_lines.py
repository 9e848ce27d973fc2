"""JSON lines read row by row, so that every problem is told with its file, line and field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from lib.taxonomy.yaml_lines import File, read_text

KINDS = {dict: "fields", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def rows(file: File, path: Path, names: Sequence[str]) -> Iterator[tuple[int, dict]]:
    """(line, row) of every line that is an object of just these fields, in their order; of the others `file` notes what
    is wrong. Only a line feed ends a line, as JSON texts may hold U+2028; a byte order mark is passed over."""
    text = read_text(file, path) or ""
    for n, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            file.no(n, ".", f"not JSON: {error.msg} (column {error.colno})")
        except RecursionError:
            file.no(n, ".", "not JSON: nested too deeply")
        except ValueError as error:
            file.no(n, ".", str(error))
        else:
            if isinstance(row, dict) and set(row) == set(names):
                yield n, {name: row[name] for name in names}
                continue
            given = (", ".join(row) or "none") if isinstance(row, dict) else KINDS.get(type(row), "a number")
            file.no(n, ".", f"fields {', '.join(names)} are wanted, given {given}")


def _once(pairs: list[tuple]) -> dict:
    """An object whose fields are named once; JSON's reader would keep the last in silence."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return row
