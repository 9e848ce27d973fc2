"""LoRA beside weights: peft's own numbers, gradients for adapters alone, files that peft reads back."""

import copy

import pytest
import torch
from torch import nn

from lib.engine import adapters, latents, logprobs, models, objectives, training, trunk
from lib.quantization import apply_nf4, block_linears

IDS = torch.tensor([[5, 6, 7, 8, 9]])
g = lambda seed=0: torch.Generator().manual_seed(seed)  # noqa: E731


def names(model, which=("q_proj", "v_proj")):
    return [n for n in block_linears(model) if n.rpartition(".")[2] in which]


def moved(made):
    with torch.no_grad():
        for i, m in enumerate(made.values()):
            m.weight.add_(torch.randn(m.weight.shape, generator=g(i)) * 0.1)


def test_it_begins_as_nothing_and_adds_what_the_formula_says(tiny_model):
    model, before = copy.deepcopy(tiny_model), tiny_model(IDS).logits
    made = adapters.add(model, names(model), rank=2, alpha=6.0, generator=g())
    assert torch.equal(model(IDS).logits, before) and len(made) == 2 * len(names(tiny_model))
    assert made.keys() == adapters.linears(model).keys()
    moved(made)
    merged = copy.deepcopy(tiny_model)
    for n in names(tiny_model):
        a, b = (made[f"{n}.lora_{x}.default"].weight.detach() for x in "AB")
        w = merged.get_submodule(n).weight.data
        for i in range(w.shape[0]):
            for j in range(w.shape[1]):
                w[i, j] += sum(3.0 * float(b[i, k]) * float(a[k, j]) for k in range(2))
    torch.testing.assert_close(model(IDS).logits, merged(IDS).logits, rtol=1e-4, atol=1e-4)


def test_it_begins_alike_everywhere_and_anew_when_asked_again(tiny_model):
    model = copy.deepcopy(tiny_model)
    first = {n: m.weight.clone() for n, m in adapters.add(model, names(model), rank=2, alpha=4, generator=g()).items()}
    a = first[f"{names(tiny_model)[0]}.lora_A.default"]
    bound = a.shape[1] ** -0.5
    assert torch.equal(a, torch.empty(a.shape).uniform_(-bound, bound, generator=g()))
    moved(adapters.linears(model))
    again = adapters.add(model, names(tiny_model), rank=2, alpha=4, generator=g())
    assert all(torch.equal(m.weight, first[n]) for n, m in again.items())
    assert adapters.remove(model) and not adapters.linears(model) and not adapters.remove(model)
    assert model.state_dict().keys() == tiny_model.state_dict().keys()


