"""A taxonomy of skills and knowledge as a folder of qna.yaml files: reading it (`tree`), saying what is wrong with it
(`yaml_lines`), checking answers (`checkers`)."""

from lib.taxonomy.tree import (
    Document,
    Fact,
    Leaf,
    Seed,
    check,
    load,
    outline,
)

__all__ = [
    "Document",
    "Fact",
    "Leaf",
    "Seed",
    "check",
    "load",
    "outline",
]
