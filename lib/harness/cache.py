"""A cache of results that are slow to compute and small to keep, named by what they were computed from.

The key must hold everything that the value depends on (weights hash, prompts, settings). Only JSON goes in, so a cached
value can be read by anyone and cannot run code.

    PLUMBLINE_NO_CACHE=1   compute every time, read and write nothing
"""

import gzip
import hashlib
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.harness import paths


def cached(kind: str, key: dict, compute: Callable[[], dict | list]) -> Any:
    """`compute()`, or what it gave before for the same `key`; a hit and a miss return equal values (both out of
    JSON)."""
    target = location(kind, key)
    if os.environ.get("PLUMBLINE_NO_CACHE", "").strip() not in ("", "0"):
        return json.loads(_text(compute(), f"the value computed for cache kind {kind!r}"))
    stored = _read(target)
    asked = json.loads(_canonical(key))
    if stored is not None and stored["key"] == asked:
        return stored["value"]
    paths.check_writable(target.parent)  # before the slow part
    value = json.loads(_text(compute(), f"the value computed for cache kind {kind!r}"))
    _write(target, {"key": asked, "value": value})
    return value


def location(kind: str, key: dict) -> Path:
    """The file that holds this key's value: data/cache/<kind>/<first 16 hex digits of the key's sha256>.json.gz."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", kind):
        raise ValueError(f"cache kind is a folder name of a-z, 0-9, _ and -, given {kind!r}")
    if not isinstance(key, dict):
        raise TypeError(f"cache key is a dict of what the value depends on, given {type(key).__name__}")
    return paths.CACHE / kind / f"{fingerprint(key)}.json.gz"


def fingerprint(key: Any) -> str:
    """16 hex digits of the sha256 of a JSON-able object; the order of a dict's keys does not matter."""
    return hashlib.sha256(_canonical(key).encode()).hexdigest()[:16]


def _canonical(key: Any) -> str:
    return _text(key, "a cache key", sort_keys=True, separators=(",", ":"))


def _text(value: Any, what: str, **options: Any) -> str:
    try:
        return json.dumps(value, **options)
    except TypeError as error:
        raise TypeError(f"{what} must be plain JSON (dict, list, str, number, bool, None): {error}") from error


def _read(target: Path) -> dict | None:
    try:
        stored = json.loads(gzip.decompress(target.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):  # missing, cut short, or not what we wrote: compute again
        return None
    return stored if isinstance(stored, dict) and stored.keys() >= {"key", "value"} else None


def _write(target: Path, content: dict) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(gzip.compress(json.dumps(content).encode(), compresslevel=6, mtime=0))
        os.replace(name, target)  # atomic: a reader sees the old file or the new one, never half
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
