"""Texts of a corpus: what a model writes after a prompt, or a text by itself, with its label where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lib.data.dialogues import Messages, Unusable, message, messages, transcript
from lib.data.preference_forms import given, lacking, number, prompt_of, text

TOXIC = 5.5  # ToxiGen, lm-eval's rule: toxic where people's and the model's ratings, 1 to 5 each, add up to more


class Passage(NamedTuple):
    """A text after a prompt (none for a text by itself); label: how much of the attribute it has, 0 to 1, or a score of
    the data set's own; None where nothing is said."""

    prompt: Messages
    text: str
    label: float | None = None


class Form(NamedTuple):
    """A form, the fields that tell it, and its reader, which gives a Passage or raises Unusable."""

    name: str
    fields: tuple[str, ...]
    read: Callable[[dict], Passage]


def _annotated(row: dict) -> Passage:
    score = sum(number(row[k], k) for k in ("toxicity_ai", "toxicity_human"))
    return Passage((), text(row["text"], "text"), float(score > TOXIC))


def _generated(row: dict) -> Passage:
    """ToxiGen's statements; what led to them is a list of others, and no prompt to learn."""
    return Passage((), text(row["generation"], "generation"), number(row["roberta_prediction"], "roberta_prediction"))


def _continued(row: dict) -> Passage:
    """RealToxicityPrompts: both parts are objects of a text and its scores, which may be null."""
    for part in ("prompt", "continuation"):
        if not isinstance(row[part], dict) or not isinstance(row[part].get("text"), str):
            raise Unusable(f"{part} is {row[part]!r:.40}, not an object with a text")
    toxic = row["continuation"].get("toxicity")
    label = None if toxic is None else number(toxic, "continuation.toxicity")
    return Passage((message("user", row["prompt"]["text"]),), row["continuation"]["text"], label)


def answer(value: object, field: str) -> str:
    """The one answer that a field holds: a text, or the assistant's one message."""
    if isinstance(value, str):
        return value
    turns = messages(value, field)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise Unusable(f"{field} is more than one answer of the assistant")
    return turns[0]["content"]


def _completed(field: str, label: str | None = None) -> Callable[[dict], Passage]:
    def read(row: dict) -> Passage:
        found = None
        if label and isinstance(row[label], bool):  # TRL's unpaired preferences
            found = float(row[label])
        elif label:
            found = number(row[label], label)
        return Passage(prompt_of(row), answer(row[field], field), found)

    return read


def _plain(row: dict) -> Passage:
    value = text(row["text"], "text")
    if not value.strip():
        raise Unusable("text is empty", harmless=True)  # WikiText has an empty line after each paragraph
    return Passage((), value)


FORMS = (  # the first that fits is taken
    Form("ToxiGen, annotated", ("text", "toxicity_ai", "toxicity_human"), _annotated),
    Form("ToxiGen", ("generation", "roberta_prediction"), _generated),
    Form("RealToxicityPrompts", ("prompt", "continuation"), _continued),
    Form("unpaired preference", ("prompt", "completion", "label"), _completed("completion", "label")),
    Form("HelpSteer", ("prompt", "response", "helpfulness"), _completed("response", "helpfulness")),
    Form("prompt and completion", ("prompt", "completion"), _completed("completion")),
    Form("prompt and response", ("prompt", "response"), _completed("response")),
    Form("prompt and output", ("prompt", "output"), _completed("output")),
    Form("prompt and label, TL;DR", ("prompt", "label"), _completed("label")),
    Form("text", ("text",), _plain),
)


def passage(row: dict, form: Form) -> Passage:
    """The passage of a row; Unusable if it has none, or an empty text."""
    if missing := lacking(row, form.fields):
        raise Unusable(f"lacks {', '.join(missing)}")
    found = form.read(row)
    if not found.text.strip():
        raise Unusable("the text is empty")
    return found


# ---- dialogues

TALKS = ("messages", "conversations", "conversation", "dialogue")


def dialogue(row: dict) -> Messages:
    """A conversation that ends with an answer: messages, ShareGPT's conversations, a transcript, or a prompt and its
    completion. What the user says after the last answer is left out. Unusable says what is wrong."""
    field = next((f for f in TALKS if given(row, f)), None)
    side = next((f for f in ("completion", "response", "output") if given(row, f)), None)
    if field is not None:
        turns = messages(row[field], field)
    elif side is not None:
        turns = (*prompt_of(row), message("assistant", answer(row[side], side)))
    elif isinstance(row.get("text"), str) and transcript(row["text"]):
        turns = transcript(row["text"])
    else:
        raise Unusable(f"has no conversation; {', '.join(TALKS)} or a prompt with its completion is one")
    last = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=None)
    if last is None:
        raise Unusable("has no answer of the assistant")
    turns = turns[: last + 1]
    if not turns[-1]["content"].strip():
        raise Unusable("the last answer is empty")
    if not any(t["role"] == "user" for t in turns):
        raise Unusable("there is no turn of the user")
    return turns
