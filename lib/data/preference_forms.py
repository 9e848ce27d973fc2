"""How the known data sets write one preference: each form's fields, and what it says in (prompt, chosen, rejected).

A reader takes a row and gives (prompt messages, chosen answer, rejected answer), or raises Unusable with the reason.
Signs and codes are those of the data sets' cards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import NamedTuple

from lib.data.dialogues import Messages, Unusable, divide, joined, message, messages, transcript
from lib.data.text import words

PROMPTS = ("prompt", "question", "instruction", "input", "history", "context", "conversations", "conversation")
SCORES = (("score_chosen", "score_rejected"), ("chosen-rating", "rejected-rating"), ("chosen_score", "rejected_score"))
Read = tuple[Messages, str, str]


class Form(NamedTuple):
    """A form and the fields that tell it; "prompt" stands for any of PROMPTS."""

    name: str
    fields: tuple[str, ...]
    read: Callable[[dict], Read] | None  # None: a row is one scored answer (`scored`), a pair is spread over rows


def given(row: dict, field: str) -> bool:
    """Whether the row has a value there; tables write a missing one as null."""
    return row.get(field) is not None


def lacking(row: dict, fields: Sequence[str]) -> list[str]:
    """The fields that the row has no value for."""
    return [f for f in fields if not (any(given(row, p) for p in PROMPTS) if f == "prompt" else given(row, f))]


def number(value: object, field: str) -> float:
    """A finite number, also out of a text: "10" is 10, so that it is more than "9". Unusable names the field."""
    try:
        if not isinstance(value, bool) and math.isfinite(found := float(value)):  # type: ignore[arg-type]
            return found
    except (TypeError, ValueError):
        pass
    raise Unusable(f"{field} is {value!r:.40}, not a number")


def one_of(value: object, field: str, codes: Sequence[int]) -> int:
    """A number that is one of the codes."""
    if (found := number(value, field)) not in codes:
        raise Unusable(f"{field} is {value!r:.40}, not {' or '.join(map(str, codes))}")
    return int(found)


def prompt_of(row: dict) -> Messages:
    """The conversation to answer: the first of PROMPTS that is there, after the text of a "system" column."""
    field = next((f for f in PROMPTS if given(row, f)), None)
    if field is None:
        raise Unusable("lacks prompt")
    turns = messages(row[field], field)
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        turns = turns[:-1]  # "Assistant:" at the end of a transcript asks for the answer
    system = row.get("system")
    if isinstance(system, str) and system.strip() and turns[0]["role"] != "system":
        turns = (message("system", system), *turns)
    return turns


def extreme(options: Sequence[tuple[float, str]], what: str) -> tuple[str, str]:
    """(best, worst) of scored answers; Unusable for a tie of all, or fewer than two."""
    if len(options) < 2:
        raise Unusable("has fewer than two answers to compare", harmless=True)
    best, worst = max(options, key=lambda o: o[0]), min(options, key=lambda o: o[0])
    if best[0] == worst[0]:
        raise Unusable(f"all answers have the same {what}", harmless=True)
    return best[1], worst[1]


def text(value: object, field: str) -> str:
    """A text; Unusable names the field."""
    if not isinstance(value, str):
        raise Unusable(f"{field} is {value!r:.40}, not a text")
    return value


# ---- chosen and rejected


def _side(row: dict, field: str, prompt: Messages) -> Messages:
    """The whole conversation of one side; an answer may be a made-up dialogue, which lacks the prompt."""
    value = row[field]
    if isinstance(value, str) and prompt:
        try:
            return joined(prompt, transcript(value))
        except Unusable:
            return (*prompt, message("assistant", value))
    side = messages(value, field)
    return joined(prompt, side) if prompt else side


def _explicit(row: dict) -> Read:
    for better, worse in SCORES:
        if given(row, better) and given(row, worse):
            a, b = number(row[better], better), number(row[worse], worse)
            if a == b:
                raise Unusable("both answers have the same score", harmless=True)
            if a < b:
                raise Unusable(f"{better} {a:g} lies below {worse} {b:g}")
    prompt = prompt_of(row)
    return divide(_side(row, "chosen", prompt), _side(row, "rejected", prompt))


def _implicit(row: dict) -> Read:
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str) and not (transcript(chosen) and transcript(rejected)):
        return _common(chosen, rejected)
    return divide(_side(row, "chosen", ()), _side(row, "rejected", ()))


def _common(chosen: str, rejected: str) -> Read:
    """Two texts that begin alike: what they share, to the end of a word, is the prompt."""
    if chosen.strip() == rejected.strip():
        raise Unusable("the two answers are the same", harmless=True)
    n = min(len(commonprefix((chosen, rejected))), len(chosen) - 1, len(rejected) - 1)
    while n > 0 and (_inside_word(chosen, n) or _inside_word(rejected, n)):
        n -= 1
    n = len(chosen[: max(n, 0)].rstrip())
    if not chosen[:n].strip():
        raise Unusable("has no prompt, and chosen and rejected do not begin alike")
    return (message("user", chosen[:n]),), chosen[n:], rejected[n:]


def _inside_word(t: str, n: int) -> bool:
    """Whether a cut before place n would part a word."""
    return t[n - 1].isalnum() and t[n].isalnum() and len(words(t[n - 1 : n + 1])) == 1


# ---- two answers and which is better


def _pair(prompt: Messages, first: object, second: object, fields: Sequence[str], first_wins: bool) -> Read:
    a, b = text(first, fields[0]), text(second, fields[1])
    return (prompt, a, b) if first_wins else (prompt, b, a)


def _strength(first: str, second: str, field: str) -> Callable[[dict], Read]:
    """A signed strength: below 0 for the first answer, above 0 for the second, 0 a tie."""

    def read(row: dict) -> Read:
        by = number(row[field], field)
        if by == 0:
            raise Unusable(f"{field} is 0, a tie", harmless=True)
        return _pair(prompt_of(row), row[first], row[second], (first, second), by < 0)

    return read


def _shp(row: dict) -> Read:
    fields = ("human_ref_A", "human_ref_B")
    first = one_of(row["labels"], "labels", (0, 1)) == 1
    return _pair(prompt_of(row), row[fields[0]], row[fields[1]], fields, first)


def _safe(row: dict) -> Read:
    fields = ("response_0", "response_1")
    first = one_of(row["better_response_id"], "better_response_id", (0, 1)) == 0
    return _pair(prompt_of(row), row[fields[0]], row[fields[1]], fields, first)


def tldr_prompt(info: object) -> Messages:
    """What is asked for the post or article that "info" of TL;DR's rows holds."""
    if not isinstance(info, dict) or not (given(info, "post") or given(info, "article")):
        raise Unusable("info has neither a post nor an article")
    source = "post" if given(info, "post") else "article"
    body = text(info[source], f"info.{source}")
    if not body.strip():
        raise Unusable(f"info.{source} is empty")
    head = [f"SUBREDDIT: r/{info.get('subreddit')}"] * bool(info.get("subreddit"))
    head += [f"TITLE: {info.get('title')}"] * bool(info.get("title"))
    return (message("user", "\n\n".join([*head, f"{source.upper()}: {body.strip()}", "TL;DR:"])),)


