"""Clean English prose that every machine has: the documentation of a pinned package."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lib.scoring.toxicity import classifier

PROSE = re.compile(r"[A-Z][A-Za-z0-9 ,;'().-]*\.")
NO_PROSE = re.compile(
    r"\w\(|[A-Za-z]{2}\.[A-Za-z]|--|- |  |\(\d{4}"
)  # calls, names with dots, rules, broken words, references


def openings(n: int, *, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(opening, rest) of n different paragraphs of scikit-learn's documentation (BSD-3-Clause), cut after 3 to 5 words;
    ValueError for more than there are."""
    found = _paragraphs()
    if not 1 <= n <= len(found):
        raise ValueError(f"there are {len(found)} general paragraphs, given {n}")
    lines = []
    for i in rng.permutation(len(found))[:n].tolist():
        words, cut = found[i].split(" "), rng.integers(3, 6)
        lines.append((" ".join(words[:cut]), " " + " ".join(words[cut:])))
    return lines


@cache
def _paragraphs() -> tuple[str, ...]:
    """Plain prose of 12 to 40 words, sorted: the same text everywhere, since the classifier pins scikit-learn's
    version."""
    spec: Any = importlib.util.find_spec("sklearn")
    root = Path(spec.submodule_search_locations[0])
    files = [
        file for file in root.rglob("*.py") if not {"tests", "externals"} & set(file.relative_to(root).parts)
    ]  # externals are others' work
    found = {text for file in files for text in _prose(file.read_text(encoding="utf-8"))}
    texts = sorted(text for text in found if 12 <= len(text.split(" ")) <= 40)
    return tuple(text for text, score in zip(texts, classifier(texts).tolist()) if score < 0.5)


def _prose(source: str) -> Iterator[str]:
    """Each paragraph of the docstrings that is sentences only. Lines of different indentation (a parameter and what it
    means) are kept apart."""
    for node in _statements(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            lines = (ast.get_docstring(node) or "").split("\n")
            for _, block in groupby(lines, key=lambda line: len(line) - len(line.lstrip())):
                for paragraph in re.split(r"\n\n+|\n-+\n", "\n".join(line.strip() for line in block)):
                    text = paragraph.replace("\n", " ")
                    if PROSE.fullmatch(text) and not NO_PROSE.search(text):
                        yield text


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all statements inside it. What they are made of, most of a tree, holds no docstring."""
    yield node
    for part in ("body", "orelse", "handlers", "finalbody", "cases"):
        for child in getattr(node, part, ()):
            yield from _statements(child)
