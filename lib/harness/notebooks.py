"""Notebooks as files: find, clean, check against the house form, read their parameters, copy executed ones for
readers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat

from lib.harness import paths, presets
from lib.harness.presets.base import nearest

HEADINGS = ["# ", "## 0 Setup", "## 1 The idea", "## 2 Data", "## 3 Models", "## 4 Run", "## 5 Evaluate",
    "## 6 Results",
            "## 7 What differs from the paper", "## References"]  # fmt: skip
MOST_CELLS, MOST_LINES, MOST_BYTES = 25, 25, 1_000_000
PARAMETER = re.compile(r"^([A-Z][A-Z0-9_]*) = ([^=]+?)  # [^=]+$")


def papers() -> list[str]:
    """Keys of the papers that have a notebook, in the order of their numbers (10 to 89)."""
    return [p.stem[3:] for p in sorted(paths.NOTEBOOKS.glob("[1-8][0-9]_*.ipynb"))]


def find(paper: str) -> Path:
    """The notebook of a paper; ValueError naming those there are."""
    found = sorted(paths.NOTEBOOKS.glob(f"[0-9][0-9]_{paper}.ipynb"))
    if len(found) != 1:
        raise ValueError(f"no paper is called {paper!r}, there are {', '.join(papers())}{nearest(paper, papers())}")
    return found[0]


def parameters(path: Path) -> dict:
    """Name -> default of the parameters cell, which holds literals only."""
    cells = [c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path.name} has {len(cells)} cells tagged parameters, it needs exactly one")
    return {a.targets[0].id: ast.literal_eval(a.value) for a in ast.parse(cells[0].source).body}


def clean(path: Path) -> None:
    """Strip outputs, counts and editor state; keep cell ids and tags."""
    nb = nbformat.read(path, 4)
    for cell in nb.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nb.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(nb, path)


def check(path: Path) -> list[str]:
    """What keeps a notebook from the house form; empty if nothing does."""
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    bad = []
    if nb.metadata.get("kernelspec", {}).get("name") != "python3" or "widgets" in nb.metadata:
        bad.append("kernelspec is python3 and there is no widget state")
    ids = [c.get("id", "") for c in nb.cells]
    bad += [f"cell id {i!r} is not a word" for i in ids if not re.fullmatch(r"[a-z0-9-]+", i)]
    if len(set(ids)) != len(ids):
        bad.append("two cells share an id")
    if len(code) > MOST_CELLS:
        bad.append(f"{len(code)} code cells, at most {MOST_CELLS}")
    for c in code:
        where = f"cell {c.get('id')}"
        if c.outputs or c.execution_count is not None:
            bad.append(f"{where} has outputs: run `plumbline notebooks clean`")
        if len(c.source.splitlines()) > MOST_LINES:
            bad.append(f"{where} has {len(c.source.splitlines())} lines, at most {MOST_LINES}")
        if re.search(r"^(def|class) |pip install", c.source, re.M):
            bad.append(f"{where} defines or installs something: that belongs in lib or pyproject.toml")
        if re.search(r"[\"']/(home|root|tmp|work|Users|mnt)/", c.source):
            bad.append(f"{where} has an absolute path")
    if re.match(r"[1-8]\d_", path.name):
        bad += _paper_form(path, nb, code)
    return [f"{path.name}: {b}" for b in bad]


def _paper_form(path: Path, nb, code) -> list[str]:
    lines = [
        line for c in nb.cells if c.cell_type == "markdown" for line in c.source.splitlines() if re.match(r"##? ", line)
    ]
    bad = []
    if len(lines) != len(HEADINGS) or any(not got.startswith(want) for got, want in zip(lines, HEADINGS)):
        bad.append(f"headings are {lines}, they should be {HEADINGS}")
    cells = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        return [*bad, f"{len(cells)} cells tagged parameters, exactly one is needed"]
    known = {"PRESET", "SEED"} | {name.upper() for name in presets.settings(path.stem[3:])}
    for line in cells[0].source.splitlines():
        match = PARAMETER.match(line)
        if not match:
            bad.append(f"parameter line {line!r} is not `NAME = literal  # help` with one =")
        elif match[1] not in known:
            bad.append(f"parameter {match[1]} is no setting of presets/{path.stem[3:]}.py")
    return bad


def show(path: Path) -> str:
    """The notebook as plain text, for review."""
    return "\n\n".join(f"--- {c.get('id')} ({c.cell_type})\n{c.source}" for c in nbformat.read(path, 4).cells)


def executed_copy(source: Path, target: Path) -> None:
    """Copy an executed notebook for readers: no progress lines, no run-time metadata, no path of the machine."""
    nb = nbformat.read(source, 4)
    nb.metadata = {k: v for k, v in nb.metadata.items() if k in ("kernelspec", "language_info")}
    for cell in nb.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            seen = [o for o in cell.outputs if o.output_type == "display_data" and "image/png" in o.data]
            cell.outputs = [
                o for o in cell.outputs if not (seen and o.output_type == "execute_result" and "image/png" in o.data)
            ]  # a figure that is its cell's value
            for o in cell.outputs:
                o.get("metadata", {}).clear()
    text = nbformat.writes(nb).replace(str(paths.ROOT) + "/", "")
    if len(text) > MOST_BYTES:
        raise ValueError(
            f"{target.name} would be {len(text)} bytes, at most {MOST_BYTES}: draw fewer or smaller figures"
        )
    target.write_text(text)
