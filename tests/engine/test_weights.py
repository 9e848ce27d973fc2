"""Checkpoints with tensors missing, renamed, of another shape, or that are none at all; on folders written here."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from lib import quantization
from lib.engine import models
from lib.scoring import oracles, toxicity

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def saved(tmp_path, byte_tokenizer):
    """saved(kind, edit, **settings) -> a folder with a small random model whose tensors `edit` has changed."""

    def make(kind="llama", edit=None, auto=AutoModelForCausalLM, **settings):
        config = dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, vocab_size=len(byte_tokenizer), bos_token_id=256, eos_token_id=257, pad_token_id=257,
        )  # fmt: skip
        folder = tmp_path / f"{kind} {len(list(tmp_path.iterdir()))}"
        torch.manual_seed(1)
        auto.from_config(AutoConfig.for_model(kind, **config | settings)).save_pretrained(folder)
        byte_tokenizer.save_pretrained(folder)
        if edit:
            path = folder / "model.safetensors"
            tensors = load_file(path)
            save_file(edit(tensors) or tensors, path, {"format": "pt"})
        return str(folder)

    return make


def load(folder):
    return models.load(folder, dtype=torch.float32)[0]


def drop(*names):
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(names)}


@pytest.mark.parametrize(
    "edit, words",
    [
        (drop(DOWN), f"no whole language model: its weights lack {DOWN}. What is missing would be random"),
        (drop("norm.weight"), r"lack model.layers.0.input_layernorm.weight, .*, \.\.\. \(5 in all\)"),
        (drop("lm_head.weight"), "lack lm_head.weight"),
        (lambda t: {f"module.{n}": x for n, x in t.items()}, r"21 in all\); .* no place in the model, module.lm_head"),
        (lambda t: {n.replace("q_proj", "query"): x for n, x in t.items()}, "lack .*q_proj.*no place .*query.weight"),
        (lambda t: t | {DOWN: torch.zeros(8, 48)}, rf"another shape, {DOWN} \(file \(8, 48\), model \(32, 48\)\)"),
        (
            lambda t: t | {"model.layers.2.mlp.down_proj.weight": t[DOWN] + 0},
            "no place in the model, model.layers.2.mlp",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(saved, edit, words):
    with pytest.raises(ValueError, match=words):
        load(saved(edit=edit))


def test_what_may_be_absent_or_left_over_does_no_harm(saved):
    tied = saved(tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(f"{tied}/model.safetensors")
    model = load(tied)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    load(saved(edit=lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    base = saved(edit=lambda t: {n.removeprefix("model."): x for n, x in t.items()}, tie_word_embeddings=True)
    torch.testing.assert_close(load(base).state_dict()[DOWN], load(tied).state_dict()[DOWN])


@pytest.mark.parametrize("kind", ["gpt_neox", "opt", "gemma2", "mixtral", "qwen3_moe", "phi"])
def test_other_families_load_whole_and_no_other_way(saved, kind):
    load(saved(kind))

    def one_less(tensors):
        name = next(n for n in sorted(tensors) if "layers.1" in n or "h.1" in n)
        return {n: t for n, t in tensors.items() if n != name}

    with pytest.raises(ValueError, match="no whole (language )?model"):
        load(saved(kind, one_less))


def test_a_lost_expert_is_missed(saved):
    experts = dict(num_local_experts=4, num_experts_per_tok=2)
    for gone, words in (
        ("layers.1.mlp.experts.2.", r"experts.down_proj \(file \(3, 32, 48\), model \(4, 32, 48\)\)"),
        ("layers.1.mlp.experts.2.w1", "a fused weight, such as a block's experts, could not be put together"),
    ):
        gone = gone.replace("mlp", "block_sparse_moe")
        with pytest.raises(ValueError, match=words):
            load(saved("mixtral", lambda t, g=gone: {n: x for n, x in t.items() if g not in n}, **experts))


def test_codes_alone_are_no_weights(saved, tmp_path, byte_tokenizer):
    """A file of packed codes whose config does not say so: nothing is filled up with random numbers."""
    model = load(saved())
    codes = quantization.apply_rtn(model, bits=4, group=16, symmetric=False)
    folder = str(quantization.save_quantized(tmp_path / "m", model, codes, tokenizer=byte_tokenizer))
    assert torch.equal(load(folder).lm_head.weight, model.lm_head.weight)
    config = json.loads((tmp_path / "m/config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no whole language model: its weights lack .*_proj.weight"):
        load(folder)


def test_shards_that_are_not_there_are_named_before_anything_is_read(saved, tmp_path):
    folder = tmp_path / "shards"
    load(saved()).save_pretrained(folder, max_shard_size="30KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    part = sorted(set(index["weight_map"].values()))[1]
    (folder / part).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks 1 of the .* files of weights that its index names: {part}"):
        models.check(str(folder), accepted=False)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save_file({"a": torch.ones(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"needs model.safetensors .*adapter_model.safetensors"):
        models.check(str(folder), accepted=False)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox"])
def test_a_reward_model_or_a_judge_has_a_head_of_its_own(saved, kind):
    how = dict(dtype=torch.float32, device="cpu", batch=2)
    head = dict(auto=AutoModelForSequenceClassification, num_labels=1)
    keeps = lambda t: t | {"lm_head.weight": torch.ones(258, 32)}  # noqa: E731
    oracles.rewarder(saved(kind, keeps, **head), **how)  # the language model's head beside it is left where it is
    headless = saved(kind, drop("score.weight"), **head)
    for folder in (headless, saved(kind, num_labels=1)):
        for make in (oracles.rewarder, toxicity.judge):
            with pytest.raises(ValueError, match="no trained classifier: its weights lack score.weight"):
                make(folder, **how)
