"""Which commit the code is at, and what differs from it: only what a run's numbers can depend on counts.

Executing a notebook in place, or giving parameters in it, changes the file but not the run: outputs, counts, metadata
and the parameters cell (whose values are recorded as overrides) are no difference.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from lib.harness import paths

CODE = ["lib", "notebooks", "data", "pyproject.toml"]  # results/ is not among them


def git_state() -> tuple[str, bool]:
    """(commit, whether code or data differ from it); ("unknown", True) outside a git checkout."""
    try:
        return _git("rev-parse", "HEAD").decode().strip(), bool(changed())
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def changed() -> list[str]:
    """Files of code or data that differ from the last commit, new ones included; CalledProcessError outside of git."""
    tracked = _names(_git("diff", "--name-only", "--relative", "--no-renames", "-z", "HEAD", "--", *CODE))
    new = _names(_git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE))
    return sorted([name for name in tracked if not _only_executed(name)] + new)


def holds(folder: Path) -> set[str]:
    """Names of what the last commit holds in a folder; none outside of git."""
    try:
        return set(_names(_git("ls-tree", "-z", "--name-only", "HEAD", at=folder)))
    except (OSError, subprocess.CalledProcessError):
        return set()


def sources(text: str) -> list[tuple[str, str]]:
    """(cell type, source) of every cell of a notebook's text, the values of its parameters left out."""
    cells = []
    for cell in json.loads(text)["cells"]:
        tags = cell.get("metadata", {}).get("tags", [])
        source = cell.get("source", "")
        if "injected-parameters" not in tags:
            given = "parameters" in tags
            cells.append((cell["cell_type"], "parameters" if given else "".join(source).rstrip("\n")))
    return cells


def _only_executed(name: str) -> bool:
    """Whether a notebook differs in nothing that a run depends on."""
    if not name.endswith(".ipynb"):
        return False
    try:
        now, before = Path(paths.ROOT, name).read_text(encoding="utf-8"), _git("show", f"HEAD:./{name}").decode()
        return sources(now) == sources(before)
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError, TypeError, AttributeError):
        return False  # removed, new to git, or no notebook any more


def _names(listed: bytes) -> list[str]:
    return [name for name in listed.decode(errors="surrogateescape").split("\0") if name]


def _git(*arguments: str, at: Path | None = None) -> bytes:
    return subprocess.run(["git", *arguments], cwd=at or paths.ROOT, check=True, capture_output=True).stdout
