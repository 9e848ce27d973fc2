"""What is asked of a teacher, what it replies, and the request written out: as an instruction for a chat model or as a
list to be continued."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from lib.synthesis.samplers import Example

LISTED = ("questions", "contexts", "pairs")  # asked for n at a time, answered by a numbered list
ASKS = (*LISTED, "answer", "judge question", "judge pair", "judge faithful")


class Request(NamedTuple):
    """What is asked of a teacher; `id` tells apart requests that are otherwise equal."""

    id: str
    ask: str  # one of ASKS
    leaf: str
    task: str = ""
    examples: tuple[Example, ...] = ()
    n: int = 1
    question: str = ""
    context: str = ""
    answer: str = ""


class Reply(str):
    """A text whose hidden labels, one dict an item, are for scoring only."""

    truth: tuple[dict, ...]

    def __new__(cls, text: str, truth: Sequence[dict] = ()):
        made = super().__new__(cls, text)
        made.truth = tuple(truth)
        return made


def instruction(request: Request) -> str:
    """The request as a prompt for a chat model, after the paper's four templates. ValueError for an ask that no
    template has."""
    r, task = request, request.task or "the kinds of the examples"
    shown = "\n\n".join(_shown(x) for x in r.examples)
    named = {"Context": r.context, "Question": r.question, "Answer": r.answer}
    about = "".join(f"{name}: {text}\n" for name, text in named.items() if text)
    style = "Same style and format as the examples, diverse, clear, safe, answerable in text."
    numbered = f"Number them 1. to {r.n}. and write nothing else."
    score = "Explain briefly, then end with 'Score: 1' for yes or 'Score: 0' for no."
    alone = " Each is answered by the context alone." * bool(r.context)
    rates = "1 wrong, incomplete or unsafe; 2 right but brief; 3 right, complete and explained"
    texts = {
        "questions": f"Write {r.n} new questions. Task: {task}. {style}{alone} Questions only. {numbered}\n\n"
        f"{shown}\n\n{about}",
        "contexts": f"Write {r.n} new contexts, without questions. Task: {task}. {style} {numbered}\n\n{shown}",
        "pairs": f"Write {r.n} questions about the text, each with its answer. Subject: {task}. Everything must stand "
        "in the text. Write each as 'Question: ...', and 'Answer: ...' on the next line. "
        f"{numbered}\n\n{shown}\n\nText: {r.context}",
        "answer": "Answer the last question as in the examples, precisely, with an explanation where it helps. Task: "
        f"{task}.\n\n{shown}\n\n{about}Answer:",
        "judge question": "Can this question be answered in text, is it safe, and does it belong to the task "
        f"({task})?\n\n{about}\n{score}",
        "judge pair": f"Task: {task}.\n\n{about}\nRate the answer: {rates}. Explain briefly, then end with 'Score: ' "
        "and the number.",
        "judge faithful": f"{about}\nDoes the context bear out the answer? {score}",
    }
    if request.ask not in texts:
        raise ValueError(f"a teacher is asked for one of {', '.join(ASKS)}, given {request.ask!r}")
    return texts[request.ask].strip()


def _shown(x: Example) -> str:
    return f"Context: {x.context}\n" * bool(x.context) + f"Question: {x.question}\nAnswer: {x.answer}"


def listing(r: Request) -> str:
    """The beginning of a list that the wanted text continues."""
    intro = f"{r.task.rstrip('.')}.\n" if r.task else ""
    if r.ask == "answer":
        return intro + "\n\n".join(
            [*map(_shown, r.examples), f"Context: {r.context}\n" * bool(r.context) + f"Question: {r.question}\nAnswer:"]
        )
    say = {
        "contexts": lambda x: x.context,
        "questions": lambda x: x.question,
        "pairs": lambda x: f"Question: {x.question}\nAnswer: {x.answer}",
    }[r.ask]
    lines = [f"{i}. {say(x)}" for i, x in enumerate(r.examples, 1)]
    return (f"{r.context}\n\n" if r.context else "") + intro + "\n".join([*lines, f"{len(lines) + 1}."])


def continued(text: str, first: int) -> str:
    """A continuation that began behind the number `first`, counted from 1."""
    renumbered = re.sub(
        r"^(\d+)\.", lambda m: f"{int(m[1]) - first + 1}." if int(m[1]) > first else m[0], text, flags=re.M
    )
    return f"1. {renumbered.strip()}" if text.strip() else ""
