import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from lib.quantization import (
    Quantized,
    apply_nf4,
    apply_rtn,
    block_linears,
    check_format,
    codes_changed,
    nf4,
    rtn,
    straight_through,
)

PRINTED_NF4 = [
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip


def llama():
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def neox():
    config = GPTNeoXConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, rotary_pct=0.5
    )
    return GPTNeoXForCausalLM(config).eval()


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---------------------------------------------------------------- round to nearest


def test_two_bits_by_hand():
    w = torch.tensor([[-1.0, 0.2, 0.6, 2.0]], dtype=torch.float64)  # s = 3 / 3 = 1, z = 1
    q = rtn.quantize(w, bits=2, group=4, symmetric=False)
    assert q.codes.tolist() == [[0, 1, 2, 3]]
    assert q.scale.tolist() == [[1.0]] and q.zero.tolist() == [[1.0]]
    assert q.dequantize(torch.float64).tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    w = torch.tensor([[-3.0, 0.5, 1.6, 2.0]], dtype=torch.float64)  # 3 bits: s = 3 / 3 = 1
    q = rtn.quantize(w, bits=3, group=4, symmetric=True)
    assert q.codes.tolist() == [[-3, 0, 2, 2]] and q.zero is None


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_scalar_loops_give_the_same_codes(bits, symmetric):
    w = torch.randn(5, 12, dtype=torch.float64)
    w[0, :4] = w[0, :4].abs() + 1
    w[1, 4:8] = 0
    q = rtn.quantize(w, bits=bits, group=4, symmetric=symmetric)
    for row in range(5):
        for start in range(0, 12, 4):
            part = w[row, start : start + 4].tolist()
            if symmetric:
                scale, zero = max(abs(v) for v in part) / (2 ** (bits - 1) - 1), 0
                low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            else:
                scale = (max(*part, 0.0) - min(*part, 0.0)) / (2**bits - 1)
                low, high = 0, 2**bits - 1
                zero = round(-min(*part, 0.0) / scale) if scale else 0
            for i, value in enumerate(part):
                code = min(max((round(value / scale) if scale else 0) + zero, low), high)
                assert q.codes[row, start + i].item() == code
                got = q.dequantize(torch.float64)[row, start + i].item()
                assert got == pytest.approx((code - zero) * scale, abs=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [16, 96, None, -1])
@pytest.mark.parametrize("bits", range(2, 9))
def test_fake_quant_is_quantize_then_dequantize_bit_for_bit(bits, group, symmetric):
    w = torch.randn(40, 192) * torch.rand(40, 1)
    settings = dict(bits=bits, group=group, symmetric=symmetric)
    fake = rtn.fake_quant(w, **settings)
    assert torch.equal(fake, rtn.quantize(w, **settings).dequantize())
    assert fake.dtype == torch.float32 and not torch.equal(fake, w)
    half = w.to(torch.bfloat16)
    assert torch.equal(rtn.fake_quant(half, **settings), rtn.quantize(half, **settings).dequantize())


@pytest.mark.parametrize(
    "bits, expected",
    [
        (2, {None: 0.548, 128: 0.505, 64: 0.457, 32: 0.407}),
        (3, {None: 0.235, 128: 0.216, 64: 0.194, 32: 0.173}),
        (4, {None: 0.109, 128: 0.101, 64: 0.091, 32: 0.081}),
    ],
)
def test_relative_error_on_gaussian_weights(bits, expected):
    w = torch.randn(1024, 256)
    for group, error in expected.items():
        assert relative_error(rtn.fake_quant(w, bits=bits, group=group, symmetric=False), w) == pytest.approx(
            error, rel=0.05
        )


def test_relative_error_falls_with_bits():
    w = torch.randn(256, 256)
    assert relative_error(rtn.fake_quant(w, bits=8, group=None, symmetric=False), w) == pytest.approx(0.006, abs=0.0007)
    for symmetric in (False, True):
        errors = [relative_error(rtn.fake_quant(w, bits=b, group=64, symmetric=symmetric), w) for b in range(2, 9)]
        assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_group_of_one_sign_keeps_its_values(sign):
    w = sign * torch.linspace(1.0, 1.1, 32)[None]
    error = (rtn.fake_quant(w, bits=4, group=32, symmetric=False) - w).abs().max().item()
    assert error <= 1.1 / 15 / 2 + 1e-6  # half a step; without zero in the range it is 1.0


