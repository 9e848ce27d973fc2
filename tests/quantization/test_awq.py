import copy
from functools import partial

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from lib.quantization import apply_awq, apply_rtn, awq, block_linears, codes_changed, rtn

FORMAT = dict(bits=3, group=16, symmetric=False)


def llama(kv_heads=2, **more):
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        **more,
    )
    return loud(LlamaForCausalLM(config).eval())


def neox(parallel=True):
    config = GPTNeoXConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        use_parallel_residual=parallel,
    )
    return loud(GPTNeoXForCausalLM(config).eval())


@torch.no_grad()
def loud(model):
    """Random weights as trained ones are: some channels much louder than others, biases that are not zero."""
    for name, p in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            p.copy_(torch.exp(torch.randn_like(p)))
        elif name.endswith("bias"):
            p.copy_(0.1 * torch.randn_like(p))
        else:
            p.mul_(5)
    return model


def calibration(n=8, length=16):
    ids = torch.randint(0, 97, (n, length))
    return [(ids, torch.ones_like(ids))]


MODELS = {
    "llama, grouped queries": llama,
    "llama": lambda: llama(4),
    "llama with biases": lambda: llama(4, attention_bias=True, mlp_bias=True),
    "neox": neox,
    "neox, sequential": lambda: neox(False),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("scaling", awq.SCALINGS)
@torch.no_grad()
def test_scaling_leaves_the_function_alone(kind, scaling):
    model, cal = MODELS[kind]().double(), calibration()
    ids = torch.randint(0, 97, (2, 20))
    before, want = copy.deepcopy(model.state_dict()), model(ids).logits
    found = awq.search(model, cal, how=awq.Effort(scaling=scaling), **FORMAT)
    torch.testing.assert_close(model(ids).logits, want, rtol=1e-8, atol=1e-8)
    scaled = [choice for choice in found.choices if choice.ratio not in (None, 0.0)]
    assert scaled and any(not torch.equal(v, before[k]) for k, v in model.state_dict().items() if "norm" in k)


@torch.no_grad()
def test_float32_too():
    model, ids = llama(), torch.randint(0, 97, (2, 20))
    want = model(ids).logits
    awq.search(model, calibration(), **FORMAT)
    torch.testing.assert_close(model(ids).logits, want, rtol=1e-3, atol=1e-3)


def test_mappings_follow_the_shapes():
    def pairs(model, block):
        return [(before, *layers) for before, layers, _ in awq.mappings(block(model))]

    layer = lambda m: m.model.layers[0]  # noqa: E731
    norm, qkv = "input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    mlp = [("post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj"), ("mlp.up_proj", "mlp.down_proj")]
    assert pairs(llama(2), layer) == [(norm, *qkv), *mlp]
    assert pairs(llama(4), layer) == [(norm, *qkv), ("self_attn.v_proj", "self_attn.o_proj"), *mlp]
    assert pairs(neox(), lambda m: m.gpt_neox.layers[0]) == [
        (norm, "attention.query_key_value"),
        ("post_attention_layernorm", "mlp.dense_h_to_4h"),
    ]
    with pytest.raises(ValueError, match="AWQ knows Llama-like and GPT-NeoX-like blocks"):
        awq.mappings(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_never_worse_than_rounding_on_the_blocks_own_objective(kind):
    found = awq.search(MODELS[kind](), calibration(), **FORMAT)
    assert all(choice.loss <= choice.loss_unscaled for choice in found.choices)
    assert any(choice.loss < 0.9 * choice.loss_unscaled for choice in found.choices)


@torch.no_grad()
def test_the_reported_losses_are_those_of_the_attention_output():
    model, (ids, mask) = llama(), calibration()[0]
    attention = {}

    def output(m):
        hook = m.model.layers[0].self_attn.register_forward_hook(lambda mod, args, out: attention.update(y=out[0]))
        m(ids)
        hook.remove()
        return attention["y"]

    want = output(model)
    scaled, plain = copy.deepcopy(model), copy.deepcopy(model)
    choice = awq.search(scaled, [(ids, mask)], how=awq.Effort(clip=False), **FORMAT).choices[0]
    for m in (plain, scaled):
        for name in choice.layers:
            layer = m.model.layers[0].get_submodule(name)
            layer.weight.copy_(rtn.fake_quant(layer.weight, **FORMAT))
    assert choice.layers == ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj") and choice.ratio is not None
    assert (output(plain) - want).square().mean().item() == pytest.approx(choice.loss_unscaled, rel=1e-4)
    assert (output(scaled) - want).square().mean().item() == pytest.approx(choice.loss, rel=1e-2)


@torch.no_grad()
def test_no_scaling_when_there_is_nothing_to_gain():
    model = llama()
    for layer in block_linears(model).values():
        layer.weight.fill_(0.25)  # on the grid: rounding is exact
    for scaling in awq.SCALINGS:
        before = copy.deepcopy(model.state_dict())
        found = awq.search(model, calibration(), how=awq.Effort(scaling=scaling), **FORMAT)
        assert all(choice.ratio is None and choice.loss_unscaled < 1e-9 for choice in found.choices)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_candidates_start_at_the_identity_and_reach_ratio_one():
    x, w = torch.rand(12) + 0.1, torch.rand(12) + 0.1
    for scaling in awq.SCALINGS:
        tries = awq.candidates(x, w, scaling=scaling, grid=20)
        assert [r for r, _ in tries] == [None] + [k / 20 for k in range(21)]
        assert torch.equal(tries[0][1], torch.ones(12))
        for ratio, s in tries[1:]:
            by_hand = [
                xi**ratio / (wi ** (1 - ratio) + 1e-4) if scaling == "duo" else xi**ratio for xi, wi in zip(x, w)
            ]
            by_hand = torch.stack([v.clamp(min=1e-4) for v in by_hand])
            torch.testing.assert_close(s, by_hand / (by_hand.max() * by_hand.min()).sqrt())
            assert (s.max() * s.min()).item() == pytest.approx(1, rel=1e-5)


def test_weight_magnitude_of_duo_scaling_by_loops():
    layers = [torch.nn.Linear(8, 3), torch.nn.Linear(8, 2)]
    w = torch.cat([layer.weight for layer in layers]).tolist()
    want = [
        sum(abs(row[i]) / max(abs(v) for v in row[i // 4 * 4 : i // 4 * 4 + 4]) for row in w) / len(w) for i in range(8)
    ]
    assert awq._relative_magnitude(layers, 4).tolist() == pytest.approx(want, rel=1e-5)


def test_clip_limits_equal_the_search_typed_again():
    w, x, group = torch.randn(5, 12), torch.randn(40, 12), 4
    w[0, 1] = 6.0  # an outlier worth cutting
    form = dict(bits=2, group=group, symmetric=False)
    gram = torch.stack([x[:, g : g + group].T @ x[:, g : g + group] for g in range(0, 12, group)])
    limits = awq.best_limits(w, gram, partial(rtn.fake_quant, **form), grid=20, max_shrink=0.5)
    for row in range(5):
        for g in range(3):
            part, xs = w[row, 4 * g : 4 * g + 4], x[:, 4 * g : 4 * g + 4]
            errors = {}
            for i in range(10):
                limit = part.abs().max() * (1 - i / 20)
                cut = rtn.fake_quant(part.clamp(-limit, limit)[None], bits=2, group=4, symmetric=False)[0]
                errors[limit.item()] = (xs @ (cut - part)).square().mean().item()
            best = min(errors.values())
            assert errors[min(errors, key=lambda m: abs(m - limits[row, g].item()))] == pytest.approx(best, rel=1e-3)
    assert (limits < w.view(5, 3, 4).abs().amax(-1)).any()


@torch.no_grad()
def test_moments_follow_the_scale():
    x, s = torch.randn(30, 12), torch.rand(12) + 0.5
    for group in (4, None, 1):
        torch.testing.assert_close(
            awq._rescale(awq._moments(x, group), s), awq._moments(x / s, group), rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
def test_limits_are_those_of_the_scaled_inputs_and_clipping_keeps_to_them():
    model, (ids, mask) = llama(4).double(), calibration()[0]
    scaled, clipped = copy.deepcopy(model), copy.deepcopy(model)
    found = awq.search(scaled, [(ids, mask)], **FORMAT)
    assert awq.transform(clipped, [(ids, mask)], **FORMAT).choices == found.choices
    inputs = {}
    for name, layer in block_linears(scaled).items():
        layer.register_forward_hook(lambda m, args, out, name=name: inputs.update({name: args[0].flatten(0, 1)}))
    scaled(ids)
    cut = 0
    for name, limit in found.limits.items():
        w = block_linears(scaled)[name].weight
        x = inputs[name].view(inputs[name].shape[0], -1, 16).transpose(0, 1)
        expected = awq.best_limits(w, x.transpose(1, 2) @ x, partial(rtn.fake_quant, **FORMAT), grid=20, max_shrink=0.5)
        torch.testing.assert_close(limit, expected)
        bound = limit.repeat_interleave(16, 1)
        assert torch.equal(block_linears(clipped)[name].weight, w.clamp(-bound, bound))
        cut += (w.abs() > bound).sum().item()
    assert cut > 0


@torch.no_grad()
def test_queries_and_keys_are_not_clipped():
    for model, skipped in ((llama(), ("q_proj", "k_proj")), (neox(), ("query_key_value",))):
        limits = awq.search(model, calibration(), **FORMAT).limits
        assert set(limits) == {name for name in block_linears(model) if not name.endswith(skipped)}
        for name, layer in block_linears(model).items():
            if name in limits:
                assert limits[name].shape == (layer.out_features, layer.in_features // 16)
    assert awq.search(llama(), calibration(), how=awq.Effort(clip=False), **FORMAT).limits == {}


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_apply_awq_beats_rtn_and_equals_rtn_on_the_transformed_weights(kind):
    model, cal = MODELS[kind](), calibration(24)
    quantized, latent, nearest = (copy.deepcopy(model) for _ in range(3))
    result = apply_awq(quantized, cal, **FORMAT)
    apply_rtn(nearest, **FORMAT)
    found = awq.transform(latent, cal, **FORMAT)
    assert list(result) == list(block_linears(model)) and found.limits
    for name, layer in block_linears(quantized).items():
        assert torch.equal(layer.weight, result[name].dequantize())
        source = block_linears(latent)[name].weight
        assert not torch.equal(source, layer.weight)  # full precision, scaled and clipped
        assert codes_changed(rtn.quantize(source, **FORMAT), result[name]) == 0
    want = model(cal[0][0]).logits
    error = [(m(cal[0][0]).logits - want).norm().item() for m in (quantized, nearest)]
    assert error[0] < error[1]


@torch.no_grad()
def test_bfloat16_models_stay_bfloat16():
    model = llama().to(torch.bfloat16)
    result = apply_awq(model, calibration(), **FORMAT)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for name, layer in block_linears(model).items():
        assert torch.equal(layer.weight, result[name].dequantize(torch.bfloat16))


def test_what_is_not_finite_stops_the_search_and_weights_come_back():
    layer = torch.nn.Linear(8, 4)
    before = layer.weight.clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match="not finite"):
        awq.best_scale([layer], lambda: float("nan"), [(None, torch.ones(8))], lambda w: w * 0)
    assert torch.equal(layer.weight, before)


def test_a_norm_that_is_not_a_product_is_found_out():
    model = llama()

    class OffsetNorm(torch.nn.Module):  # Gemma's: 1 + weight
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.exp(torch.randn(32)))

        def forward(self, x):
            return torch.nn.functional.rms_norm(x, (32,)) * (1 + self.weight)

    model.model.layers[1].input_layernorm = OffsetNorm()
    with pytest.raises(RuntimeError, match=r"scaling changed the output of model\.layers\.1"):
        awq.search(model, calibration(), **FORMAT)


def test_refusals_come_before_the_work():
    for wrong, say in (
        ({"how": awq.Effort(scaling="both")}, "scaling must be one of activation, duo"),
        ({"how": awq.Effort(grid=0)}, "grid must be at least 1"),
        ({"how": awq.Effort(max_shrink=1.0)}, "max_shrink in"),
        ({"group": 32}, "group 32 does not divide the 48"),
    ):
        with pytest.raises(ValueError, match=say):
            awq.search(llama(), iter(()), **{**FORMAT, **wrong})
    with pytest.raises(ValueError, match="no tokens"):
        awq.search(llama(), [], **FORMAT)
    with pytest.raises(ValueError, match=r"both \(B, T\)"):
        awq.search(llama(), [(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.long))], **FORMAT)


@pytest.mark.parametrize("tokens, chunks", [(1, 1), (512, 1), (513, 2), (10**9, 3)])
def test_losses_use_the_first_tokens_rounded_up_to_chunks(monkeypatch, tokens, chunks):
    used, calls = [], awq._calls
    monkeypatch.setattr(awq, "_calls", lambda *a: used.append(list(a[3])) or calls(*a))
    awq.search(llama(), 3 * calibration(32), how=awq.Effort(grid=2, clip=False, tokens=tokens), **FORMAT)
    assert used == [list(range(chunks))] * 2  # of both blocks