def test_training_moves_adapters_alone_and_only_they_have_gradients(tiny_model):
    model = copy.deepcopy(tiny_model)
    base = {n: p.clone() for n, p in model.named_parameters()}
    made = adapters.add(model, names(model), rank=2, alpha=4, generator=g())
    latent = latents.Latent(made, lambda w: latents.Full(w, None))

    def loss(indices):
        packed = logprobs.pack([([5, 6], [[7, 8, 9]]) for _ in indices])
        tokens = logprobs.token_logprobs(logprobs.hidden_states(model, packed), model.lm_head.weight, packed.target)
        return -tokens.sum(), {}

    curve = training.fit(latent, training.epochs(4, 4, g()), loss, training.AdamW(1e-2, 1, 1.0), steps=5, micro=2)
    assert curve[-1]["loss"] < curve[0]["loss"]
    now = {n.replace(".base_layer", ""): p for n, p in model.named_parameters() if "lora_" not in n}
    assert now.keys() == base.keys() and all(torch.equal(p, base[n]) and p.grad is None for n, p in now.items())
    assert all((m.weight != 0).any() for m in made.values())
    low, top = trunk.split(model, 2)  # a part of the model holds the same adapters
    assert {id(m.weight) for m in adapters.linears(top).values()} < {id(m.weight) for m in made.values()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peft_reads_back_the_same_logits(tiny_model, dtype, tmp_path):
    from peft import PeftModel

    model = copy.deepcopy(tiny_model).to(dtype)
    moved(adapters.add(model, names(model), rank=2, alpha=4, generator=g()))
    adapters.save(model, tmp_path / "a", base="some/base")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    back = PeftModel.from_pretrained(copy.deepcopy(tiny_model).to(dtype), tmp_path / "a", autocast_adapter_dtype=False)
    torch.testing.assert_close(back(IDS).logits, model(IDS).logits)
    assert not torch.allclose(back(IDS).logits, tiny_model.to(dtype)(IDS).logits, atol=1e-2)
    with pytest.raises(ValueError, match="has no adapters to save"):
        adapters.save(tiny_model, tmp_path / "b", base="x")


def test_bad_names_and_ranks(tiny_model):
    with pytest.raises(ValueError, match="rank of an adapter is at least 1, given 0"):
        adapters.add(tiny_model, names(tiny_model), rank=0, alpha=1, generator=g())
    for wrong in (["model.norm"], ["nobody"], []):
        with pytest.raises(ValueError, match="linear layers of the model, given"):
            adapters.add(tiny_model, wrong, rank=1, alpha=1, generator=g())
    assert all(isinstance(m, nn.Linear) for m in block_linears(tiny_model).values())


@pytest.mark.parametrize("store, size", [("nf4", 0.35), ("int8", 0.6)])
def test_adapters_on_a_base_kept_in_few_bits(tiny_model, byte_tokenizer, tmp_path, store, size):
    """QLoRA: the base says what its rounded weights say and takes less, the adapters learn in bfloat16, and nothing
    else moves."""
    tiny_model.save_pretrained(tmp_path / "m")
    byte_tokenizer.save_pretrained(tmp_path / "m")
    how = dict(dtype=torch.bfloat16)
    plain, kept = models.load(str(tmp_path / "m"), **how)[0], models.load(str(tmp_path / "m"), **how, store=store)[0]
    of_blocks = lambda m: sum(p.numel() * p.element_size() for n, p in m.named_parameters() if "_proj" in n)  # noqa: E731
    assert of_blocks(kept) < size * of_blocks(plain)
    if store == "nf4":
        apply_nf4(plain, double_quant=True)
    a, b = plain(IDS).logits.float(), kept(IDS).logits.float()
    exact = plain.float()(IDS).logits
    off = lambda x: (x - exact).square().mean().sqrt() / exact.std()  # noqa: E731
    # kernels differ between machines, so bfloat16's own rounding is the measure; int8 rounds the activations too
    assert off(b) < (4 * off(a) if store == "nf4" else 0.08)
    before = {n: p.clone() for n, p in kept.named_parameters()}
    made = adapters.add(kept, names(kept), rank=2, alpha=4, generator=g())
    assert {m.weight.dtype for m in made.values()} == {torch.bfloat16}
    assert torch.equal(kept(IDS).logits.float(), b)
    latent = latents.Latent(made, lambda w: latents.Full(w, None))
    objective = objectives.supervised(kept, [[5, 6]] * 4, [[7, 8, 9]] * 4)
    curve = training.fit(latent, training.epochs(4, 4, g()), objective, training.AdamW(1e-2, 1, 1.0), steps=6, micro=4)
    assert curve[-1]["loss"] < curve[0]["loss"]
    now = {n.replace(".base_layer", ""): p for n, p in kept.named_parameters() if "lora_" not in n}
    assert now.keys() == before.keys() and all(torch.equal(p, before[n]) for n, p in now.items())


def test_a_store_that_is_none_is_refused():
    with pytest.raises(ValueError, match="kept as nf4, int8 or none of them, given 'int3'"):
        models.load("tiny-random", dtype=torch.float32, store="int3")
    with pytest.raises(ValueError, match="too small to be kept as nf4"):
        models.load("tiny-random", dtype=torch.float32, store="nf4")


def test_a_folder_of_adapters_finds_its_base_and_merges(tiny_model, byte_tokenizer, tmp_path):
    """`AutoPeftModelForCausalLM` needs the folder alone; what it merges is W + (alpha / r) B A."""
    from peft import AutoPeftModelForCausalLM

    tiny_model.save_pretrained(tmp_path / "base")
    model = copy.deepcopy(tiny_model)
    moved(adapters.add(model, names(model), rank=2, alpha=6.0, generator=g()))
    folder = adapters.save(model, tmp_path / "a", base=str(tmp_path / "base"))
    back = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(back(IDS).logits, model(IDS).logits)
    merged = back.merge_and_unload()
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)
    assert merged.state_dict().keys() == tiny_model.state_dict().keys()
