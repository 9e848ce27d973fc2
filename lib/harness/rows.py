"""The rows of a run as they are recorded: keyed, so that a cell which runs again replaces what it recorded before.

A row belongs to a group (a metric; the items of one dataset, arm and metric; an arm's curve) and has a name in it (a
prompt; a step). Within one execution of a cell a name is recorded once: twice is a mistake in code, and raises. A name
that an earlier execution recorded means that the cell runs again: all that earlier executions recorded of its group
goes, whatever other names it had. Names that are new to a group join it: draws come one call at a time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

METRIC_COLUMNS = [
    "paper", "exhibit", "dataset", "arm", "metric", "value", "low", "high", "n", "seed", "preset", "device", "run_id",
]  # fmt: skip
ITEM_COLUMNS = ["dataset", "arm", "metric", "prompt_id", "value", "weight"]
CURVE_COLUMNS = ["arm", "step", "name", "value"]
NUMBERS = dict.fromkeys(["value", "weight", "low", "high"], "float64") | dict.fromkeys(["n", "seed", "step"], "int64")


class Kind(NamedTuple):
    """One of the three tables: its file, its columns, and of a row its group and its name in that group."""

    file: str
    columns: list[str]
    group: Callable[[tuple], Hashable]
    name: Callable[[tuple], Hashable]
    told: list[str]  # columns that no row lacks


KINDS = {
    "metrics": Kind("metrics.csv", METRIC_COLUMNS, lambda row: row[1:5], lambda row: "", ["arm", "metric", "value"]),
    "items": Kind("items.csv.gz", ITEM_COLUMNS, lambda row: row[:3], lambda row: row[3], ["arm", "prompt_id"]),
    "curves": Kind("curve.csv", CURVE_COLUMNS, lambda row: row[0], lambda row: row[1:3], ["arm", "name"]),
}
Group = dict[Hashable, tuple[int, tuple]]  # name -> (execution that recorded it, row)


def execution() -> int:
    """Which execution of a cell this is: IPython's count, which a cell that runs again has moved; 0 without it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell.execution_count if shell else 0


def joined(kind: Kind, groups: dict[Hashable, Group], rows: Sequence[tuple], now: int) -> dict[Hashable, Group]:
    """The groups that `rows`, recorded in execution `now`, touch, as they are with them; `groups` stays as it is.

    Raises ValueError for a name that this execution has recorded already.
    """
    fresh: dict[Hashable, Group] = {}
    for row in rows:
        key, name = kind.group(row), kind.name(row)
        group = fresh.setdefault(key, dict(groups.get(key, {})))
        if name in group and group[name][0] == now:
            raise ValueError(f"already recorded: {_told(kind, row)}; one cell records it once")
        if name in group:  # the cell runs again
            group = fresh[key] = {k: one for k, one in group.items() if one[0] == now}
        group[name] = now, row
    return fresh


def listed(groups: dict[Hashable, Group]) -> list[tuple]:
    """All rows, group after group."""
    return [row for group in groups.values() for _, row in group.values()]


def packed(rows: Sequence[Sequence]) -> bytes:
    """Rows of items as one member of a gzip file: members follow each other, so that a group that is as it was need
    not be compressed again."""
    return gzip.compress(pd.DataFrame(rows).to_csv(index=False, header=False, float_format="%.6g").encode(), mtime=0)


def table(kind: Kind, path: Path, sha256: str | None = None) -> pd.DataFrame:
    """What a file of that kind holds; where there is none an empty table with its columns, which others can be joined
    to. ValueError, in one sentence, for a file that is cut short, changed since its `sha256` was taken, or no such
    table."""
    content = path.read_bytes() if path.exists() else None
    if sha256 and (content is None or digest(content) != sha256):
        is_now = "gone" if content is None else "not as its run wrote it"
        raise ValueError(f"{path.parent.name}/{path.name} is {is_now}: bring it back, or run it again")
    if content is None:
        return pd.DataFrame({c: pd.Series(dtype=NUMBERS.get(c, "str")) for c in kind.columns})
    try:
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        words = [c for c in kind.columns if c not in NUMBERS]  # of which "None" or "NA" is one
        empty = {c: [""] for c in kind.columns if c in NUMBERS}
        found = pd.read_csv(io.BytesIO(text), dtype=dict.fromkeys(words, "str"), keep_default_na=False, na_values=empty)
    except (OSError, EOFError, ValueError, zlib.error, OverflowError) as error:  # pandas' errors are ValueErrors
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path.parent.name}/{path.name} cannot be read: {why[:200]}") from None
    if list(found.columns) != kind.columns:
        raise ValueError(f"{path.parent.name}/{path.name} has not the columns {', '.join(kind.columns)}")
    if bad := [c for c in kind.columns if c in NUMBERS and found[c].dtype.kind not in "if"]:
        raise ValueError(f"{path.parent.name}/{path.name} has something else than numbers in the column {bad[0]}")
    if found[kind.told].isin(["", None]).any(axis=None) or found[kind.told].isna().any(axis=None):
        raise ValueError(f"{path.parent.name}/{path.name} has a row without {', '.join(kind.told)}: it is cut short")
    return found


def digest(content: bytes) -> str:
    """sha256 of a file, as the manifest of a finished run has it."""
    return hashlib.sha256(content).hexdigest()


def damaged(folder: Path, files: dict[str, str] | None) -> list[str]:
    """A sentence for each table of a run that cannot be read, or is not as `files` (name -> sha256) has it."""
    found = []
    for kind in KINDS.values():
        try:
            table(kind, folder / kind.file, (files or {}).get(kind.file))
        except ValueError as error:
            found.append(str(error))
    return found


def _told(kind: Kind, row: tuple) -> str:
    key, name = kind.group(row), kind.name(row)
    parts = [*(key if isinstance(key, tuple) else (key,)), *(name if isinstance(name, tuple) else (name,))]
    return ", ".join(str(p) for p in parts if p != "")
