"""Where rows come from: a file, a folder of files, a saved data set, or a data set of a hub; each with its place."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lib.data.rows import Bad, read_rows

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
FORM = "id[@revision][:config]:split, such as nvidia/HelpSteer2:validation or Salesforce/wikitext:wikitext-2-v1:test"
# a split may be a slice, train[:10%]
ADDRESS = re.compile(
    r"(?P<id>[^:@\s]+)(@(?P<revision>[^:\s]+))?(:(?P<config>[^:\[\]]+))?:(?P<split>[^:\[\]]+(\[.*\])?)"
)
LISTS = ("answers", "completions", "summaries", "messages", "conversations", "prompt", "chosen", "rejected")
Place = int | str  # a line of the one file, else a text that says which file and line


class Found(NamedTuple):
    """The rows of a source, each with its place, and what is no row: (place, reason)."""

    rows: list[tuple[Place, dict]]
    bad: list[tuple[Place, str]]
    name: str
    unit: str  # what a place that is a number counts: line or row
    digest: str  # sha256 of the file, or of what was read


def find(source: Path | str, folder: Path | str | None = None, what: str = "row") -> Found:
    """All rows of a file (`read_rows`), of a folder (its files by name; a data set of save_to_disk), or of a data set
    as FORM; a relative path is looked for in `folder` first.

    FileNotFoundError or ValueError, in one sentence, where there is no such source or it cannot be read.
    """
    path = Path(source).expanduser()
    path = Path(folder) / path if folder is not None and (Path(folder) / path).exists() else path
    if path.is_file():
        bad: Bad = []
        rows = read_rows(path, what, bad)
        unit = "row" if path.suffix == ".parquet" else "line"
        return Found([*rows], [*bad], path.name, unit, hashlib.sha256(path.read_bytes()).hexdigest())
    if path.is_dir():
        return _saved(path) if (path / "dataset_info.json").is_file() else _folder(path, what)
    if ":" not in str(source):
        raise FileNotFoundError(f"no file of {what}s at {path}; give a file, a folder, or a data set as {FORM}")
    at = ADDRESS.fullmatch(str(source))
    if not at:
        raise ValueError(f"a data set is given as {FORM}; given {str(source)!r}")
    local = Path(folder or ".") / at["id"]
    return _dataset(str(source), str(local) if local.is_dir() else at["id"], at["config"], at["split"], at["revision"])


def _folder(path: Path, what: str) -> Found:
    """Every file of ENDINGS below a folder, but for hidden ones, in the order of their names."""
    files = [
        p
        for p in sorted(path.rglob("*"))
        if p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
        and p.name.removesuffix(".gz").endswith(ENDINGS)
    ]
    if not files:
        raise ValueError(f"the folder {path} holds no file of {', '.join(ENDINGS)}")
    h = hashlib.sha256()
    rows: list[tuple[Place, dict]] = []
    bad: list[tuple[Place, str]] = []
    for file in files:
        one = find(file, what=what)
        told = f"{file.relative_to(path)} {one.unit}"
        rows += [(f"{told} {n}", row) for n, row in one.rows]
        bad += [(f"{told} {n}", reason) for n, reason in one.bad]
        h.update(one.digest.encode())
    return Found(rows, bad, path.name, "", h.hexdigest())


def _saved(path: Path) -> Found:
    from datasets import load_from_disk

    try:
        return _listed(load_from_disk(str(path)), path.name)
    except (ValueError, OSError, KeyError) as e:
        raise ValueError(f"{path} is no data set of save_to_disk: {_first_line(e)}") from None


def _dataset(source: str, name: str, config: str | None, split: str, revision: str | None) -> Found:
    """A data set through `datasets`; a configuration that there is none of is taken as a folder of the repository."""
    from datasets import load_dataset

    how = {"split": split} | ({"revision": revision} if revision else {})
    try:
        try:
            table = load_dataset(name, config, **how) if config else load_dataset(name, **how)
        except ValueError as e:
            if not config or "BuilderConfig" not in str(e):
                raise
            table = load_dataset(name, data_dir=config, **how)
    except Exception as e:  # a hub, a cache, a network and many formats: whatever it is, it is told in one sentence
        raise ValueError(f"the data set {source} cannot be read: {_first_line(e)}{_hint(e)}") from None
    found = _listed(table, source)
    if not found.rows:
        raise ValueError(f"{source} holds no row")
    return found


def _listed(table, name: str) -> Found:
    h = hashlib.sha256()
    rows: list[tuple[Place, dict]] = []
    for n, row in enumerate(_each(table), 1):
        rows.append((n, row))
        h.update(json.dumps(row, default=str, ensure_ascii=False).encode("utf-8", "replace"))
    return Found(rows, [], name, "row", h.hexdigest())


def _each(table) -> Iterator[dict]:
    """Rows with lists of objects as lists: older data sets hold them as an object of lists."""
    for row in table:
        row = dict(row)
        for field in LISTS:
            value = row.get(field)
            if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
                row[field] = [dict(zip(value, items)) for items in zip(*value.values())]
        yield row


def _first_line(e: Exception) -> str:
    """What an error says, in at most one sentence's length."""
    text = " ".join(str(e).split()) or type(e).__name__
    return text if len(text) <= 300 else text[:300] + "..."


def _hint(e: Exception) -> str:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return "; HF_HUB_OFFLINE is set, unset it to fetch from the hub"
    said = f"{type(e).__name__} {e}".lower()
    if any(word in said for word in ("gated", "401", "403", "authenticat", "token")):
        return "; where access is asked for, accept its terms on the hub and set HF_TOKEN"
    return ""
