"""What an arm has learned, in a run's folder and taken home: to the bit the model that was measured."""

from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM

from lib.engine import adapters, keeping, latents, models, trunk
from lib.harness import paths, results
from lib.quantization import block_linears

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def made(sandbox, tiny_model, byte_tokenizer):
    """A model in bfloat16 and a run of it that keeps the arm `ours`."""
    tiny_model.save_pretrained(sandbox / "model")
    byte_tokenizer.save_pretrained(sandbox / "model")
    model, _ = models.load(str(sandbox / "model"), dtype=torch.bfloat16)
    folder = paths.RUNS / "mrpo-smoke-s0-x"
    folder.mkdir(parents=True)
    settings = {"model": str(sandbox / "model"), "dtype": "bfloat16", "template": "none", "keep": "ours, other"}
    manifest = {
        "run_id": folder.name, "paper": "mrpo", "preset": "smoke", "seed": 0, "commit": "abcdef1234567", "dirty": True,
        "status": "done", "settings": settings, "model": models.describe(model), "data": [],
    }  # fmt: skip
    return model, results.RunRecord(folder, manifest)


@torch.inference_mode()
def logits(model):
    """Under transformers' own attention: ours (`lib.engine.attention`) rounds otherwise in bfloat16."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        return model(IDS).logits
    finally:
        model.set_attn_implementation(before)


def moved(linears, seed=0):
    """Weights as they stand after training: float32 masters at random places, compute weights of them."""
    latent = latents.Latent(linears, partial(latents.Full, quantizer=None))
    with torch.no_grad():
        for i, p in enumerate(latent.parameters):
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i))
    latent.sync()
    return latent


def test_a_whole_model_comes_home_to_the_bit(made, sandbox):
    model, run = made
    top = trunk.split(model, 1)[1]
    linears = block_linears(top)  # named as the top names them: its first block is the model's last
    latent = moved(linears)
    keeping.keep(run, "ours", model, linears, note="Trained on 3 pairs.")
    keeping.keep(run, "nobody asked", model, linears)
    assert [p.name for p in run.dir.glob("*.safetensors")] == ["ours.safetensors"]
    said = keeping.write(run, "ours", sandbox / "home")
    assert "a whole model in bfloat16" in said and "MB in all" in said
    back = AutoModelForCausalLM.from_pretrained(sandbox / "home", dtype=torch.bfloat16)
    assert torch.equal(logits(back), logits(model))
    assert all(torch.equal(back.state_dict()[n], t) for n, t in model.state_dict().items())
    before = models.load(run.manifest["settings"]["model"], dtype=torch.bfloat16)[0]
    assert not torch.equal(logits(back), logits(before))
    masters = latent.gathered()
    assert any(not torch.equal(masters[n], m.weight.float()) for n, m in linears.items()), "masters are another model"
    text = (sandbox / "home" / "README.md").read_text()
    for words in ("Trained on 3 pairs.", 'from_pretrained("home", dtype=torch.bfloat16)', "library_name: transformers",
        "abcdef123456", "Not evidence", "| model | model |"):  # fmt: skip
        assert words in text, words
    assert str(sandbox) not in text
    again, tokenizer = models.load(str(sandbox / "home"), dtype=torch.bfloat16)  # a MODEL for every notebook
    assert torch.equal(again(IDS).logits, model(IDS).logits) and tokenizer.chat_template


def test_adapters_come_home_to_the_bit(made, sandbox):
    from peft import PeftModel

    model, run = made
    names = adapters.targets(model, blocks=2, names=["q_proj", "v_proj"])
    linears = adapters.add(model, names, rank=2, alpha=6, generator=torch.Generator().manual_seed(0))
    moved(linears)
    want = logits(model)
    keeping.keep(run, "ours", model, linears)
    assert "adapters of rank 2" in keeping.write(run, "ours", sandbox / "home")
    base = AutoModelForCausalLM.from_pretrained(sandbox / "model", dtype=torch.bfloat16)
    before = logits(base)
    back = PeftModel.from_pretrained(base, sandbox / "home", autocast_adapter_dtype=False)
    assert torch.equal(logits(back.base_model.model), want) and not torch.equal(want, before)
    text = (sandbox / "home" / "README.md").read_text()
    assert "autocast_adapter_dtype=False" in text and "PEFT adapters for `model`" in text
    assert not (sandbox / "home" / "base").exists()


def test_a_base_that_nobody_else_has_goes_along(made, sandbox, monkeypatch):
    from peft import PeftModel

    model, run = made
    monkeypatch.setattr(keeping, "OWN", (run.manifest["settings"]["model"],))
    names = adapters.targets(model, blocks=2, names=["q_proj"])
    moved(adapters.add(model, names, rank=2, alpha=6, generator=torch.Generator().manual_seed(0)))
    want = logits(model)
    keeping.keep(run, "ours", model, adapters.linears(model))
    keeping.write(run, "ours", sandbox / "home")
    base = AutoModelForCausalLM.from_pretrained(sandbox / "home" / "base", dtype=torch.bfloat16)
    back = PeftModel.from_pretrained(base, sandbox / "home", autocast_adapter_dtype=False)
    assert torch.equal(logits(back.base_model.model), want)
    assert 'from_pretrained("home/base"' in (sandbox / "home" / "README.md").read_text()


def test_another_base_is_refused_and_nothing_is_written(made, sandbox, tiny_model):
    model, run = made
    linears = block_linears(model)
    keeping.keep(run, "ours", model, linears)
    with torch.no_grad():
        tiny_model.lm_head.weight.add_(1.0)
    tiny_model.save_pretrained(sandbox / "model")
    with pytest.raises(ValueError, match="has other weights .* than when the run was made"):
        keeping.write(run, "ours", sandbox / "home")
    assert not (sandbox / "home").exists()