def test_zeros_and_tiny_weights_stay_finite():
    for value in (0.0, 1e-20, -1e-9):
        w = torch.full((2, 8), value)
        for symmetric in (False, True):
            w_hat = rtn.fake_quant(w, bits=4, group=4, symmetric=symmetric)
            assert torch.isfinite(w_hat).all() and (w_hat - w).abs().max() <= 1e-12


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_twice_is_rounding_once(bits, symmetric):
    w = torch.randn(64, 128)
    once = rtn.quantize(w, bits=bits, group=32, symmetric=symmetric)
    twice = rtn.quantize(once.dequantize(), bits=bits, group=32, symmetric=symmetric)
    assert torch.equal(once.codes, twice.codes)
    torch.testing.assert_close(twice.dequantize(), once.dequantize(), rtol=1e-5, atol=1e-6)


def test_bits_per_weight():
    w, half = torch.randn(2, 128), torch.bfloat16
    assert rtn.quantize(w, bits=4, group=64, symmetric=False, scales=half).bits_per_weight == 4 + 20 / 64
    assert rtn.quantize(w, bits=3, group=None, symmetric=True, scales=half).bits_per_weight == 3 + 16 / 128
    assert rtn.quantize(w, bits=3, group=None, symmetric=True).bits_per_weight == 3 + 32 / 128
    assert nf4.quantize(w, block=64, double_quant=False).bits_per_weight == 4.5
    assert nf4.quantize(w, block=64, double_quant=True).bits_per_weight == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_steps_are_rounded_to_the_type_they_are_stored_in_before_weights_are(bits, symmetric):
    """Rows of both signs, of one, where a zero-point stands at the end of its range, and of zeros."""
    w = torch.cat([torch.randn(200, 64) * torch.rand(200, 1), -torch.rand(200, 64) - 0.5, torch.zeros(1, 64)])
    form = dict(bits=bits, group=32, symmetric=symmetric)
    q, free = rtn.quantize(w, **form, scales=torch.bfloat16), rtn.quantize(w, **form)
    assert q.scale.dtype == torch.bfloat16 and torch.equal(q.scale, free.scale.to(torch.bfloat16))
    assert symmetric or (q.zero.min() >= 0 and q.zero.max() <= 2**bits - 1)
    assert torch.equal(q.dequantize(), rtn.fake_quant(w, **form, scales=torch.bfloat16))
    step = q.scale.float().repeat_interleave(32, 1)
    off = (q.dequantize() - w).abs() / step
    assert off.max() <= 1.0 + 2**bits * 2**-8  # half a step, half one of the zero-point, and what the rounding cuts off
    assert not torch.equal(q.dequantize(), free.dequantize())
    assert torch.equal(rtn.fake_quant(w, **form, scales=torch.float32), free.dequantize())
    assert torch.equal(  # in bfloat16 a product of two short numbers rounds once, wherever it is formed
        q.dequantize(torch.bfloat16),
        ((q.codes.float() - (0 if q.zero is None else q.zero.repeat_interleave(32, 1))).bfloat16() * step.bfloat16()),
    )


@pytest.mark.parametrize("bits", [1, 9, 4.0, True])
def test_bits_outside_two_to_eight_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be a whole number from 2 to 8"):
        check_format(bits, 4, 8)


@pytest.mark.parametrize(
    "group, say", [(5, "does not divide the 8 input channels"), (0, "positive"), (-2, "positive"), (2.0, "positive")]
)
def test_groups_that_do_not_fit_are_refused(group, say):
    with pytest.raises(ValueError, match=say):
        rtn.quantize(torch.randn(2, 8), bits=4, group=group, symmetric=False)


def test_whole_rows():
    assert check_format(4, None, 24) == check_format(4, -1, 24) == check_format(4, 24, 24) == 24


def test_weights_that_cannot_be_rounded_are_refused():
    settings = dict(bits=4, group=4, symmetric=False)
    for bad in (float("nan"), float("inf")):
        w = torch.randn(2, 8)
        w[1, 3] = bad
        with pytest.raises(ValueError, match="not finite"):
            rtn.quantize(w, **settings)
    for w in (torch.randn(8), torch.ones(2, 8, dtype=torch.int8)):
        with pytest.raises(ValueError, match="floating-point matrix"):
            rtn.fake_quant(w, **settings)


# ---------------------------------------------------------------- models


