"""YAML read node by node, so that every problem is told with its file, line and field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

TYPES = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "a yes or no",
    "null": "nothing",
    "timestamp": "a date",
    "seq": "a list",
    "map": "fields",
}


class File:
    """The problems of one file, and readers of its nodes that note what is wrong and give an empty value."""

    def __init__(self, name: str):
        self.name, self.problems = name, []

    def no(self, line: int, field: str, problem: str) -> None:
        """Note a problem."""
        self.problems.append((line, f"{self.name}:{line} {field}: {problem}"))

    def sentences(self) -> list[str]:
        """All problems, by line."""
        return [text for _, text in sorted(self.problems, key=lambda p: p[0])]

    def fields(self, node, field: str, known: Sequence[str], needed: Sequence[str]) -> dict[str, yaml.Node]:
        """Nodes of a mapping by name."""
        if not isinstance(node, yaml.MappingNode):
            self.no(line_of(node), field or ".", f"fields {', '.join(known)} are wanted, given {type_of(node)}")
            return {}
        out, prefix = {}, f"{field}." if field else ""
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else type_of(key)
            if name in out:
                self.no(line_of(key), prefix + name, f"given twice, first in line {line_of(out[name])}")
            elif name not in known:
                close = get_close_matches(name, known, 1)
                self.no(
                    line_of(key),
                    prefix + name,
                    f"unknown field{f', did you mean {close[0]}' if close else ''}; allowed are {', '.join(known)}",
                )
            else:
                out[name] = value
        for name in needed:
            if name not in out:
                self.no(line_of(node), prefix + name, f"missing; needed are {', '.join(needed)}")
        return out

    def items(self, node, field: str, least: int, what: str) -> list[yaml.Node]:
        """Nodes of a list of at least `least`."""
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.no(line_of(node), field, f"a list of {what} is wanted, given {type_of(node)}")
            return []
        if len(node.value) < least:
            self.no(line_of(node), field, f"{len(node.value)} {what} given, at least {least} are needed")
        return node.value

    def text(self, node, field: str) -> str:
        """A text that is more than white space; "" where it is none."""
        if node is None:
            return ""
        if tag_of(node) != "str":
            hint = "; put it in quotes" if isinstance(node, yaml.ScalarNode) and node.value else ""
            self.no(line_of(node), field, f"text is wanted, given {type_of(node)}{hint}")
        elif not node.value.strip():
            self.no(line_of(node), field, "the text is empty")
        else:
            return node.value.strip()
        return ""


def line_of(node: yaml.Node) -> int:
    """The line where the node begins, from 1."""
    return node.start_mark.line + 1


def tag_of(node: yaml.Node) -> str:
    """YAML's name of its type: str, int, seq, map, ..."""
    return node.tag.rpartition(":")[2]


def type_of(node: yaml.Node) -> str:
    """What the node is, as a sentence says it."""
    shown = f" ({node.value})" if isinstance(node, yaml.ScalarNode) and node.value and tag_of(node) != "str" else ""
    return TYPES.get(tag_of(node), f"the type {node.tag}") + shown


def compose(file: File, path: Path) -> yaml.Node | None:
    """The file's tree of nodes; None where it is no YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        file.no(path.read_bytes()[: error.start].count(b"\n") + 1, ".", f"not UTF-8 text (byte {error.start})")
        return None
    lines = text.split("\n")
    tabs = [n for n, line in enumerate(lines, 1) if "\t" in line[: len(line) - len(line.lstrip())]]
    for n in tabs:
        file.no(n, _field_at(lines, n), "a tab in the indentation; YAML is indented by spaces")
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deeply"
        unclosed = "end of stream" in reason  # then the place that tells is where it was opened
        mark = getattr(error, "context_mark" if unclosed else "problem_mark", None)
        n = mark.line + 1 if mark else text[: getattr(error, "position", 0)].count("\n") + 1
        if not tabs:  # they are the reason, and said already
            file.no(n, _field_at(lines, n), f"not YAML: {reason}")
        return None
    if top is None:
        file.no(1, ".", "the file is empty")
    return top


def _field_at(lines: list[str], n: int) -> str:
    """The key nearest to line n, in it or above: where no node exists, the best name of the place."""
    keys = [found[1] for line in lines[:n] if (found := re.match(r"[\s-]*(\w+):", line))]
    return keys[-1] if keys else "."
