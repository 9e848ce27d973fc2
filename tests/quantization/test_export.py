"""Model folders: what transformers loads from them is, to the bit, the model that was measured."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lib.engine import models
from lib.quantization import apply_awq, apply_gptq, apply_nf4, apply_rtn, export, rtn, save_quantized

BF16 = torch.bfloat16
IDS = torch.arange(3, 93)[None]
SMALL = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=96, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    initializer_range=0.15)  # fmt: skip
SHAPES = {
    "llama": {},
    "mistral": dict(sliding_window=16),
    "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(head_dim=16),
    "gemma": dict(head_dim=16),
    "gemma2": dict(head_dim=16, sliding_window=16, query_pre_attn_scalar=16),
    "gemma3_text": dict(head_dim=16, sliding_window=16, query_pre_attn_scalar=16),
    "phi3": {},
    "gpt_neox": dict(rotary_pct=0.5),
    "olmo2": {},
}
CALIBRATION = [(torch.randint(3, 93, (4, 24), generator=torch.Generator().manual_seed(0)), torch.ones(4, 24).long())]


def build(kind, dtype):
    """A random model as from_pretrained makes it: weights in dtype, the frequencies of positions in float32."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, **SMALL, **SHAPES[kind])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for p in model.parameters():
        p.data = p.data.to(dtype)
    return model


def loaded(folder, **settings):
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **settings)
    assert not any(found.values()), found
    return model.eval()


def sizes(weights):
    return sum(q.bits_per_weight * q.codes.numel() for q in weights.values()) / sum(
        q.codes.numel() for q in weights.values()
    )


@pytest.mark.parametrize("group", [32, 64, -1])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_format_comes_back_to_the_bit(tmp_path, bits, symmetric, group):
    form = dict(bits=bits, group=group, symmetric=symmetric, scales=BF16)
    for dtype in (torch.float32, BF16) if bits in (4, 5, 8) else (torch.float32,):
        model = build("llama", dtype)
        weights = apply_rtn(model, **form)
        folder = save_quantized(tmp_path / str(dtype), model, weights)
        back = loaded(folder, dtype=dtype)
        assert torch.equal(back(IDS).logits, model(IDS).logits)
        for name, q in weights.items():
            assert torch.equal(back.get_submodule(name).weight, q.dequantize(dtype))
        on_disk, said = export.size(folder), sizes(weights)
        words = 64 * 8 * len(weights) * 2 / sum(q.codes.numel() for q in weights.values())  # shapes: two int64 a layer
        assert said <= on_disk <= said + words


@pytest.mark.parametrize("form", [
    dict(bits=4, group=32, symmetric=True), dict(bits=5, group=64, symmetric=False),
    dict(bits=8, group=-1, symmetric=True),
])  # fmt: skip
@pytest.mark.parametrize("kind", [k for k in SHAPES if k != "llama"])
def test_every_shape_comes_back_to_the_bit(tmp_path, kind, form):
    for dtype in (torch.float32, BF16):
        model = build(kind, dtype)
        before = model(IDS).logits
        folder = save_quantized(tmp_path / str(dtype), model, apply_rtn(model, **form, scales=BF16))
        logits = loaded(folder)(IDS).logits
        assert logits.dtype == dtype and torch.equal(logits, model(IDS).logits) and not torch.equal(logits, before)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("apply, more", [(apply_awq, {}), (apply_gptq, dict(act_order=True))])
def test_what_awq_and_gptq_leave_behind_comes_back(tmp_path, kind, apply, more):
    """AWQ moves norms and biases too; GPTQ by falling activation has its groups in place and needs no index of them."""
    wide, dtype = build(kind, torch.float32), BF16
    weights = apply(wide, CALIBRATION, bits=4, group=32, symmetric=False, scales=BF16, **more)
    for p in wide.parameters():
        p.data = p.data.to(dtype)
    back = loaded(save_quantized(tmp_path / "m", wide, weights))
    assert torch.equal(back(IDS).logits, wide(IDS).logits)
    assert not any("g_idx" in n for n in export.to_tensors(weights))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_scales_and_zero_points_are_recovered(bits, symmetric):
    weights = {
        f"a.{k}": rtn.quantize(torch.randn(rows, 96), bits=bits, group=32, symmetric=symmetric, scales=BF16)
        for k, rows in enumerate((40, 33, 9))
    }
    back = export.from_tensors(export.to_tensors(weights) | {"b.weight": torch.ones(2)}, export.scheme(weights))
    assert back.keys() == weights.keys()
    for name, q in weights.items():
        b = back[name]
        assert torch.equal(b.codes, q.codes) and b.codes.dtype == q.codes.dtype and torch.equal(b.scale, q.scale)
        assert (q.zero is None and b.zero is None) or torch.equal(b.zero, q.zero)
        assert (b.bits, b.group) == (q.bits, q.group)


def test_the_words_of_a_file_by_hand():
    """Codes 1, 2, .., 7 of 5 bits, from the low end of the first word; the seventh begins at bit 30 and runs over."""
    q = rtn.pack(torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 0]]), torch.ones(1, 1), torch.zeros(1, 1), bits=5)
    first, second = export.to_tensors({"w": q})["w.weight_packed"][0].tolist()
    whole = sum(code << (5 * k) for k, code in enumerate([1, 2, 3, 4, 5, 6, 7, 0]))
    assert (first % 2**32, second % 2**32) == (whole % 2**32, whole >> 32)


