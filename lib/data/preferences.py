"""People's preferences: a prompt with a chosen and a rejected answer, out of rows in any known form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lib.data.dialogues import Messages, Unusable, as_text
from lib.data.preference_forms import FORMS, HELPSTEER, extreme, given, lacking, scored
from lib.data.rows import told
from lib.data.sources import Place


class Comparison(NamedTuple):
    """A conversation up to the user's turn, with the answer to prefer and the one to avoid."""

    prompt: Messages
    chosen: str
    rejected: str

    @property
    def text(self) -> str:
        """The prompt to read: a lone turn as it is, several with their roles."""
        return as_text(self.prompt)


Dropped = list[tuple[Place, Unusable]]


def pairs_of(rows: Sequence[tuple[Place, dict]], name: str) -> tuple[list[tuple[Place, Comparison]], Dropped, str]:
    """(comparisons with their places, rows that give none, the form's name). ValueError for no known form."""
    form = form_of([row for _, row in rows], FORMS, name, "preferences")
    out, dropped = _by_row(rows, form) if form.read else _by_helpfulness(rows)
    return out, dropped, form.name


def form_of(rows: Sequence[dict], forms: Sequence, name: str, what: str):
    """The first form that fits half of the rows, else the one that fits most."""
    fits = [sum(not lacking(row, form.fields) for row in rows) for form in forms]
    best = next((i for i, n in enumerate(fits) if 2 * n >= len(rows)), max(range(len(fits)), key=fits.__getitem__))
    if not fits[best]:
        have = sorted({str(field) for row in rows for field in row if given(row, field)})
        known = "; ".join(f"{', '.join(form.fields)} ({form.name})" for form in forms)
        raise ValueError(f"{name} has the fields {told(have)}; {what} need those of one form: {known}")
    return forms[best]


def _by_row(rows: Sequence[tuple[Place, dict]], form: Any) -> tuple[list[tuple[Place, Comparison]], Dropped]:
    out, dropped = [], []
    for line, row in rows:
        try:
            if missing := lacking(row, form.fields):
                raise Unusable(f"lacks {', '.join(missing)}")
            out.append((line, _differing(*form.read(row))))
        except Unusable as e:
            dropped.append((line, e))
    return out, dropped


def _by_helpfulness(rows: Sequence[tuple[Place, dict]]) -> tuple[list[tuple[Place, Comparison]], Dropped]:
    """Of each prompt the most and the least helpful answer."""
    answers: dict[str, list[tuple[float, str]]] = {}
    prompts: dict[str, tuple[Place, Messages]] = {}
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
            out.append((line, _differing(prompt, *extreme(answers[key], "helpfulness"))))
        except Unusable as e:
            dropped.append((line, e))
    return out, dropped


def _differing(prompt: Messages, chosen: str, rejected: str) -> Comparison:
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():
            raise Unusable(f"the {side} answer is empty")
    if chosen.strip() == rejected.strip():
        raise Unusable("the two answers are the same", harmless=True)
    if not prompt or prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        raise Unusable("the prompt does not end with a turn of the user")
    return Comparison(prompt, chosen, rejected)
