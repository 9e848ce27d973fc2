"""LoRA beside weights: peft's own numbers, gradients for adapters alone, files that peft reads back."""

import copy

import pytest
import torch
from torch import nn

from lib.engine import adapters, logprobs, training, trunk
from lib.quantization import block_linears

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
    latent = training.Latent(made, lambda w: training.Full(w, None))

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