@pytest.mark.slow
def test_a_fresh_process_says_the_same(tmp_path, byte_tokenizer, tiny_model):
    """Plain transformers, in a process that has not seen this project: the text, greedily, and the chat template."""
    weights = apply_rtn(tiny_model, bits=4, group=32, symmetric=False, scales=BF16)
    save_quantized(tmp_path / "m", tiny_model, weights, tokenizer=byte_tokenizer, card=lambda folder: "# A card\n")
    there = {p.name for p in (tmp_path / "m").iterdir()}
    assert there == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md",
        "tokenizer_config.json", "chat_template.jinja"}  # fmt: skip
    code = (
        "import sys, json\nfrom transformers import AutoModelForCausalLM as M, AutoTokenizer as T\n"
        "m, t = M.from_pretrained(sys.argv[1]), T.from_pretrained(sys.argv[1])\n"
        "ids = t.apply_chat_template([{'role': 'user', 'content': 'Say it.'}], add_generation_prompt=True, "
        "return_tensors='pt', return_dict=True)\n"
        "print(json.dumps(m.generate(**ids, max_new_tokens=24, do_sample=False)[0].tolist()))"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "m"], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    ids = byte_tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say it."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert json.loads(out.stdout) == tiny_model.generate(**ids, max_new_tokens=24, do_sample=False)[0].tolist()


def test_the_engine_loads_it_as_a_plain_model(tmp_path, byte_tokenizer):
    model, _ = models.load("tiny-random", dtype=BF16)
    weights = apply_rtn(model, bits=5, group=32, symmetric=False, scales=BF16)
    save_quantized(tmp_path / "m", model, weights, tokenizer=byte_tokenizer)
    back, tokenizer = models.load(str(tmp_path / "m"), dtype=BF16)
    assert models.fingerprint(back) == models.fingerprint(model) and not hasattr(back.config, "quantization_config")
    assert tokenizer.chat_template == byte_tokenizer.chat_template
    back.save_pretrained(tmp_path / "plain")  # as any model
    assert models.fingerprint(loaded(tmp_path / "plain")) == models.fingerprint(model)


# ---------------------------------------------------------------- what is refused


def test_what_the_format_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    model = build("llama", torch.float32)
    weights = apply_rtn(copy.deepcopy(model), bits=4, group=32, symmetric=False)
    name = next(iter(weights))
    other = rtn.quantize(torch.randn(64, 64), bits=5, group=32, symmetric=False)
    narrow = rtn.quantize(torch.randn(8, 64), bits=4, group=32, symmetric=False)
    wide = rtn.quantize(torch.randn(64, 64), bits=4, group=16, symmetric=False)
    for given, words in (
        ({}, "no quantized weights to save"),
        (apply_nf4(copy.deepcopy(model)), "is a NF4; only uniform integer weights"),
        (weights | {name: other}, r"share bits, group and symmetry .* \[\(4, False\), \(5, False\)\]"),
        (weights | {name: wide}, r"groups of \[16, 32\]"),
        (weights | {name: narrow}, "cannot read back 4-bit zero-points of a layer with 8 outputs or fewer: .* has 8"),
        (weights, "of the model is not what its codes say"),
        (weights | {"nobody": weights[name]}, "has no linear layer nobody"),
    ):
        start = build("llama", torch.float32) if "nobody" not in given else copy.deepcopy(model)
        if "nobody" in given:
            apply_rtn(start, bits=4, group=32, symmetric=False)
        with pytest.raises(ValueError, match=words):
            save_quantized(tmp_path / "m", start, given)
    assert not list(tmp_path.iterdir())


def test_scales_that_loading_would_round_are_refused(tmp_path):
    model = build("llama", BF16)
    weights = apply_rtn(model, bits=4, group=32, symmetric=False)
    with pytest.raises(ValueError, match="scales in float32 that bfloat16, the model's type, would round"):
        save_quantized(tmp_path / "m", model, weights)
    model = build("llama", torch.float32)
    weights = apply_rtn(model, bits=4, group=32, symmetric=False)
    assert torch.equal(loaded(save_quantized(tmp_path / "m", model, weights))(IDS).logits, model(IDS).logits)
    assert export.size(tmp_path / "m") == pytest.approx(4 + 36 / 32, abs=0.1)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    model = build("llama", torch.float32)
    weights = apply_rtn(model, bits=4, group=32, symmetric=False)

    def broken(folder):
        assert (folder / "model.safetensors").exists() and not (tmp_path / "m").exists()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        save_quantized(tmp_path / "m", model, weights, card=broken)
    assert not list(tmp_path.iterdir())
    (tmp_path / "m").mkdir()  # an empty one is taken
    save_quantized(tmp_path / "m", model, weights)
    before = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "file").write_text("x")
    for taken in ("m", "file"):
        with pytest.raises(FileExistsError, match=f"{taken} holds something already; name a new folder"):
            save_quantized(tmp_path / taken, model, weights)
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == before
    assert {p.name for p in tmp_path.iterdir()} == {"m", "file"}
    with pytest.raises(ValueError, match="holds no quantized weights"):
        export.size(tmp_path)
