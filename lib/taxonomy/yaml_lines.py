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
        """Nodes of a mapping by name; what a merge (<<) brings in stands behind the mapping's own."""
        if not isinstance(node, yaml.MappingNode) or tag_of(node) != "map":
            self.no(line_of(node), field or ".", f"fields {', '.join(known)} are wanted, given {type_of(node)}")
            return {}
        out, prefix, merged = {}, f"{field}." if field else "", merges(node)
        for key, value in (pair for pair in node.value if not _is_merge(pair[0])):
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
        if merged is None:
            self.no(line_of(node), prefix + "<<", "fields, or a list of them, are wanted to be merged")
        out = {name: value for name, value in (merged or {}).items() if name in known} | out
        for name in (name for name in merged or () if name not in known):
            self.no(line_of(node), prefix + name, f"unknown field, merged in by <<; allowed are {', '.join(known)}")
        for name in needed:
            if name not in out:
                self.no(line_of(node), prefix + name, f"missing; needed are {', '.join(needed)}")
        return out

    def items(self, node, field: str, least: int, what: str) -> list[yaml.Node]:
        """Nodes of a list of at least `least`, all different."""
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode) or tag_of(node) != "seq":
            self.no(line_of(node), field, f"a list of {what} is wanted, given {type_of(node)}")
            return []
        if len(node.value) < least:
            self.no(line_of(node), field, f"{len(node.value)} {what} given, at least {least} are needed")
        first: dict[str, int] = {}
        for i, item in enumerate(node.value):
            if (before := first.setdefault(repr(_content(item)), i)) != i:
                where = f", first in line {line_of(node.value[before])}"
                which = f": {item.value!r}" if isinstance(item, yaml.ScalarNode) else where
                self.no(line_of(item), f"{field}[{i}]", f"given twice{which}")
        return node.value

    def text(self, node, field: str) -> str:
        """A text that is more than white space, without that around it; "" where it is none. Of several lines the
        first keeps what it is indented by."""
        if node is None:
            return ""
        if tag_of(node) != "str":
            hint = "; put it in quotes" if isinstance(node, yaml.ScalarNode) and node.value else ""
            self.no(line_of(node), field, f"text is wanted, given {type_of(node)}{hint}")
        elif not node.value.strip():
            self.no(line_of(node), field, "the text is empty")
        else:
            lines = node.value.strip("\n").rstrip()
            return lines if "\n" in lines else lines.strip()
        return ""

    def whole(self, node, field: str, wanted: int) -> None:
        """The number `wanted`, however it is written (3, 0x3)."""
        if node is None:
            return
        try:
            value = yaml.constructor.SafeConstructor().construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, KeyError):
            value = None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != wanted:
            given = repr(node.value) if tag_of(node) == "str" else type_of(node)
            self.no(line_of(node), field, f"the number {wanted} is wanted, given {given}")


def _is_merge(key: yaml.Node) -> bool:
    return tag_of(key) == "merge"


def merges(node: yaml.MappingNode, depth: int = 0) -> dict[str, yaml.Node] | None:
    """What the mapping's merge keys (<<: *anchor) bring in, as YAML reads it: of two the first stays, an anchor's own
    field stands before what it merges. None where a merge names no fields."""
    out: dict[str, yaml.Node] = {}
    for key, value in node.value if depth < 8 else ():
        for source in (value.value if isinstance(value, yaml.SequenceNode) else [value]) if _is_merge(key) else ():
            inner = merges(source, depth + 1) if isinstance(source, yaml.MappingNode) else None
            if inner is None:
                return None
            own = {k.value: v for k, v in source.value if isinstance(k, yaml.ScalarNode) and not _is_merge(k)}
            out = {**inner, **own, **out}
    return out


def _content(node: yaml.Node, depth: int = 0):
    """What makes two nodes equal, as deep as a leaf's file goes."""
    if isinstance(node, yaml.ScalarNode) or depth == 5:
        return node.tag, node.value if isinstance(node, yaml.ScalarNode) else id(node)
    if isinstance(node, yaml.SequenceNode):
        return [_content(item, depth + 1) for item in node.value]
    own = {**(merges(node) or {}), **{str(k.value): v for k, v in node.value if not _is_merge(k)}}
    return sorted((name, repr(_content(value, depth + 1))) for name, value in own.items())


def line_of(node: yaml.Node) -> int:
    """The line where the node begins, from 1."""
    return _line(node.start_mark)


def _line(mark: yaml.Mark) -> int:
    """A mark's line as editors count: YAML ends lines at U+0085, U+2028 and U+2029 as well."""
    return mark.line + 1 if mark.buffer is None else mark.buffer.count("\n", 0, mark.pointer) + 1


def tag_of(node: yaml.Node) -> str:
    """YAML's name of its type: str, int, seq, map, ..."""
    return node.tag.rpartition(":")[2]


def type_of(node: yaml.Node) -> str:
    """What the node is, as a sentence says it."""
    shown = f" ({node.value})" if isinstance(node, yaml.ScalarNode) and node.value and tag_of(node) != "str" else ""
    return TYPES.get(tag_of(node), f"the type {node.tag}") + shown


def read_text(file: File, path: Path) -> str | None:
    """The file's text with line feeds as its only ends of lines, without a byte order mark; None where it is none."""
    try:
        data = path.read_bytes()
        return data.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        file.no(data[: error.start].count(b"\n") + 1, ".", f"not UTF-8 text (byte {error.start})")
    except OSError as error:
        file.no(1, ".", f"cannot be read: {error.strerror}")
    return None


def compose(file: File, path: Path) -> yaml.Node | None:
    """The file's tree of nodes; None where it is no YAML."""
    text = read_text(file, path)
    if text is None:
        return None
    lines = text.split("\n")
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        n, reason = _why(text, error)
        file.no(n, _field_at(lines, n), reason)
        return None
    if top is None:
        file.no(1, ".", "the file is empty")
    return top


def _why(text: str, error: Exception) -> tuple[int, str]:
    """The line at which the text stops to be YAML, and why."""
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deeply"
    unclosed = "end of stream" in reason  # then the place that tells is where it was opened
    mark = getattr(error, "context_mark" if unclosed else "problem_mark", None)
    at = mark.pointer if mark else getattr(error, "position", 0)
    n, begun = text.count("\n", 0, at) + 1, text[:at].rpartition("\n")[2]
    if mark and text[at : at + 1] == "\t":  # elsewhere, as in a block of text, a tab is as good as another character
        indents = not begun.strip()
        return n, (
            "a tab in the indentation; YAML is indented by spaces"
            if indents
            else "not YAML: a tab where a space is wanted"
        )
    return n, f"not YAML: {reason}"


def _field_at(lines: list[str], n: int) -> str:
    """The key nearest to line n, in it or above: where no node exists, the best name of the place."""
    keys = [found[1] for line in lines[:n] if (found := re.match(r"[\s-]*(\w+):", line))]
    return keys[-1] if keys else "."
