"""Answers that were paid for, on disk, by what was asked: nobody is asked, or paid, for the same thing twice."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """A text and the tokens it took, read and written; 0 where the server does not say."""

    text: str
    read: int = 0
    written: int = 0


def key_of(asked: dict) -> str:
    """64 hex digits of a request's content."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Answers:
    """A file of answers by key. Each is written whole before the next is asked for, several processes may share one.

    None: kept in memory. ValueError, in one sentence, for a file that is no such store.
    """

    def __init__(self, path: Path | None):
        self.path, self._open = path, {}  # a connection a process: a fork must not share its parent's

    def _at(self) -> sqlite3.Connection:
        pid = os.getpid()
        if pid not in self._open:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                at = sqlite3.connect(self.path or ":memory:", timeout=60, check_same_thread=False)
                at.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT, read INT, written INT)"
                )
            except sqlite3.Error as e:
                raise ValueError(
                    f"{self.path} holds no answers that can be read ({e}); remove it, or name another"
                ) from e
            self._open[pid] = at
        return self._open[pid]

    def get(self, key: str) -> Answer | None:
        """The answer of this key, None if there is none."""
        row = self._at().execute("SELECT text, read, written FROM answers WHERE key = ?", (key,)).fetchone()
        return Answer(*row) if row else None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; it is on disk when this returns."""
        with self._at() as at:
            at.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, *answer))

    def __len__(self) -> int:
        return self._at().execute("SELECT count(*) FROM answers").fetchone()[0]
