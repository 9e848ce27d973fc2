"""What stands behind the weights that train: values, gradients, places."""

from functools import partial

import pytest
import torch
from torch import nn

from lib.engine import latents, memory
from lib.quantization import rtn
from tests.engine.regression import Q, X, Y, fit, linear, loss_of


def test_straight_through_gradient_is_the_plain_one_at_the_quantized_weight():
    m = linear()
    latent = latents.Latent({"a": m}, partial(latents.Full, quantizer=Q))
    with latent.training():
        loss_of(m)(range(4))[0].backward()
        latent.backward()
    wq = Q(linear().weight).requires_grad_()
    ((X[:4] @ wq.T - Y[:4]) ** 2).sum().backward()
    assert torch.allclose(latent.parameters[0].grad, wq.grad, atol=1e-6) and wq.grad.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masters_round_to_the_weights_they_came_from_and_small_steps_count(dtype):
    """Steps far below the spacing of bfloat16 change a fitting share of the weights: their mean moves by the step."""
    g = torch.Generator().manual_seed(0)
    weight = torch.cat(
        [torch.randn(400, 250, generator=g) * 0.05, torch.tensor([0.0, 1.0, -2.0, 0.5, 1e-30] * 50)[None]]
    ).to(dtype)
    master = latents.dithered(weight)
    assert torch.equal(master.to(dtype), weight) and torch.equal(latents.dithered(weight), master)
    big = (weight.abs() > 0.03) & (weight.abs() < 0.2)
    for step in (1e-5, -1e-5):
        centred = (weight.float() + step).to(dtype) - weight
        moved = (master + step).to(dtype).float() - weight.float()
        assert moved[big].mean().item() == pytest.approx(step, rel=0.15)
        assert dtype == torch.float16 or centred[big].abs().max() == 0  # what masters in the middle would do: nothing
    plain = torch.randn(3, 3)
    assert torch.equal(latents.dithered(plain), plain)


def test_deployed_weights_are_q_of_latent_bit_for_bit():
    for dtype in (torch.float32, torch.bfloat16):
        m = linear().to(dtype)
        latent = latents.Latent({"a": m}, partial(latents.Full, quantizer=Q))
        if dtype == torch.float32:
            fit(latent, m)
        assert torch.equal(m.weight, Q(latent.parameters[0].detach()).to(dtype))
        assert torch.equal(
            m.weight,
            rtn.quantize(latent.parameters[0].detach(), bits=3, group=4, symmetric=False).dequantize().to(dtype),
        )


def test_lora_before_the_quantizer():
    m = linear()
    make = partial(latents.LoRA, quantizer=Q, rank=2, alpha=4.0, generator=torch.Generator().manual_seed(0))
    latent = latents.Latent({"a": m}, make)
    assert torch.equal(m.weight, Q(linear().weight))  # B starts at zero
    fit(latent, m)
    b, a = (p.detach().clone().requires_grad_() for p in latent.parameters)
    assert b.abs().max() > 0
    with latent.training():
        loss_of(m)(range(4))[0].backward()
        latent.backward()
    w = linear().weight + 2.0 * (b @ a)
    straight = w + (Q(w.detach()) - w.detach())
    ((X[:4] @ straight.T - Y[:4]) ** 2).sum().backward()
    assert torch.allclose(latent.parameters[0].grad, b.grad, atol=1e-5) and torch.allclose(
        latent.parameters[1].grad, a.grad, atol=1e-5
    )


def test_an_adapter_never_forms_a_gradient_of_its_weights_size():
    """Neither the compute weight nor anything of its shape is handed a gradient; sums over micro-batches are those of
    one batch."""
    m = nn.Linear(64, 48, bias=False)
    make = partial(latents.LoRA, quantizer=Q, rank=2, alpha=4.0, generator=torch.Generator().manual_seed(0))
    latent, x = latents.Latent({"a": m}, make), torch.randn(6, 5, 64)
    with torch.no_grad():
        latent.parameters[0].normal_()
    latent.sync()
    whole = []
    for parts in ((slice(None),), (slice(0, 2), slice(2, 6))):
        with latent.training():
            for part in parts:
                m(x[part]).square().sum().backward()
            latent.backward()
        assert m.weight.grad is None and not m.weight.requires_grad and "forward" not in m.__dict__
        whole.append([p.grad.clone() for p in latent.parameters])
    for a, b in zip(*whole):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    with latent.training():
        assert all(p.grad is None for p in latent.parameters)  # what a step that failed had gathered


def test_nothing_is_left_on_the_weights():
    m = linear()
    latent = latents.Latent({"a": m}, partial(latents.Full, quantizer=None))
    with latent.training():
        for part in (range(2), range(2, 4)):
            loss_of(m)(part)[0].backward()
            assert m.weight.grad is None
    sums = latent.gradients["a"].clone()
    with latent.training():
        latent.gradients["a"] = None
        loss_of(m)(range(4))[0].backward()
    assert torch.allclose(sums, latent.gradients["a"], atol=1e-5) and sums.abs().max() > 0.1
    assert not m.weight.requires_grad and not m.weight._post_accumulate_grad_hooks


def test_what_a_backward_pass_of_an_adapter_holds_is_thin():
    """On real numbers: no tensor of the weight's size is made, which the product G = dy^T x would be."""
    m = nn.Linear(256, 256, bias=False)
    make = partial(latents.LoRA, quantizer=Q, rank=2, alpha=4.0, generator=torch.Generator().manual_seed(0))
    latent, x = latents.Latent({"a": m}, make), torch.randn(4, 256)
    with latent.training():
        loss = m(x).square().sum()
        with memory.Meter() as meter:
            loss.backward()
    assert 0 < meter.peak.device < m.weight.numel() * 4 / 4


def test_latents_on_the_host_learn_the_same():
    ends = []
    for host in (False, True):
        m = linear()
        fit(latents.Latent({"a": m}, partial(latents.Full, quantizer=Q, host=host)), m)
        ends.append(m.weight.clone())
    torch.testing.assert_close(*ends)
    assert not torch.equal(ends[0], linear().weight)


@pytest.mark.parametrize("quantizer", [None, Q])
def test_latents_lie_where_their_weights_do(quantizer):
    """On a device that this machine need not have: shapes and devices are computed, numbers are not."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        weight = torch.empty(6, 8, device="cuda")
        adapter = dict(rank=2, alpha=4.0, generator=torch.Generator().manual_seed(0))
        for latent in (latents.LoRA(weight, Q, **adapter), latents.Full(weight, quantizer)):
            assert {p.device.type for p in latent.parameters} == {"cuda"} == {latent.weight().device.type}
