"""Heads that are more than a product: logits by hand, the pulled gradient against autograd, and what a config says."""

import math
from types import SimpleNamespace

import pytest
import torch

from lib.engine.head import Head, as_head, head_of

HEADS = {
    "plain": {},
    "bias": {"bias": torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)},
    "scale": {"scale": 0.25},
    "cap": {"cap": 3.0},
    "all": {"bias": torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64), "scale": 2.0, "cap": 3.0},
}
WEIGHT = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("name", HEADS)
def test_logits_as_loops(name):
    head = Head(WEIGHT, **HEADS[name])
    hidden = torch.tensor([[0.5, -1.5], [2.0, 0.25]], dtype=torch.float64)
    got = head.logits(hidden)
    for i in range(2):
        for v in range(3):
            z = sum(float(hidden[i, d]) * float(WEIGHT[v, d]) for d in range(2))
            z = head.scale * (z + (0.0 if head.bias is None else float(head.bias[v])))
            z = z if head.cap is None else head.cap * math.tanh(z / head.cap)
            assert got[i, v].item() == pytest.approx(z, abs=1e-12)
    assert head.plain == (name == "plain")


@pytest.mark.parametrize("name", HEADS)
def test_the_pulled_gradient_is_autograds(name):
    head = Head(WEIGHT, **HEADS[name])
    hidden = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = head.logits(hidden)
    (logits * weights).sum().backward()
    torch.testing.assert_close(head.pull(weights, logits.detach()), hidden.grad, rtol=1e-12, atol=1e-12)


def test_a_capped_or_scaled_head_of_a_bf16_model_is_formed_in_float32():
    weight, hidden = WEIGHT.bfloat16(), torch.ones(1, 2, dtype=torch.bfloat16)
    assert Head(weight).logits(hidden).dtype == torch.bfloat16
    assert Head(weight, cap=3.0).logits(hidden).dtype == torch.float32


def test_whether_it_learns():
    assert not Head(WEIGHT).learns and Head(WEIGHT.clone().requires_grad_()).learns
    assert Head(WEIGHT, bias=torch.zeros(3).requires_grad_()).learns
    assert as_head(WEIGHT).weight is WEIGHT and as_head(head := Head(WEIGHT)) is head


class Config(SimpleNamespace):
    def get_text_config(self, decoder):
        return getattr(self, "text_config", self)


def model(out, **config):
    return SimpleNamespace(get_output_embeddings=lambda: out, config=Config(**{"model_type": "x"} | config))


@pytest.mark.parametrize(
    "config, scale, cap",
    [
        ({}, 1.0, None),
        ({"model_type": "granite", "logits_scaling": 8.0}, 0.125, None),
        ({"model_type": "hyperclovax", "logits_scaling": 8.0}, 8.0, None),
        ({"logit_scale": 0.0625}, 0.0625, None),
        ({"final_logit_softcapping": 30.0}, 1.0, 30.0),
        ({"final_logit_softcapping": None, "logit_scale": True}, 1.0, None),
        ({"text_config": Config(model_type="gemma3_text", final_logit_softcapping=20)}, 1.0, 20.0),
    ],
)
def test_scale_and_cap_are_the_configs(config, scale, cap):
    linear = torch.nn.Linear(2, 3)
    head = head_of(model(linear, **config))
    assert head.weight is linear.weight and head.bias is linear.bias
    assert (head.scale, head.cap) == (scale, cap)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ValueError, match="^SimpleNamespace has no language-model head with a weight"):
        head_of(model(None))