def test_block_linears_of_llama_and_neox():
    names = [f"model.layers.{i}.{n}" for i in range(2) for n in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )]  # fmt: skip
    assert list(block_linears(llama())) == names
    names = [f"gpt_neox.layers.{i}.{n}" for i in range(2) for n in (
        "attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
    )]  # fmt: skip
    assert list(block_linears(neox())) == names


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="Sequential has no ModuleList"):
        block_linears(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_apply_rtn_writes_what_it_returns_and_nothing_else(dtype):
    model = llama().to(dtype)
    before = copy.deepcopy(model.state_dict())
    result = apply_rtn(model, bits=3, group=16, symmetric=False, track=lambda it, desc: it)
    assert set(result) == set(block_linears(model))
    for name, value in model.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer in result:
            assert torch.equal(value, result[layer].dequantize().to(dtype)) and not torch.equal(value, before[name])
            assert torch.equal(result[layer].codes, rtn.quantize(before[name], bits=3, group=16, symmetric=False).codes)
        else:
            assert torch.equal(value, before[name])


def test_apply_rtn_refuses_before_it_touches_the_model():
    model = llama()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="group 32 does not divide the 48"):
        apply_rtn(model, bits=4, group=32, symmetric=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_formats_are_checked_against_every_layer_before_work():
    from lib.quantization import check_model

    model = llama()
    check_model(model, bits=[3, 8], groups=[16, -1, None])
    with pytest.raises(ValueError, match=r"layers\.0\..*group 48 does not divide"):
        check_model(model, bits=[4], groups=[16, 48])
    with pytest.raises(ValueError, match="bits must be a whole number from 2 to 8, not 9"):
        check_model(model, bits=[9], groups=[16])


def test_sixteen_levels_of_eight_bits_leave_the_output_almost_alone():
    model, ids = llama(), torch.randint(0, 97, (2, 12))
    quantized = copy.deepcopy(model)
    apply_rtn(quantized, bits=8, group=16, symmetric=False)
    assert relative_error(quantized(ids).logits, model(ids).logits) < 0.01


def test_no_transformers_at_import():
    code = "import sys, lib.quantization; sys.exit(any(m in sys.modules for m in "
    code += "('transformers', 'bitsandbytes', 'compressed_tensors')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------- straight through


def test_straight_through_forward_is_the_quantizer_and_backward_the_plain_linear():
    quantizer = partial(rtn.fake_quant, bits=3, group=8, symmetric=False)
    w, x, y = torch.randn(64, 256) * 0.37, torch.randn(5, 256), torch.randn(5, 64)
    latent = w.clone().requires_grad_()
    w_q = straight_through(latent, quantizer)
    assert torch.equal(w_q, quantizer(w))
    far = lambda v: torch.full_like(v, 1 / 3)  # noqa: E731  here w + (Q(w) - w) is off by rounding
    assert torch.equal(straight_through(latent, far), far(w)) and not torch.equal(w + (far(w) - w), far(w))
    ((x @ w_q.T - y) ** 2).sum().backward()
    plain = quantizer(w).requires_grad_()
    ((x @ plain.T - y) ** 2).sum().backward()
    assert torch.equal(latent.grad, plain.grad)
    torch.testing.assert_close(latent.grad, 2 * (x @ quantizer(w).T - y).T @ x, rtol=1e-4, atol=1e-4)


def test_straight_through_passes_large_weights_and_bfloat16():
    w = torch.tensor([[-5.0, 3.0, 0.1, 2.5]], dtype=torch.bfloat16, requires_grad=True)
    straight_through(w, partial(rtn.fake_quant, bits=4, group=4, symmetric=False)).sum().backward()
    assert w.grad.tolist() == [[1.0] * 4] and w.grad.dtype == torch.bfloat16


def test_a_step_without_gradient_changes_no_code_and_a_large_one_does():
    quantize = partial(rtn.quantize, bits=4, group=8, symmetric=False)
    w = nn.Parameter(torch.randn(6, 16))
    before = quantize(w)
    optimizer = torch.optim.SGD([w], lr=1.0)
    (straight_through(w, partial(rtn.fake_quant, bits=4, group=8, symmetric=False)).sum() * 0).backward()
    optimizer.step()
    assert codes_changed(before, quantize(w)) == 0.0
    moved = Quantized(before.codes.clone(), before.scale, before.zero, 4, 8)
    moved.codes[0, :3] ^= 1
    assert codes_changed(before, moved) == 3 / 96
    with pytest.raises(ValueError, match="cannot be compared"):
        codes_changed(before, rtn.quantize(torch.randn(2, 16), bits=4, group=8, symmetric=False))


def test_a_zero_point_that_steps_renames_codes_and_changes_nothing():
    """Steps of 1: -7.5 .. 7.5 has its zero-point at a tie, round(7.5) = 8; a hair less and it is 7."""
    w = torch.tensor([[-7.5, 7.5, 1, 2, 3, -1, -2, 0.25]])
    quantize = partial(rtn.quantize, bits=4, group=8, symmetric=False)
    before, after = quantize(w), quantize(torch.cat([w[:, :1] + 1e-4, w[:, 1:]], 1))
    assert before.codes.tolist() == [[0, 15, 9, 10, 11, 7, 6, 8]] and before.zero.item() == 8
    assert after.codes.tolist() == [[0, 15, 8, 9, 10, 6, 5, 7]] and after.zero.item() == 7
    assert codes_changed(before, after) == 2 / 8  # the two ends: -8, 7 and now -7, 8 steps from zero


@pytest.mark.parametrize("bits, group", [(3, 32), (4, 64), (5, 64), (8, -1)])
def test_noise_changes_about_nothing_and_a_step_what_it_changes(bits, group):
    quantize = partial(rtn.quantize, bits=bits, group=group, symmetric=False)
    w = torch.randn(256, 512) * 0.05
    assert codes_changed(quantize(w), quantize(w + 1e-7 * torch.randn_like(w))) < 1e-4
    step = quantize(w).scale.mean()
    moved = w.clone()
    moved[:64] += step * torch.randn(64, 512).sign()  # a quarter of the rows, by one step each
    assert 0.18 < codes_changed(quantize(w), quantize(moved)) < 0.26  # those at a group's ends carry it along


# ---------------------------------------------------------------- NF4


def test_nf4_table_is_the_printed_one():
    assert nf4.nf4_table().tolist() == pytest.approx(PRINTED_NF4, abs=1e-6)


@pytest.mark.parametrize(
    "shape", [(6, 64), (32, 32), (8, 272), (3, 100), (3, 33)]
)  # rows and ends that are no whole block
def test_bitsandbytes_rounds_to_our_table(shape):
    w, table = torch.randn(shape) * 0.05, nf4.nf4_table()
    q = nf4.quantize(w, block=64, double_quant=False)
    flat, codes, w_hat = w.flatten().tolist(), q.codes.flatten().tolist(), q.dequantize().flatten().tolist()
    for start in range(0, len(flat), 64):
        part = flat[start : start + 64]
        peak = max(map(abs, part))
        for i, value in enumerate(part, start):
            nearest = min(abs(value / peak - level) for level in table.tolist())
            assert abs(value / peak - table[codes[i]].item()) <= nearest + 1e-6
            assert w_hat[i] == pytest.approx(table[codes[i]].item() * peak, abs=1e-6)


def test_nf4_error_and_what_double_quantization_costs():
    w = torch.randn(512, 256)
    plain, double = (nf4.fake_quant(w, block=64, double_quant=d) for d in (False, True))
    assert relative_error(plain, w) == pytest.approx(0.092, rel=0.05)
    assert relative_error(plain, w) < relative_error(double, w) < 1.05 * relative_error(plain, w)


def test_apply_nf4():
    model = llama()
    before = copy.deepcopy(model)
    result = apply_nf4(model, block=64, double_quant=True)
    after, original = block_linears(model), block_linears(before)
    assert set(result) == set(after)
    for name, q in result.items():
        assert torch.equal(after[name].weight, q.dequantize())
        assert 0.02 < relative_error(after[name].weight, original[name].weight) < 0.12
    assert torch.equal(model.lm_head.weight, before.lm_head.weight)
    assert codes_changed(result[name], nf4.quantize(original[name].weight, block=64, double_quant=True)) == 0


def test_nf4_refusals():
    with pytest.raises(ValueError, match="power of two"):
        nf4.quantize(torch.randn(4, 4), block=48, double_quant=True)
    with pytest.raises(ValueError, match="matrix"):
        nf4.quantize(torch.randn(4), block=64, double_quant=True)


def test_codes_reach_from_the_smallest_to_the_largest_and_no_further():
    """Weights that have left their group's range, as in training with a fixed grid, are cut at both ends."""
    for bits in range(2, 9):
        assert rtn.levels(bits, True) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        assert rtn.levels(bits, False) == (0, 2**bits - 1)
    w, one = torch.tensor([[-100.0, 100.0, 1.0]]), torch.tensor([[1.0]])
    assert rtn.to_codes(w, one, None, bits=4, symmetric=True).tolist() == [[-8, 7, 1]]
    assert rtn.to_codes(w, one, 3 * one, bits=4, symmetric=False).tolist() == [[0, 15, 4]]
