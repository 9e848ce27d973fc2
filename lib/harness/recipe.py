"""A new paper's files, written from the texts in recipe_files/: a study that runs, whose parts are then replaced one by
one. Whatever lists papers finds a new one by its notebook and by the names of these files."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import nbformat

from lib.harness import notebooks, paths

TEXTS = Path(__file__).parent / "recipe_files"
FILES = {  # text -> where it goes, from the root of the repository
    "preset": "lib/harness/presets/{key}.py",
    "claims": "lib/harness/claims/{key}.py",
    "init": "lib/studies/{key}/__init__.py",
    "study": "lib/studies/{key}/study.py",
    "footprint": "lib/studies/{key}/footprint.py",
    "test": "tests/studies/{key}/test_{key}.py",
    "paper": "results/paper/{key}.csv",
}
LONGEST = 20  # characters of a key: the lines of the texts stay within 120
HOW = """{files}

Next, in this order (notebooks/README.md says more):
  plumbline run {key} --preset smoke    # runs as it is, in seconds
  {claims}    # what the paper claims, with controls, before any run
  {preset}    # its settings, each with its source
  {study}    # its method in the place of IPO, its test beside it"""


def write(key: str, title: str = "", arxiv: str = "") -> str:
    """Write everything that the paper `key` needs, and its row on the map of notebooks; what was written and what is
    next, in words. ValueError before anything is written for a key, title or number that cannot be."""
    number, title = _number(key), title or key.replace("_", " ").upper()
    _check(key, title, arxiv)
    words = {"KEY": key, "NN": number, "TITLE": title, "LINK": f" ([arXiv {arxiv}](https://arxiv.org/abs/{arxiv}))"}
    words["LINK"] *= bool(arxiv)
    texts = {paths.ROOT / place.format(key=key): _filled(name, words) for name, place in FILES.items()}
    page = paths.NOTEBOOKS / "README.md"
    texts[page] = _on_the_map(page.read_text(encoding="utf-8"), words)
    book, cells = paths.NOTEBOOKS / f"{number}_{key}.ipynb", _notebook(_filled("notebook", words))
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    nbformat.write(cells, book)
    notebooks.clean(book)
    written = [str(p.relative_to(paths.ROOT)) for p in (book, *texts)]
    at = {name: place.format(key=key) for name, place in FILES.items()}
    return HOW.format(files="\n".join(written), key=key, **at)


def _number(key: str) -> str:
    """The first free number of a notebook: a whole ten, else the next one that is left."""
    there = {p.name[:2] for p in paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")}
    free = [n for n in (*range(10, 90, 10), *range(11, 90)) if str(n) not in there]
    if not free:
        raise ValueError(f"there is no number left below 90 for a notebook of {key}")
    return str(free[0])


def _check(key: str, title: str, arxiv: str) -> None:
    """ValueError in one sentence."""
    if not re.fullmatch(rf"[a-z][a-z0-9_]{{1,{LONGEST - 1}}}", key) or keyword.iskeyword(key) or key == "all":
        raise ValueError(
            f"a paper's key is 2 to {LONGEST} small letters, digits and _, begins with a letter and is no word of "
            f"Python's, nor all; given {key!r}"
        )
    places = [*(place.format(key=key) for place in FILES.values()), f"lib/studies/{key}", f"lib/studies/{key}.py"]
    taken = [p for p in places if (paths.ROOT / p).exists()]
    taken += [f"notebooks/{p.name}" for p in paths.NOTEBOOKS.glob(f"[0-9][0-9]_{key}.ipynb")]
    if taken:
        raise ValueError(f"there is something called {key!r} already: {taken[0]}")
    if not re.fullmatch(r"[^\n\"'\\|]{1,80}", title):
        raise ValueError(f"a title is one line of at most 80 characters without quotes, \\ and |; given {title!r}")
    if arxiv and not re.fullmatch(r"\d{4}\.\d{4,5}", arxiv):
        raise ValueError(f"an arXiv number is written 2411.01493, given {arxiv!r}")


def _filled(name: str, words: dict[str, str]) -> str:
    """A text with its @WORDS@ filled in."""
    text = (TEXTS / f"{name}.txt").read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _notebook(text: str) -> nbformat.NotebookNode:
    """Cells out of a text: each begins with a line `### kind id tags`."""
    cells = []
    for head, source in re.findall(r"^### ([^\n]*)\n(.*?)(?=\n### |\Z)", text.strip(), re.M | re.S):
        kind, name, *tags = head.split()
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        cells.append(new(source, id=name, metadata={"tags": tags} if tags else {}))
    return nbformat.v4.new_notebook(cells=cells)


def _on_the_map(page: str, words: dict[str, str]) -> str:
    """notebooks/README.md with a row of the paper, where its number has it."""
    lines = page.splitlines(keepends=True)
    rows = [(k, m[1]) for k, line in enumerate(lines) if (m := re.match(r"\| \[(\d\d)_", line))]
    at = next((k for k, number in rows if number > words["NN"]), rows[-1][0] + 1)
    name = "{NN}_{KEY}".format(**words)
    seen = "two losses on a model's own answers, compared by a rule, beside two controls"
    link = words["LINK"].strip(" ()").replace("arXiv ", "")
    lines.insert(at, f"| [{name}]({name}.ipynb) | {words['TITLE']}{', ' + link + ')' if link else ''} | {seen} |\n")
    return "".join(lines)
