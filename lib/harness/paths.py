"""Where everything lies, computed from this file's own place and never from the working directory.

Write `paths.RESULTS`, not `from lib.harness.paths import RESULTS`: the folders that the environment can move are looked
up at each use, so that a test or a second run can point them elsewhere.

    PLUMBLINE_RESULTS   another folder in place of results/ (runs, tables, figures)
    PLUMBLINE_CACHE     another folder in place of data/cache/ (fetched assets, converted weights, cached generations)
"""

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"
PAPER = ROOT / "results" / "paper"  # published numbers: part of the code, wherever results go


def _cache() -> Path:
    return _moved("PLUMBLINE_CACHE", DATA / "cache")


def _results() -> Path:
    return _moved("PLUMBLINE_RESULTS", ROOT / "results")


_MOVABLE = {
    "CACHE": _cache,
    "RESULTS": _results,
    "RUNS": lambda: _results() / "runs",
    "TABLES": lambda: _results() / "tables",
    "FIGURES": lambda: _results() / "figures",
}


def __getattr__(name: str) -> Path:
    if name in _MOVABLE:
        return _MOVABLE[name]()
    raise AttributeError(
        f"lib.harness.paths has no {name!r}; it has ROOT, NOTEBOOKS, DATA, PAPER, {', '.join(_MOVABLE)}"
    )


def check_writable(folder: Path | str) -> Path:
    """Make `folder` where missing and prove that a file can be written there; PermissionError in one sentence if
    not."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"cannot write in {folder} ({error.strerror or error}): make it writable, free some space, "
            "or name another folder with PLUMBLINE_RESULTS or PLUMBLINE_CACHE"
        ) from error
    return folder


def _moved(variable: str, default: Path) -> Path:
    given = os.environ.get(variable, "").strip()
    return Path(given).expanduser().resolve() if given else default
