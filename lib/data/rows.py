"""The one reader of rows that people bring: JSON lines, a JSON array or object, CSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HOLDERS = ("examples", "data")  # fields under which a JSON object of a whole file keeps its rows
KINDS = {type(None): "null", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
SPACE = " \t\r\n"
Bad = list[tuple[int, str]]  # (line, reason) of what is no row


def read_rows(path: Path | str, what: str = "row", bad: Bad | None = None) -> list[tuple[int, dict]]:
    """(line, row) for each row of a file, by its ending: .csv, .tsv, .parquet, else JSON; .gz is unpacked.

    JSON is one object a line, an array of objects, or one object with such an array under "examples" or "data"; the
    line is where the row starts (Parquet: which row it is). Only a line feed ends a line; a byte order mark and white
    lines are skipped. null, NaN and texts for numbers come through: what a field may be is the caller's to say.
    FileNotFoundError, or ValueError in one sentence with the file and the line; `what` names a row in it. With a list
    `bad` a line that is no row goes there with its reason, and only what spoils the whole file is raised.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file of {what}s at {path}")
    found: Bad = []
    rows: list[tuple[int, Any]]
    if _ending(path) == ".parquet":
        rows = _parquet(path)
    else:
        text = _text(path)
        table = _ending(path) in (".csv", ".tsv")
        rows = list(_table(text, path, found) if table else _json(text, path.name, found))
    for line, row in rows:
        if not isinstance(row, dict):
            found.append((line, f"is {KINDS[type(row)]}, a {what} is an object with named fields"))
    if found and bad is None:
        line, reason = min(found)
        raise ValueError(f"{path.name} line {line} {reason}")
    if not rows and not found:
        raise ValueError(f"{path.name} holds no {what}")
    if bad is not None:
        bad += sorted(found)
    return [(line, row) for line, row in rows if isinstance(row, dict)]


def told(names: Iterable[object], most: int = 20) -> str:
    """Names of fields as a sentence lists them: in one line, the long ones and the many cut; "none" for none."""
    words = [str(name) for name in names]
    short = [word if len(word) <= 40 else word[:40] + "..." for word in words[:most]]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(n if n.isprintable() and n else repr(n) for n in short) + more or "none"


def _ending(path: Path) -> str:
    """The file's kind: the ending before .gz, if that is its last."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError) as e:
            raise ValueError(f"{path.name} is no gzip file: {e}") from None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path.name} is UTF-16, save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise ValueError(f"{path.name} line {line} is not UTF-8: byte 0x{raw[e.start]:02x}") from None


def _json(text: str, name: str, bad: Bad) -> Iterator[tuple[int, object]]:
    """A file is lines unless it is one JSON value that is an array, or an object over several lines or with rows."""
    lines = text.split("\n")  # str.splitlines would also cut inside texts, at U+2028 and U+0085
    full = [(n, line.strip(SPACE + "\ufeff")) for n, line in enumerate(lines, 1) if line.strip(SPACE + "\ufeff")]
    if not full:
        return
    if full[0][1][0] == "[" and (len(full) == 1 or not _whole(full[0][1])):
        yield from _array(text, text.index("["), name)
        return
    if full[0][1][0] == "{" and (len(full) == 1 or not _whole(full[0][1])):
        start = _rows_of_object(text)
        if start is not None:
            yield from _array(text, start, name)
            return
        if _whole(text):
            yield full[0][0], json.loads(text)
            return
    for n, line in full:
        try:
            yield n, _checked(json.loads(line), line)
        except (ValueError, RecursionError) as e:
            bad.append((n, f"is no JSON: {_why(e, line)}"))


def _whole(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _checked(row: object, source: str) -> object:
    """The row, unless an escape stands for half a character, which no tokenizer or file takes."""
    if "\\ud" in source.lower():
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("an escape \\ud... stands for half a character") from None
    return row


def _why(e: Exception, text: str) -> str:
    if not isinstance(e, json.JSONDecodeError):
        return str(e)
    if text[: e.pos].rstrip(SPACE).endswith(",") and text[e.pos : e.pos + 1] in ("}", "]", ""):
        return "a comma stands before the end"
    if "trailing comma" in e.msg:  # how newer Pythons say it
        return "a comma stands before the end"
    return e.msg[0].lower() + e.msg[1:] + f" at {text[e.pos : e.pos + 20]!r}" * (e.pos < len(text))


def _array(text: str, start: int, name: str) -> Iterator[tuple[int, object]]:
    """The rows of the array that opens at `start`, each with its line."""
    decoder, at, line, seen = json.JSONDecoder(), start, 1, 0
    closed = False
    while not closed:
        at = _skip(text, at + 1)
        line, seen = line + text.count("\n", seen, at), at
        if text[at : at + 1] == "]" and text[start + 1 : at].strip(SPACE) == "":
            return
        try:
            row, end = decoder.raw_decode(text, at)
            row = _checked(row, text[at:end])
            at = _skip(text, end)
            if text[at : at + 1] not in (",", "]"):
                raise json.JSONDecodeError("expected a comma or the array's end", text, at)
        except (ValueError, RecursionError) as e:
            where = line if not isinstance(e, json.JSONDecodeError) else text.count("\n", 0, e.pos) + 1
            raise ValueError(f"{name} line {where} is no JSON: {_why(e, text)}") from None
        yield line, row
        closed = text[at] == "]"
    if not text[:start].strip(SPACE) and text[at + 1 :].strip(SPACE):
        raise ValueError(f"{name} line {text.count(chr(10), 0, at) + 1} is no JSON: the text goes on after the array")


def _rows_of_object(text: str) -> int | None:
    """Where the array of "examples" or "data" opens in the object that the text is; None if it has neither."""
    decoder, at = json.JSONDecoder(), _skip(text, text.index("{") + 1)
    try:
        while text[at : at + 1] == '"':
            key, at = decoder.raw_decode(text, at)
            at = _skip(text, at)
            if text[at : at + 1] != ":":
                return None
            at = _skip(text, at + 1)
            if key in HOLDERS and text[at : at + 1] == "[":
                return at
            _, at = decoder.raw_decode(text, at)
            at = _skip(text, at)
            at = _skip(text, at + 1) if text[at : at + 1] == "," else at
    except (ValueError, RecursionError):
        pass
    return None


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in SPACE:
        at += 1
    return at


def _table(text: str, path: Path, bad: Bad) -> Iterator[tuple[int, dict]]:
    """Rows of CSV or TSV under the names of its first line; a cell that is a list of messages is read as one."""
    name, before = path.name, csv.field_size_limit(2**31 - 1)  # a long answer is no mistake
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if _ending(path) == ".tsv" else ",", strict=True)
    try:
        header = [h.strip() for h in next(reader, [])]
        if len(set(header)) < len(header):
            raise ValueError(f"{name} line 1 names a column twice: {told(header)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                bad.append((line, f"has {len(cells)} cells, line 1 names {len(header)} columns"))
            elif cells:
                yield line, {h: _cell(c) for h, c in zip(header, cells)}
            line = reader.line_num + 1
    except csv.Error as e:
        raise ValueError(f"{name} line {reader.line_num} is no CSV: {e}") from None
    finally:
        csv.field_size_limit(before)


def _cell(text: str) -> object:
    if text[:1] == "[":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if value and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in value):
            return value
    return text


def _parquet(path: Path) -> list[tuple[int, dict]]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as e:  # pyarrow's errors are ValueErrors
        raise ValueError(f"{path.name} is no Parquet file: {str(e).splitlines()[0]}") from None
    return list(enumerate(json.loads(frame.to_json(orient="records", force_ascii=False)), 1))
