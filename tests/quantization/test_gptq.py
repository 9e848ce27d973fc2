import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lib.quantization import apply_gptq, apply_rtn, awq, block_linears, gptq, rtn
from lib.quantization.blocks import BlockStream

FORMAT = dict(bits=3, group=16, symmetric=False)


def correlated(n=2048, width=64):
    """Inputs of a layer as language models have them: few directions, a few loud channels."""
    x = torch.randn(n, 16) @ torch.randn(16, width) + 0.5 * torch.randn(n, width)
    return x * torch.exp(torch.randn(width))


def hessian(x):
    return 2 / len(x) * x.T @ x


def output_error(w_hat, w, x):
    return ((x @ (w_hat - w).T).norm() / (x @ w.T).norm()).item()


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


def calibration(n=24, length=32):
    ids = torch.randint(0, 97, (n, length))
    return [(ids, torch.ones_like(ids))]


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_beats_awq_beats_rtn_on_correlated_inputs(bits, act_order):
    form = dict(bits=bits, group=16, symmetric=False)
    w, x = torch.randn(48, 64), correlated()
    layer = torch.nn.Linear(64, 48, bias=False)
    layer.weight.data = w.clone()
    target = x @ w.T
    with torch.no_grad():
        _, s, loss, unscaled = awq.best_scale(
            [layer],
            lambda: (layer(x) - target).square().mean().item(),
            awq.candidates(x.abs().mean(0), torch.ones(64), scaling="activation", grid=20),
            lambda v: rtn.fake_quant(v, **form),
        )
    assert torch.equal(layer.weight, w) and loss < unscaled
    nearest = output_error(rtn.fake_quant(w, **form), w, x)
    scaled = output_error(rtn.fake_quant(w * s, **form) / s, w, x)
    compensated = output_error(gptq.quantize_layer(w, hessian(x), act_order=act_order, **form).dequantize(), w, x)
    assert compensated < 0.9 * scaled < 0.9 * 0.97 * nearest


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [16, None])
def test_gptq_is_rtn_where_inputs_are_uncorrelated(group, act_order, symmetric):
    w, form = torch.randn(8, 64), dict(bits=3, group=group, symmetric=symmetric)
    nearest = rtn.quantize(w, **form)
    for h in (torch.eye(64), torch.diag(torch.rand(64) + 0.1)):
        q = gptq.quantize_layer(w, h, act_order=act_order, **form)
        assert torch.equal(q.codes, nearest.codes) and torch.equal(q.scale, nearest.scale)
        assert torch.equal(q.dequantize(), nearest.dequantize())


def by_definition(w, h, bits, width, damp):
    """Column by column with the inverse of the Hessian of the columns left, as optimal brain surgery states it; no
    Cholesky."""
    w, h = w.clone(), h.clone()
    h += damp * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    out = torch.zeros_like(w)
    for i in range(w.shape[1]):
        if i % width == 0:
            low = w[:, i : i + width].amin(1).clamp(max=0)
            scale = (w[:, i : i + width].amax(1).clamp(min=0) - low) / (2**bits - 1)
            zero = (-low / scale).round()
        out[:, i] = ((w[:, i] / scale).round().add(zero).clamp(0, 2**bits - 1) - zero) * scale
        inverse = torch.linalg.inv(h[i:, i:])
        w[:, i:] -= ((w[:, i] - out[:, i]) / inverse[0, 0])[:, None] * inverse[0]
    return out


@pytest.mark.parametrize("width, block", [(8, 128), (32, 128), (32, 8), (32, 5)])
def test_gptq_equals_the_definition_whatever_the_block(width, block):
    w, x = torch.randn(6, 32, dtype=torch.float64), correlated(256, 32).double()
    q = gptq.quantize_layer(
        w, hessian(x), bits=3, group=width, symmetric=False, act_order=False, block=block, damp=0.05
    )
    torch.testing.assert_close(
        q.dequantize(torch.float64), by_definition(w, hessian(x), 3, width, 0.05), rtol=1e-9, atol=1e-9
    )


def test_act_order_takes_loud_columns_first_on_grids_fitted_beforehand():
    w, x = torch.randn(6, 32, dtype=torch.float64), correlated(256, 32).double()
    h = hessian(x)
    order = h.diagonal().argsort(descending=True)
    form = dict(bits=3, symmetric=False)
    q = gptq.quantize_layer(w, h, group=8, act_order=True, **form)
    assert torch.equal(q.scale, rtn.quantize(w, group=8, **form).scale)
    first = order[0]  # nothing has moved it yet
    assert torch.equal(q.codes[:, first], rtn.quantize(w, group=8, **form).codes[:, first])
    # with one group a row, permuting before or inside is the same, except that a row's grid is fitted first either way
    q = gptq.quantize_layer(w, h, group=None, act_order=True, **form)
    permuted = gptq.quantize_layer(w[:, order], h[order][:, order], group=None, act_order=False, **form)
    assert torch.equal(q.codes[:, order], permuted.codes)


