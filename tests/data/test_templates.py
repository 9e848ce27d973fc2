"""Chat templates by name against renderings typed by hand, and the token in which an assistant's turn ends."""

import pytest

from lib.data import chat, templates
from lib.engine import models

ASK = [{"role": "user", "content": "Hi there"}]
TALK = [*ASK, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Name a river."}]
SYSTEM = {"role": "system", "content": "Be brief."}
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
RENDERED = {
    "vicuna": (
        f"{VICUNA} USER: Hi there ASSISTANT: Hello.</s>USER: Name a river. ASSISTANT:",
        "Be brief. USER: Hi there ASSISTANT:",
    ),
    "llama-2": (
        "[INST] Hi there [/INST] Hello. </s>[INST] Name a river. [/INST]",
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi there [/INST]",
    ),
    "chatml": (
        "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    ),
    "plain": ("Hi there\n\nHello.</s>Name a river.\n\n", "Be brief.\n\nHi there\n\n"),
    "lab": (
        "<|user|>\nHi there\n<|assistant|>\nHello.</s>\n<|user|>\nName a river.\n<|assistant|>\n",
        "<|system|>\nBe brief.\n<|user|>\nHi there\n<|assistant|>\n",
    ),
}


@pytest.fixture
def bare(byte_tokenizer):
    """A tokenizer with <s> and </s> and no chat template, as base models have."""
    byte_tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    byte_tokenizer.chat_template = None
    return byte_tokenizer


def starting(tokenizer):
    """The same with a start token in front of every text."""
    from tokenizers import processors

    start = [("<s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=start)
    return tokenizer


@pytest.mark.parametrize("name", templates.TEMPLATES)
def test_each_named_template_is_the_known_text(name, bare):
    templates.use(bare, name)
    talk, asked = RENDERED[name]
    assert bare.decode(chat(bare, TALK)) == talk
    assert bare.decode(chat(bare, [SYSTEM, *ASK])) == asked
    templates.use(starting(bare), name)
    first = "" if name == "chatml" else "<s>"
    again = talk.replace("</s>[INST]", "</s><s>[INST]")  # llama-2 starts every exchange anew
    assert bare.decode(chat(bare, TALK)) == first + again
    assert chat(bare, TALK).count(bare.bos_token_id) == {"chatml": 0, "llama-2": 2}.get(name, 1)


def test_without_a_template_the_choices_are_named_and_nothing_is_assumed(bare, tmp_path):
    with pytest.raises(ValueError, match="no chat template: .* one of vicuna, llama-2, chatml, plain, lab, or a jinja"):
        chat(bare, ASK)
    for left in (None, "none", ""):
        templates.use(bare, left)
        assert bare.chat_template is None
    with pytest.raises(ValueError, match="one of vicuna, llama-2, .* given 'vicunna'"):
        templates.use(bare, "vicunna")
    with pytest.raises(FileNotFoundError, match="no chat template at 'mine.jinja'"):
        templates.check("mine.jinja")
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    templates.use(bare, str(tmp_path / "mine.jinja"))
    assert bare.decode(chat(bare, ASK)) == "[Hi there]"


def test_a_model_is_loaded_with_the_template_asked_for(tiny_model, byte_tokenizer, tmp_path):
    import torch

    tiny_model.save_pretrained(tmp_path)
    byte_tokenizer.chat_template = None
    byte_tokenizer.save_pretrained(tmp_path)
    load = lambda **how: models.load(str(tmp_path), dtype=torch.float32, **how)[1]  # noqa: E731
    with pytest.raises(ValueError, match="no chat template"):
        chat(load(), ASK)
    assert load().decode(chat(load(template="lab"), ASK)) == "<|user|>\nHi there\n<|assistant|>\n"
    with pytest.raises(ValueError, match="given 'labb'"):
        models.load("no such folder", dtype=torch.float32, template="labb")


LLAMA3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}{{ eos_token }}"
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    "template, special, plain, stops, end",
    [
        (LLAMA3, ["<|eot_id|>"], [], ["</s>", "<|eot_id|>"], "<|eot_id|>"),
        (GEMMA, ["<end_of_turn>"], ["\n\n", "\n"], ["</s>", "<end_of_turn>"], "<end_of_turn>"),
        (GEMMA, [], ["<end_of_turn>", "\n"], ["</s>"], "<end_of_turn>"),  # added, yet not as a special token
        (PHI3, ["<|end|>"], [], ["</s>"], "<|end|>"),
        (MISTRAL, [], [], ["</s>"], "</s>"),
        (templates.TEMPLATES["chatml"], [], [], ["</s>"], "<|im_end|>"),
        (templates.TEMPLATES["lab"], [], [], ["<|im_end|>", "</s>"], "</s>"),
        (templates.TEMPLATES["vicuna"], [], [], ["</s>"], "</s>"),
        (
            "{% for m in messages %}{{ m['content'] + '\n\n' }}{% endfor %}",
            [],
            ["\n\n"],
            ["<|im_end|>", "</s>"],
            "</s>",
        ),
        (
            "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}",
            ["<|user|>", "<|assistant|>"],
            [],
            ["</s>", "<|user|>"],
            "<|user|>",
        ),  # GLM-4: the next turn's tag ends this one
        (None, [], [], ["<|im_end|>", "</s>"], "</s>"),
        (None, [], [], ["<|im_end|>", "<|im_start|>"], "<|im_end|>"),
    ],
)
def test_a_training_answer_ends_as_the_template_ends_a_turn(bare, template, special, plain, stops, end):
    bare.add_special_tokens({"additional_special_tokens": special})
    bare.add_tokens(plain)
    bare.chat_template = template
    ids = bare.convert_tokens_to_ids(stops)
    assert models.end_of_turn(bare, ids) == bare.convert_tokens_to_ids(end)


def test_generation_stops_at_every_stop_token_and_at_the_turns_end(tiny_model, byte_tokenizer):
    assert models.stop_ids(tiny_model, byte_tokenizer) == [257] == [models.end_of_turn(byte_tokenizer, [257])]
    byte_tokenizer.add_special_tokens({"additional_special_tokens": ["<|end_of_text|>", "<|eot_id|>"]})
    text, turn = byte_tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    byte_tokenizer.chat_template = LLAMA3
    for named, stops in ((text, [text, turn]), ([text, turn], [text, turn]), ([turn, text], [turn, text])):
        tiny_model.generation_config.eos_token_id = named
        assert models.stop_ids(tiny_model, byte_tokenizer) == stops
        assert models.end_of_turn(byte_tokenizer, stops) == turn
