"""What the fuzzed tests share: how many inputs, and what counts as an answer.

Every input is either right or refused in one sentence that a `raise` of lib has written: never an error out of a
library or of an expression, never a silent default. `make fuzz` draws 10,000 new inputs; the ordinary tests a few, the
same at each run. What failed once stays as `@example` beside the test.
"""

from __future__ import annotations

import ast
import os
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, settings

from lib.harness.paths import ROOT

TOTAL = int(os.environ.get("PLUMBLINE_FUZZ") or 0)
FEW = 25
TOLD = (ValueError, KeyError, TypeError, OSError)  # what the command line shows as one sentence
LONGEST = 2000  # characters of a sentence


def inputs(share: float, few: int = FEW) -> settings:
    """Settings of a test that gets this share of `make fuzz`."""
    return settings(
        max_examples=round(TOTAL * share) or few,
        derandomize=not TOTAL,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def sentence(error: BaseException) -> str:
    """What the error says; AssertionError unless it is one sentence out of a `raise` of lib."""
    text = str(error)
    assert isinstance(error, TOLD), f"{type(error).__name__} is no error that is told as a sentence: {text}"
    assert text.strip() and "\n" not in text and "\r" not in text, f"not one line: {text!r}"
    assert len(text) <= LONGEST, f"{len(text)} characters"
    at = error.__traceback__
    while at.tb_next is not None:
        at = at.tb_next
    path, line = Path(at.tb_frame.f_code.co_filename), at.tb_lineno
    assert path.is_relative_to(ROOT / "lib"), f"raised in {path.name}:{line}, not by lib: {text}"
    assert line in _raises(path), f"{path.name}:{line} raises by accident: {type(error).__name__}: {text}"
    return text


@cache
def _raises(path: Path) -> frozenset[int]:
    """The lines of a module's raise statements."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Raise)]
    return frozenset(line for n in nodes for line in range(n.lineno, n.end_lineno + 1))