def test_dead_columns_become_zero_and_the_rest_stays_right():
    w, x = torch.randn(8, 64), correlated()
    x[:, [3, 40]] = 0
    q = gptq.quantize_layer(w, hessian(x), act_order=False, **FORMAT).dequantize()
    assert (q[:, [3, 40]] == 0).all() and torch.isfinite(q).all()
    assert output_error(q, w, x) < output_error(rtn.fake_quant(w, **FORMAT), w, x)


def test_the_scale_of_the_hessian_and_the_argument_are_left_alone():
    w, h = torch.randn(8, 64), hessian(correlated())
    w_before, h_before = w.clone(), h.clone()
    a = gptq.quantize_layer(w, h, act_order=False, **FORMAT)
    b = gptq.quantize_layer(w, 4 * h, act_order=False, **FORMAT)
    assert torch.equal(a.codes, b.codes) and torch.equal(w, w_before) and torch.equal(h, h_before)


def test_refusals():
    w = torch.randn(8, 64)
    with pytest.raises(ValueError, match=r"needs a Hessian \(64, 64\)"):
        gptq.quantize_layer(w, torch.eye(8), act_order=False, **FORMAT)
    with pytest.raises(ValueError, match="does not divide"):
        gptq.quantize_layer(w, torch.eye(64), bits=3, group=48, symmetric=False, act_order=False)
    with pytest.raises(RuntimeError, match="not positive definite"):
        gptq.quantize_layer(w, -torch.eye(64), act_order=False, **FORMAT)
    with pytest.raises(ValueError, match="no tokens"):
        apply_gptq(llama(), [], act_order=False, **FORMAT)


@torch.no_grad()
def test_apply_gptq_beats_rtn_at_the_model_output_and_keeps_the_rest():
    model, cal = llama(), calibration()
    nearest, compensated = copy.deepcopy(model), copy.deepcopy(model)
    apply_rtn(nearest, **FORMAT)
    seen = []
    result = apply_gptq(compensated, cal, act_order=True, track=lambda it, desc: seen.append(desc) or it, **FORMAT)
    assert seen == ["GPTQ 3 bits"] and list(result) == list(block_linears(model))
    for name, layer in block_linears(compensated).items():
        assert torch.equal(layer.weight, result[name].dequantize())
    for name, value in model.state_dict().items():
        if name.removesuffix(".weight") not in result:
            assert torch.equal(value, compensated.state_dict()[name])
    want = model.model(cal[0][0]).last_hidden_state
    error = [(m.model(cal[0][0]).last_hidden_state - want).norm() for m in (compensated, nearest)]
    assert error[0] < 0.9 * error[1]


@torch.no_grad()
def test_second_block_is_calibrated_on_the_quantized_first():
    model, cal = llama(), calibration(4)
    result = apply_gptq(quantized := copy.deepcopy(model), cal, act_order=False, **FORMAT)
    inputs = []
    hook = quantized.model.layers[1].self_attn.q_proj.register_forward_pre_hook(lambda m, a: inputs.append(a[0]))
    quantized.model(cal[0][0])
    hook.remove()
    x = inputs[0].flatten(0, 1)
    again = gptq.quantize_layer(model.model.layers[1].self_attn.q_proj.weight, hessian(x), act_order=False, **FORMAT)
    assert (again.codes != result["model.layers.1.self_attn.q_proj"].codes).float().mean() < 0.01


@torch.no_grad()
def test_padding_and_chunks_change_no_statistic(monkeypatch):
    model, (ids, mask) = llama(), calibration(6, 10)[0]
    padded = torch.nn.functional.pad(ids, (0, 5), value=1), torch.nn.functional.pad(mask, (0, 5))
    gram = lambda x: x.T @ x  # noqa: E731
    out, want = BlockStream(model, [(ids, mask)]).watch(0, gram)
    _, got = BlockStream(model, [padded]).watch(0, gram)
    monkeypatch.setattr("lib.quantization.blocks.ROWS", 20)
    stream = BlockStream(model, [(ids[:3], mask[:3]), (ids[3:], mask[3:])])
    parts, split = stream.watch(0, gram)
    assert len(stream.hidden) == 4 and len(out) == 1
    torch.testing.assert_close(torch.cat(parts), out[0])
    for name, value in want.items():
        torch.testing.assert_close(got[name], value)
        torch.testing.assert_close(split[name], value)
    assert want["self_attn.q_proj"] is want["self_attn.v_proj"] and want["mlp.down_proj"].shape == (48, 48)


@torch.no_grad()
def test_the_stream_of_blocks_is_the_model():
    model, cal = llama(), calibration(3, 7)
    states = model.model(cal[0][0], output_hidden_states=True).hidden_states
    stream = BlockStream(model, cal)
    torch.testing.assert_close(stream.hidden[0], states[0])
    stream.hidden = stream.forward(0)
    torch.testing.assert_close(stream.hidden[0], states[1])
