"""Conversations as tuples of messages {"role", "content"}, out of the forms in which data sets write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

Messages = tuple[dict[str, str], ...]
ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip
HUMAN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")  # HH-RLHF, Nectar
EXTRA = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")  # HelpSteer's prompts of several turns


class Unusable(ValueError):
    """A row that cannot be used; `harmless` if nothing is wrong with it, as with a tie."""

    def __init__(self, reason: str, *, harmless: bool = False):
        super().__init__(reason)
        self.harmless = harmless


def message(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


def messages(value: object, field: str) -> Messages:
    """The conversation that a field holds: messages (role and content, or ShareGPT's from and value), one message, or a
    text: a transcript of several turns, else the user's one. Unusable names the field."""
    if isinstance(value, str):
        if not value.strip():
            raise Unusable(f"{field} is empty")
        return transcript(value) or (message("user", value),)
    if isinstance(value, dict) and isinstance(value.get("text"), str) and not {"role", "from"} & set(value):
        return messages(value["text"], f"{field}.text")  # RealToxicityPrompts: a text beside its scores
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, (list, tuple)) or not value:
        raise Unusable(f"{field} is {value!r:.40}, neither a text nor messages")
    return tuple(_message(m, field) for m in value)


def _message(m: object, field: str) -> dict[str, str]:
    if not isinstance(m, dict) or not {"role", "content"} <= set(m) and not {"from", "value"} <= set(m):
        raise Unusable(f"{field} holds {m!r:.40}, a message has role and content")
    role, content = (m["role"], m["content"]) if "role" in m and "content" in m else (m["from"], m["value"])
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise Unusable(f"{field} has the role {role!r}, not system, user or assistant")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(p["text"] for p in content)  # parts of {"type": "text"}
    if not isinstance(content, str):
        raise Unusable(f"{field} has a message whose content is {content!r:.40}, not a text")
    return message(ROLES[role.lower()], content)


def transcript(text: str) -> Messages:
    """Messages of a text in which the turns are marked as HH-RLHF ("\\n\\nHuman: ", "\\n\\nAssistant: ") or HelpSteer
    do; none for any other text. Turns of one side in a row are one."""
    text = text.strip()
    if text.startswith("Human:") and "\n\nAssistant:" in text:
        parts = HUMAN.split(text)[1:]
    elif EXTRA.search(text):
        parts = ["User", *EXTRA.split(text)]
    else:
        return ()
    out: list[dict[str, str]] = []
    for who, content in zip(parts[::2], parts[1::2]):
        role, content = "assistant" if who == "Assistant" else "user", content.strip()
        if out and out[-1]["role"] == role:
            out[-1]["content"] += "\n\n" * bool(out[-1]["content"]) + content
        else:
            out.append(message(role, content))
    return tuple(out)


def question(turns: Sequence[dict[str, str]]) -> Messages:
    """The conversation up to its last turn of the user, which is to be answered; Unusable if there is none, or it is
    empty."""
    last = max((i for i, t in enumerate(turns) if t["role"] == "user"), default=None)
    if last is None:
        raise Unusable("there is no turn of the user")
    if not turns[last]["content"].strip():
        raise Unusable("the user's last turn is empty")
    return tuple(turns[: last + 1])


def joined(prompt: Messages, side: Messages) -> Messages:
    """The whole conversation of a prompt and of one side's messages, which may repeat the prompt or only go on from
    it."""
    head, rest = _apart(prompt)
    own, talk = _apart(side)
    if not talk:
        raise Unusable("has no answer of the assistant")
    if talk[0]["role"] == "assistant":
        return (*(own or head), *rest, *talk)
    repeated = same(talk[: len(rest)], rest) or (
        len(rest) == 1 and any(t["role"] == "user" and same((t,), rest) for t in talk)
    )
    if not repeated:
        raise Unusable("the conversation of an answer does not hold the prompt")
    return (*(own or head), *talk)


def _apart(turns: Messages) -> tuple[Messages, Messages]:
    n = next((i for i, t in enumerate(turns) if t["role"] != "system"), len(turns))
    return turns[:n], turns[n:]


def same(a: Sequence[dict[str, str]], b: Sequence[dict[str, str]]) -> bool:
    """Whether two conversations say the same, but for white space around the turns."""
    return [(t["role"], t["content"].strip()) for t in a] == [(t["role"], t["content"].strip()) for t in b]


def divide(chosen: Messages, rejected: Messages) -> tuple[Messages, str, str]:
    """(prompt, chosen, rejected) of two whole conversations: the last answers, and all that both share before them.

    What the user says after the last answer is left out. Unusable if the two part before their last answers.
    """
    cut = []
    for side in (chosen, rejected):
        last = max((i for i, t in enumerate(side) if t["role"] == "assistant"), default=None)
        if last is None:
            raise Unusable("has no answer of the assistant")
        cut.append(side[: last + 1])
    (*before, w), (*other, l) = cut
    if not same(before, other):
        if len(cut[0]) < len(chosen) or len(cut[1]) < len(rejected):
            raise Unusable("ends with the user's turn, and the two sides part before the last answer")
        raise Unusable("the two sides part before their last answers")
    if not before or before[-1]["role"] != "user" or not before[-1]["content"].strip():
        raise Unusable("has no prompt of the user before the answer")
    return tuple(before), w["content"], l["content"]


def as_text(turns: Sequence[dict[str, str]]) -> str:
    """The conversation to read: a lone turn as it is, several with their roles in front."""
    return turns[0]["content"] if len(turns) == 1 else "\n\n".join(f"{t['role']}: {t['content']}" for t in turns)
