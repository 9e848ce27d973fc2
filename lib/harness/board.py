"""The board: headline claims first, for a page and for a terminal of 80 columns; details and controls folded away."""

from __future__ import annotations

import textwrap

import pandas as pd

from lib.harness.claims.claim import CLAIM, NO_NUMBER, NOT_SEEN
from lib.harness.claims.verdicts import NOT_RUN, VERDICTS

WIDTH = 80
NONE = (NO_NUMBER, NOT_SEEN)


def number(row) -> str:
    """Value [low, high], in three decimals; empty for what was not run."""
    return "" if row.ours != row.ours else f"{row.ours:.3f} [{row.low:.3f}, {row.high:.3f}]"


def said(table: pd.DataFrame) -> str:
    """How many rows ended with each verdict: "3 holds, 1 fails"."""
    counts = table.verdict.value_counts()
    return ", ".join(f"{counts[v]} {v}" for v in (*VERDICTS, "smoke") if v in counts) or "none"


def markdown(table: pd.DataFrame) -> str:
    """Headline claims of every paper, one table."""
    heads = table[table.headline & (table.role == CLAIM)]
    return page(heads.assign(claim=heads.paper + " " + heads.claim))


def folded(table: pd.DataFrame) -> str:
    """One paper's other claims and its controls, each behind a line that says how they ended."""
    parts = []
    for name, rows in (
        ("more claims", table[~table.headline & (table.role == CLAIM)]),
        ("controls", table[table.role != CLAIM]),
    ):
        if len(rows):
            parts.append(
                f"<details><summary>{len(rows)} {name}: {said(rows)}</summary>\n\n{page(rows)}\n\n</details>\n"
            )
    return "\n".join(parts)


def page(table: pd.DataFrame) -> str:
    """Claims as a narrow table: what was published only where a number was, why a verdict is open beneath it."""
    rows = pd.DataFrame({
        "claim": [f"**{r.claim}** {r.statement}" for r in table.itertuples()],
        "published": ["–" if r.published in NONE else r.published for r in table.itertuples()],
        "ours": [number(r).replace(" ", "\u00a0") for r in table.itertuples()],  # one line
        "n": table.n.to_numpy(),
        "verdict": [f"**{r.verdict}**{f'; {r.why}' if r.why else ''}" for r in table.itertuples()],
    })  # fmt: skip
    return plain_table(rows if (rows.published != "–").any() else rows.drop(columns="published"))


def plain_table(table: pd.DataFrame) -> str:
    """Markdown without padding, so that one long cell does not widen every line of the file."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(str(x).replace('|', chr(92) + '|') for x in line)} |" for line in lines)


def text(table: pd.DataFrame) -> str:
    """The board of a terminal: verdict, value and statement of every headline, the rest counted."""
    lines = []
    for paper, rows in table.groupby("paper", sort=False):
        heads, more = rows[rows.headline & (rows.role == CLAIM)], rows[~rows.headline & (rows.role == CLAIM)]
        if set(rows.verdict) == {NOT_RUN}:
            lines += [f"{paper}: not run", ""]
            continue
        lines.append(f"{paper}: {rows.seeds.max()} seed(s), preset {rows.preset.iloc[0]}")
        for r in heads.itertuples():
            lines.append(f"  {r.verdict:17}{r.claim:21} {number(r)}")
            lines += _wrapped(r.statement) + (_wrapped(f"({r.why})") if r.why else [])
        lines += textwrap.wrap(f"and {len(more)} details: {said(more)}", WIDTH - 2, initial_indent="  ",
            subsequent_indent="  ") + [""]  # fmt: skip
    return "\n".join(lines)


def beside(table: pd.DataFrame) -> str:
    """`claims.beside` for a terminal: this run's value, the cited interval, and whether they agree."""
    lines = []
    for r in table.itertuples(index=False):
        claim, statement, _, here, cited, low, high, verdict, agrees = r
        mine = "not run" if here != here else f"{here:.3f}"
        theirs = "nothing cited" if cited != cited else f"cited {cited:.3f} [{low:.3f}, {high:.3f}], {verdict}"
        lines += [f"  {claim:21} {mine:9} {theirs}", *_wrapped(f"{agrees}: {statement}")]
    return "\n".join(lines)


def _wrapped(statement: str) -> list[str]:
    return textwrap.wrap(statement, WIDTH, initial_indent=" " * 19, subsequent_indent=" " * 19)
