"""People's preferences: a prompt with a chosen and a rejected answer, out of files and data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lib.data.dialogues import Messages, Unusable, as_text
from lib.data.preference_forms import FORMS, HELPSTEER, Form, extreme, given, lacking, scored
from lib.data.rows import read_rows

LIMIT = 0.1  # share of rows with errors above which a source is taken to be misread


class Comparison(NamedTuple):
    """A conversation up to the user's turn, with the answer to prefer and the one to avoid."""

    prompt: Messages
    chosen: str
    rejected: str

    @property
    def text(self) -> str:
        """The prompt to read: a lone turn as it is, several with their roles."""
        return as_text(self.prompt)


class Pairs(NamedTuple):
    """The comparisons of a source, and the rows that were dropped: (line, reason)."""

    rows: list[Comparison]
    dropped: list[tuple[int, str]] = []
    source: str = ""

    def summary(self) -> str:
        """One line: how many pairs, how many rows were dropped and why."""
        reasons = Counter(reason for _, reason in self.dropped)
        first = {reason: line for line, reason in reversed(self.dropped)}
        why = "; ".join(f"{n} x {reason} (line {first[reason]})" for reason, n in reasons.most_common(5))
        more = f"; {len(reasons) - 5} other reasons" if len(reasons) > 5 else ""
        return f"{self.source}: {len(self.rows)} pairs, {len(self.dropped)} rows dropped" + f": {why}{more}" * bool(why)


def load_pairs(source: Path | str, *, limit: float = LIMIT) -> Pairs:
    """Comparisons of a file (`read_rows`: JSON lines, JSON, CSV, Parquet) or of a data set, "folder or hub id:split".

    The form is told by the fields (`preference_forms.FORMS`): TRL's four forms, HH-RLHF, UltraFeedback (binarized or
    not), Nectar, HelpSteer (1 to 3), TL;DR comparisons, SHP, PKU-SafeRLHF, Chatbot Arena, BIG-bench's target_scores.
    The prompt is the whole conversation up to the answer. Rows that cannot be used are dropped and named; ties and
    equal answers are dropped too, but are no errors.
    FileNotFoundError, or ValueError naming file, lines and reasons: no known form, no row to use, or more rows with
    errors than one and than the share `limit`.
    """
    rows, name, unit = _rows(source)
    form = _form([row for _, row in rows], name)
    out, dropped = _by_row(rows, form) if form.read else _by_helpfulness(rows)
    errors = [(line, str(e)) for line, e in dropped if not e.harmless]
    shown = "; ".join(f"{unit} {line} {reason}" for line, reason in errors[:5]) + "; ..." * (len(errors) > 5)
    if len(errors) > max(1, limit * len(rows)):
        raise ValueError(
            f"{name}: {len(errors)} of {len(rows)} rows cannot be used, more than {limit:.0%} ({shown}); "
            f"they were read as {form.name}"
        )
    if not out:
        reasons = shown or "; ".join(f"{unit} {line} {e}" for line, e in dropped[:5])
        raise ValueError(f"{name} holds no pair to learn from: {reasons}")
    return Pairs(out, [(line, str(e)) for line, e in dropped], name)


def load_sets(sources: Sequence[str], folder: Path) -> dict[str, Pairs]:
    """`load_pairs` of each source but "none", files as seen from `folder`."""
    out = {}
    for s in sources:
        path = folder / Path(s).expanduser()
        if s != "none":
            out[s] = load_pairs(s if ":" in s and not path.is_file() else path)
    return out


def _rows(source: Path | str) -> tuple[list[tuple[int, dict]], str, str]:
    path = Path(source).expanduser()
    name, colon, part = str(source).rpartition(":")
    if path.is_file() or not colon:
        if not path.is_file():
            raise FileNotFoundError(
                f"no file of preference pairs at {path}; give JSON lines with prompt, chosen and rejected, a "
                "BIG-bench task.json, or a data set's id and split as id:split"
            )
        return read_rows(path), path.name, "row" if path.suffix == ".parquet" else "line"
    if not name or not part:
        raise ValueError(f"a data set is given as id:split, given {str(source)!r}")
    from datasets import load_dataset

    rows = [dict(row) for row in load_dataset(name, split=part)]
    if not rows:
        raise ValueError(f"{source} holds no row")
    return list(enumerate(rows, 1)), str(source), "row"


def _form(rows: Sequence[dict], name: str) -> Form:
    """The first form that fits half of the rows, else the one that fits most."""
    fits = [sum(not lacking(row, form.fields) for row in rows) for form in FORMS]
    best = next((i for i, n in enumerate(fits) if 2 * n >= len(rows)), max(range(len(fits)), key=fits.__getitem__))
    if not fits[best]:
        have = sorted({str(field) for row in rows for field in row if given(row, field)})
        known = "; ".join(f"{', '.join(form.fields)} ({form.name})" for form in FORMS)
        raise ValueError(
            f"{name} has the fields {', '.join(have) or 'none'}; preferences need those of one form: {known}"
        )
    return FORMS[best]


Dropped = list[tuple[int, Unusable]]


def _by_row(rows: Sequence[tuple[int, dict]], form: Form) -> tuple[list[Comparison], Dropped]:
    out, dropped = [], []
    for line, row in rows:
        try:
            if missing := lacking(row, form.fields):
                raise Unusable(f"lacks {', '.join(missing)}")
            out.append(_differing(*form.read(row)))
        except Unusable as e:
            dropped.append((line, e))
    return out, dropped


def _by_helpfulness(rows: Sequence[tuple[int, dict]]) -> tuple[list[Comparison], Dropped]:
    """Of each prompt the most and the least helpful answer."""
    answers: dict[str, list[tuple[float, str]]] = {}
    prompts: dict[str, tuple[int, Messages]] = {}
    dropped: Dropped = []
    for line, row in rows:
        try:
            if missing := lacking(row, HELPSTEER):
                raise Unusable(f"lacks {', '.join(missing)}")
            prompt, answer, helpfulness = scored(row)
            if not answer.strip():
                raise Unusable("response is empty")
        except Unusable as e:
            dropped.append((line, e))
            continue
        key = repr(prompt)
        prompts.setdefault(key, (line, prompt))
        answers.setdefault(key, []).append((helpfulness, answer))
    out = []
    for key, (line, prompt) in prompts.items():
        try:
            out.append(_differing(prompt, *extreme(answers[key], "helpfulness")))
        except Unusable as e:
            dropped.append((line, e))
    return out, sorted(dropped, key=lambda d: d[0])


def _differing(prompt: Messages, chosen: str, rejected: str) -> Comparison:
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():
            raise Unusable(f"the {side} answer is empty")
    if chosen.strip() == rejected.strip():
        raise Unusable("the two answers are the same", harmless=True)
    if not prompt or prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        raise Unusable("the prompt does not end with a turn of the user")
    return Comparison(prompt, chosen, rejected)