def _tldr(row: dict) -> Read:
    prompt, summaries = tldr_prompt(row["info"]), row["summaries"]
    if not isinstance(summaries, (list, tuple)) or len(summaries) != 2:
        raise Unusable("summaries are two")
    first, second = (s.get("text") if isinstance(s, dict) else s for s in summaries)
    chosen = one_of(row["choice"], "choice", (0, 1)) == 0
    return _pair(prompt, first, second, ("summaries[0].text", "summaries[1].text"), chosen)


def _arena(row: dict) -> Read:
    winner = row["winner"]
    if isinstance(winner, str) and winner.startswith("tie"):
        raise Unusable("winner is a tie", harmless=True)
    if winner not in ("model_a", "model_b"):
        raise Unusable(f"winner is {winner!r:.40}, not model_a, model_b or tie")
    a, b = (messages(row[f], f) for f in ("conversation_a", "conversation_b"))
    return divide(a, b) if winner == "model_a" else divide(b, a)


# ---- several answers and their scores


def _ranked(answers: str, answer: str, score: str, sign: int) -> Callable[[dict], Read]:
    """The best and the worst of a list of answers; sign -1 where a smaller score is better, as with a rank."""

    def read(row: dict) -> Read:
        found = row[answers]
        if not isinstance(found, (list, tuple)) or not all(isinstance(a, dict) for a in found):
            raise Unusable(f"{answers} is no list of answers")
        for i, a in enumerate(found):
            if missing := lacking(a, (answer, score)):
                raise Unusable(f"{answers}[{i}] lacks {', '.join(missing)}")
        options = [
            (sign * number(a[score], f"{answers}[{i}].{score}"), text(a[answer], f"{answers}[{i}].{answer}"))
            for i, a in enumerate(found)
        ]
        return prompt_of(row), *extreme(options, score)

    return read


def _target_scores(row: dict) -> Read:
    scores = row["target_scores"]
    if not isinstance(scores, dict):
        raise Unusable("target_scores is no object of answers and their scores")
    options = [(number(v, f"target_scores of {k!r:.40}"), k) for k, v in scores.items() if v is not None]
    return prompt_of(row), *extreme(options, "score")


def scored(row: dict) -> tuple[Messages, str, float]:
    """(prompt, answer, helpfulness) of HelpSteer, where a row is one answer: rows of one prompt make a pair."""
    return prompt_of(row), text(row["response"], "response"), number(row["helpfulness"], "helpfulness")


HELPSTEER = ("prompt", "response", "helpfulness")
FORMS = (  # the first that fits is taken
    Form("BIG-bench", ("input", "target_scores"), _target_scores),
    Form("TL;DR comparisons", ("info", "summaries", "choice"), _tldr),
    Form("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), _shp),
    Form(
        "HelpSteer2-preference",
        ("prompt", "response_1", "response_2", "preference_strength"),
        _strength("response_1", "response_2", "preference_strength"),
    ),
    Form(
        "HelpSteer3",
        ("context", "response1", "response2", "overall_preference"),
        _strength("response1", "response2", "overall_preference"),
    ),
    Form("PKU-SafeRLHF", ("prompt", "response_0", "response_1", "better_response_id"), _safe),
    Form("Chatbot Arena", ("conversation_a", "conversation_b", "winner"), _arena),
    Form("Nectar", ("prompt", "answers"), _ranked("answers", "answer", "rank", -1)),
    Form("UltraFeedback", ("prompt", "completions"), _ranked("completions", "response", "overall_score", 1)),
    Form("HelpSteer", HELPSTEER, None),
    Form("explicit prompt", ("prompt", "chosen", "rejected"), _explicit),
    Form("implicit prompt", ("chosen", "rejected"), _implicit),
)
