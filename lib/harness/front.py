"""What is found, in words: each headline claim as a clause, each paper as two sentences and a row of the front page.

The clauses say what is claimed; which of them hold is read from the claims table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import nbformat
import pandas as pd

from lib.harness import board, claims, notebooks, runner
from lib.harness.claims.claim import CLAIM
from lib.harness.claims.verdicts import CANNOT, FAILS, HOLDS, NOT_RUN, OPEN, SAME

PLAIN = {  # what a headline claims, to be read after "that"
    "qdpo": {
        "C1a": "accuracy hides the tokens that quantization flips",
        "C2a": "a flipped token explains the divergence after it",
        "C3c": "labels need no annotator",
        "C4": "QDPO repairs what quantization broke",
        "C5": "QDPO beats distillation",
    },
    "lab": {
        "A6": "prompts of one leaf cover more of the taxonomy",
        "B1": "the teacher's judges make the data purer",
        "C1": "replay prevents forgetting",
        "C5": "phases with replay beat all at once",
        "K1": "all at once is no worse than phases with replay",
    },
    "attribute_control": {
        "T1 oracle": "the method is less toxic than plain fine-tuning",
        "U1": "the method costs general text nothing",
        "A1": "adapting beats regularising everywhere",
        "B2": "the method is less toxic than RL",
        "P1": "training in parallel is as clean as in turns",
    },
    "mrpo": {
        "E1": "a good second reference lets MRPO beat DPO",
        "E2": "MRPO beats a sum of DPO losses",
        "E3": "clipping is needed if the second reference is wrong",
        "E4": "adaptive weights are no worse than equal ones",
        "K0": "a good second reference alone is no worse than MRPO",
    },
    "sea": {
        "O1 language": "online beats offline with a language model",
        "O3 language": "SEA beats passive with a language model",
        "R1 exact noisy hard 2 a round": "SEA needs fewer queries than passive",
        "R2 exact noisy hard 2 a round": "SEA needs fewer queries at equal steps too",
        "R3 exact noisy hard 2 a round": "chosen pairs need fewer queries than random ones",
    },
}
EXACT = " (exact world)"
MEANING = """- **holds**: the whole interval lies on the claimed side, and the effect is of a size worth having; **fails**: on the other side.
- **no difference**: the whole interval is smaller than what is worth having, which is fixed before the runs.
- **not resolved**: the study is too small to say. That is a result too, and the table of claims says what it could see.
- **cannot tell here**: a control that has to respond did not, or the arm has a known defect. **not run**: no cited run yet.
"""  # noqa: E501


def heads(table: pd.DataFrame) -> pd.DataFrame:
    """The headline claims."""
    return table[table.headline & (table.role == CLAIM)]


def clause(paper: str, claim: str, statement: str = "") -> str:
    """What a headline claims, after "that": its own words here, else its statement up to the colon."""
    where = next((c.dataset for c in claims.PAPERS[paper].CLAIMS if c.id == claim), "")
    words = PLAIN.get(paper, {}).get(claim) or statement.partition(":")[0]
    return words + EXACT if where.startswith("exact") else words


def finding(rows: pd.DataFrame) -> tuple[str, str]:
    """A paper's headlines as two sentences: what is decided, and what is not."""
    said = {v: [clause(r.paper, r.claim, r.statement) for r in rows.itertuples() if r.verdict == v]
            for v in (HOLDS, FAILS, SAME, OPEN, CANNOT, NOT_RUN)}  # fmt: skip
    decided = [
        text + _all(said[v], word)
        for v, text, word in (
            (HOLDS, "it holds ", "that "),
            (FAILS, "the opposite is seen of ", "“"),
            (SAME, "no difference is seen in ", "“"),
        )
        if said[v]
    ]
    left = [
        text + _all(said[v], word)
        for v, text, word in (
            (OPEN, "it is not resolved ", "whether "),
            (CANNOT, "it cannot be told here ", "whether "),
            (NOT_RUN, "it was not run ", "whether "),
        )
        if said[v]
    ]
    return _sentence(decided or ["no headline claim is decided"]), _sentence(left or ["nothing is left open"])


def _all(clauses: Sequence[str], word: str) -> str:
    """Clauses in a row, each after its word or in quotes: "that a, that b and that c"."""
    said = [f"{word}{c}”" if word == "“" else word + c for c in clauses]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def _sentence(parts: Sequence[str]) -> str:
    """Parts as one sentence; said once where all are about exact worlds."""
    text = "; ".join(parts)
    if EXACT in text and text.count(EXACT) == sum(text.count(w) for w in ("that ", "whether ", "“")):
        text = f"in exact worlds {text.replace(EXACT, '')}"
    return f"{text[0].upper()}{text[1:]}."


def about(paper: str) -> dict:
    """Of a paper's notebook: name and title (before and after the colon of its heading), its arXiv link, its file."""
    path = notebooks.find(paper)
    text = nbformat.read(path, 4).cells[0].source
    name, _, title = text.splitlines()[0].removeprefix("# ").partition(": ")
    link = re.search(r"\[arXiv [\d.]+\]\((\S+?)\)", text)
    return {"name": name, "title": title, "link": link[1] if link else "", "file": path.name}


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def markdown(table: pd.DataFrame, root: str = "") -> str:
    """The rows of the front page: paper, what was found, how its headlines ended, where to read on; `root` leads from
    the page to the root of the repository."""
    rows = []
    for paper, mine in heads(table).groupby("paper", sort=False):
        a = about(paper)
        rows.append({
            "paper": f"[{a['name']}]({a['link']})",
            "what we found": finding(mine)[0],
            "verdicts": board.said(mine),
            "read on": f"[evidence]({root}results/README.md#{anchor(a['name'])}), "
            f"[notebook]({root}notebooks/{a['file']})",
        })  # fmt: skip
    return board.plain_table(pd.DataFrame(rows))


COMMANDS = """```
make reproduce PAPER=mrpo   # about {small} minutes after the install: one seed beside the cited evidence
make test                   # about ten minutes: every test, on the CPU, offline
make lab                    # at once: the notebooks in JupyterLab, 00_start_here first
```
"""
FIGURE = "results/figures/headlines.svg"


def page(table: pd.DataFrame) -> str:
    """What stands first in the root README: the figure, three commands, a row a paper, what the verdicts mean."""
    models = "SmolLM2-135M-Instruct on two CPU cores"
    return "\n".join([
        f"![{alt(table)}]({FIGURE})\n",
        COMMANDS.format(small=round(runner.BUDGET["small"] / 60)),
        f"What we found at reduced scale ({models}) and in small worlds whose truth is known exactly:\n",
        markdown(table),
        "",
        MEANING,
    ])  # fmt: skip


def alt(table: pd.DataFrame) -> str:
    """The words for who cannot see the figure of all headlines."""
    mine = heads(table)
    return f"{len(mine)} headline claims with intervals, grouped by paper: {board.said(mine)}"
