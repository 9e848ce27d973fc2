"""The files and folders that settings name, by content: the same name may hold other data tomorrow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.harness import paths

WHOLE = 32 * 2**20  # a larger file, of weights, is told by its size, its time and its two ends: reading all takes long
END = 2**20


def digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """{path as it is given: digest} of every setting's value, or item of it, that is a file or folder: under data/, or
    as seen from notebooks/, where a run works."""
    found = {}
    for value in settings.values():
        listed = [value, *value.split(",")] if isinstance(value, str) else []
        parts = {item.partition(mark)[0].strip() for item in listed for mark in ("\0", "#", ":")}  # folder#label:split
        for name in sorted(parts):
            place = _place(name)
            if place is not None:
                found[name] = digest(place)
    return found


def digest(path: Path) -> str:
    """16 hex digits of a file's content, or of all files of a folder by name."""
    h = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if not any(part.startswith(".") for part in file.relative_to(path).parts):
            h.update(f"{file.relative_to(path)}\n{_content(file)}\n".encode())
    return h.hexdigest()[:16]


def _content(file: Path) -> str:
    """Its sha256; of a large file that of its size, time, first and last megabyte."""
    about, h = file.stat(), hashlib.sha256()
    with file.open("rb") as stream:
        if about.st_size <= WHOLE:
            h.update(stream.read())
        else:
            h.update(f"{about.st_size} {about.st_mtime_ns}".encode() + stream.read(END))
            stream.seek(-END, 2)
            h.update(stream.read())
    return h.hexdigest()


def _place(name: str) -> Path | None:
    if not name or len(name) > 1000 or "\0" in name or name in (".", ".."):
        return None
    for folder in (paths.DATA, paths.NOTEBOOKS):
        try:
            if (folder / name).exists():
                return folder / name
        except OSError:  # no name that a file could have
            return None
    return None
