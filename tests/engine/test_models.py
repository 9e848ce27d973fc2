import json

import pytest
import torch

from lib.engine import models


def test_tiny_random_is_the_same_every_time(tiny_model, byte_tokenizer):
    assert models.fingerprint(tiny_model) == models.fingerprint(models.load("tiny-random", dtype=torch.float32)[0])
    assert byte_tokenizer.pad_token is None and models.stop_ids(tiny_model, byte_tokenizer) == [257]
    assert models.describe(tiny_model)["block linears"] == 28


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本 🎈\n\ttabs  and spaces ", "<b>&amp;</b>"])
def test_byte_tokenizer_keeps_every_text(byte_tokenizer, text):
    ids = byte_tokenizer.encode(text, add_special_tokens=False)
    assert byte_tokenizer.decode(ids) == text and len(ids) == len(text.encode())
    chat = byte_tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    assert chat[0] == 256 and chat.count(257) == 1 and byte_tokenizer.decode(chat).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_local_folder_gives_the_same_logits(tmp_path, tiny_model, byte_tokenizer, family):
    if family == "gpt_neox":
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        config = GPTNeoXConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=258
        )
        tiny_model = GPTNeoXForCausalLM(config).eval()
    tiny_model.save_pretrained(tmp_path / "m")
    byte_tokenizer.save_pretrained(tmp_path / "m")
    loaded, tokenizer = models.load(str(tmp_path / "m"), dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode("hello there", add_special_tokens=False)])
    assert torch.equal(loaded(ids).logits, tiny_model(ids).logits)
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training
    assert models.fingerprint(loaded) == models.fingerprint(tiny_model)


def test_bad_model_specs(tmp_path):
    with pytest.raises(FileNotFoundError, match="needs config.json and"):
        models.load(str(tmp_path), dtype=torch.float32)
    with pytest.raises(FileNotFoundError, match="no model folder"):
        models.load(str(tmp_path / "nowhere"), dtype=torch.float32)
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE=1"):
        models.load("owner/name", dtype=torch.float32)


def test_fingerprint_sees_one_weight(tiny_model):
    before = models.fingerprint(tiny_model)
    with torch.no_grad():
        next(tiny_model.parameters())[0, 0] += 1e-3
    assert models.fingerprint(tiny_model) != before


def test_embedded_is_converted_once_and_reused(sandbox, monkeypatch, tiny_model, byte_tokenizer):
    """The conversion's own steps, with a small model standing in for what the GGUF holds."""
    import transformers

    source = sandbox / "asset"
    source.mkdir()
    (source / "m.gguf").write_bytes(b"x")
    calls, whole = [], {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
    byte_tokenizer.eos_token = "<|im_start|>"  # as the real GGUF has it
    monkeypatch.setattr(models.assets, "fetch", lambda name: calls.append(name) or source)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *a, **k: byte_tokenizer)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: (tiny_model, whole))
    folder = models.embedded_folder()
    assert models.embedded_folder() == folder and calls == ["smollm2"]
    stamp = json.loads((folder / "plumbline.json").read_text())
    assert stamp["sha256"] == models.assets.file_sha256(folder / "model.safetensors")
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    (folder / "model.safetensors").write_bytes(b"cut short")
    models.embedded_folder()
    assert calls == ["smollm2", "smollm2"] and (folder / "model.safetensors").stat().st_size == stamp["bytes"]


def test_builders_check_before_any_work(tiny_model):
    from lib import data, scoring
    from lib.engine import objectives

    bad = [data.Pair("a", [1], [2], [3], 0), data.Pair("b", [1], [2], [], 0)]
    with pytest.raises(ValueError, match="row 1 has an empty completion"):
        objectives.preference(tiny_model, bad, None)
    for build in (
        lambda: objectives.supervised(tiny_model, [[1]], [[]]),
        lambda: objectives.teacher_states(tiny_model, [[1]], [[]], batch=1),
        lambda: objectives.distillation(tiny_model, [[1]], [[]], [], tau=None),
        lambda: scoring.completion_logprobs(tiny_model, [[1]], [[]], batch=1),
    ):
        with pytest.raises(ValueError, match="row 0 has an empty completion"):
            build()


def test_a_model_with_terms_of_its_own_is_asked_for():
    from lib.harness.assets import AssetError

    models.check("gemma3-270m", accepted=True)
    models.check("embedded", accepted=False)
    with pytest.raises(
        AssetError,
        match="Gemma Terms of Use: read them at https://ai.google.dev/gemma/terms and set GEMMA_TERMS='accepted'",
    ):
        models.check("gemma3-270m", accepted=False)
    with pytest.raises(FileNotFoundError, match="no model folder at './absent'"):
        models.check("./absent", accepted=False)


@pytest.mark.network
def test_gemma_reads_and_speaks():
    """Ids as its own tokenizer gives them; the next word after half a sentence. Fetches 238 MB under the Gemma Terms of
    Use."""
    from lib.engine.generation import generate

    model, tokenizer = models.load("gemma3-270m", dtype=torch.bfloat16)
    ids = tokenizer.encode("The capital of France is")
    assert ids == [2, 818, 5279, 529, 7001, 563] and tokenizer.decode(ids[1:]) == "The capital of France is"
    assert tokenizer.encode("a\n\nb", add_special_tokens=False) == [236746, 108, 236763]
    (done,) = generate(model, [ids], max_new_tokens=6, stop_ids=[1], batch=1)
    assert "the" in tokenizer.decode(done.tokens)
