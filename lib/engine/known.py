"""Shapes of the models that the papers name, so that what they take can be reckoned without a hub.

From their config.json files; `config_of` is what the memory estimate asks.
"""

from __future__ import annotations

import os
from pathlib import Path

LLAMA_7B = ("llama", dict(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    vocab_size=32000, max_position_embeddings=4096,
))  # fmt: skip
MISTRAL_7B = ("mistral", dict(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=32000, max_position_embeddings=32768, sliding_window=4096,
))  # fmt: skip
SHAPES = {
    "lmsys/vicuna-7b-v1.5": LLAMA_7B,
    "meta-llama/Llama-2-7b-chat-hf": LLAMA_7B,
    "huggyllama/llama-7b": LLAMA_7B,
    "mistralai/Mistral-7B-v0.1": MISTRAL_7B,
    "teknium/OpenHermes-2.5-Mistral-7B": (MISTRAL_7B[0], MISTRAL_7B[1] | {"vocab_size": 32002}),
    "trl-lib/pythia-1b-deduped-tldr-sft": ("gpt_neox", dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=8, vocab_size=50304,
        max_position_embeddings=2048,
    )),
    "Skywork/Skywork-Reward-Llama-3.1-8B": ("llama", dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=131072,
    )),
    "embedded": ("llama", dict(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, max_position_embeddings=8192, tie_word_embeddings=True,
    )),
}  # fmt: skip


def config_of(spec: str):
    """The config of what `models.load` takes: of a folder, of the table above, or of the hub where it may be asked.

    ValueError where none of them knows it.
    """
    from transformers import AutoConfig

    from lib.engine import models

    if spec == models.TINY:
        return models.tiny_random().config
    if Path(spec).expanduser().is_dir():
        return AutoConfig.from_pretrained(Path(spec).expanduser())
    if spec in SHAPES:
        kind, shape = SHAPES[spec]
        return AutoConfig.for_model(kind, **shape)
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    unknown = f"the shape of {spec!r} is not known here: give a folder, or one of {', '.join(SHAPES)}, or allow the hub"
    if offline or spec.startswith((".", "~", "/")) or spec.count("/") != 1:
        raise ValueError(unknown)
    try:
        return AutoConfig.from_pretrained(spec)
    except OSError as error:  # no such repository, no network
        raise ValueError(unknown) from error
