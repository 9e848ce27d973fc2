"""Chat templates by name, for tokenizers that come without one, and the token in which a template ends a turn.

Nothing is assumed of a tokenizer without a template: its model was taught some format, and only the user knows which.
`{bos}` stands for the start token where the tokenizer puts one in front of plain text by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
TEMPLATES = {
    # FastChat, vicuna_v1.1: one space between the parts, each answer closed by the end of text
    "vicuna": "{bos}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}"
    "{% else %}" + VICUNA + " {% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    # Meta's release: the system prompt inside the first question, start and end of text around every exchange
    "llama-2": "{% set at = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set at.system = '<<SYS>>\\n' + m['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% elif m['role'] == 'user' %}{bos}{{ '[INST] ' + (at.system + m['content']).strip() + ' [/INST]' }}"
    "{% set at.system = '' %}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "chatml": "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    # no roles: every turn a paragraph, an answer closed by the end of text
    "plain": "{bos}{% for m in messages %}{{ m['content'] + (eos_token if m['role'] == 'assistant' else '\\n\\n') }}"
    "{% endfor %}",
    # LAB and its successor InstructLab, with tags as text
    "lab": "{bos}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>\\n' + m['content'] + (eos_token if m['role'] == 'assistant' else '') + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
}
NONE = ("", "none")  # the tokenizer's own
MARK = "answergoeshere"


def check(template: str | None) -> None:
    """ValueError or FileNotFoundError unless it is None, "none", a name of TEMPLATES or a jinja file."""
    _source(template)


def use(tokenizer, template: str | None) -> None:
    """Give the tokenizer this chat template: a name of TEMPLATES or a jinja file; None or "none" leaves its own.

    What is asked for goes before the tokenizer's own template, with a warning.
    """
    source = _source(template)
    if source is not None:
        if tokenizer.chat_template:
            warnings.warn(f"template {template!r} takes the place of the tokenizer's own chat template", stacklevel=2)
        starts = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = source.replace("{bos}", "{{ bos_token }}" if starts else "")


def check_has(tokenizer) -> None:
    """ValueError for a tokenizer without a chat template, naming what may be given."""
    if not tokenizer.chat_template:
        raise ValueError(f"the model's tokenizer has no chat template: give one as template, {_allowed()}")


def _source(template: str | None) -> str | None:
    if template is None or template in NONE:
        return None
    if template in TEMPLATES:
        return TEMPLATES[template]
    path = Path(template).expanduser()
    if path.suffix in (".jinja", ".jinja2", ".j2"):
        if not path.is_file():
            raise FileNotFoundError(f"there is no chat template at {template!r}")
        return path.read_text(encoding="utf-8")
    raise ValueError(f"a chat template is {_allowed()}; given {template!r}")


def _allowed() -> str:
    return f"one of {', '.join(TEMPLATES)}, or a jinja file (NAME.jinja)"


def turn_end(tokenizer, stop_ids: Sequence[int]) -> int | None:
    """The first token after an assistant's text, as the chat template writes it, that is special or ends an answer.

    Where nothing closes a turn but the tag of the next one (GLM-4), that tag if it is one of `stop_ids`. None without a
    template, or where it closes a turn with text alone.
    """
    if not tokenizer.chat_template:
        return None
    # added tokens count too where they are more than white space: some tokenizers keep <|im_end|> as a plain one
    own = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special or t.content.strip()}
    turns = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": MARK}]
    for more, ends in (([], own | {*tokenizer.all_special_ids, *stop_ids}), (turns[:1], {*stop_ids})):
        text = tokenizer.apply_chat_template([*turns, *more], tokenize=False)
        if MARK not in text:  # a template that hides or rewrites answers says nothing of their end
            return None
        tail = tokenizer.encode(text.rpartition(MARK)[2], add_special_tokens=False)
        if found := [i for i in tail if i in ends]:
            return found[0]
    return None
