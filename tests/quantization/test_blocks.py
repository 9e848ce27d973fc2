"""Which weights of a model's blocks are quantized, and that none is left out in silence."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lib import quantization
from lib.quantization.blocks import block_linears, check_covered, decoder_blocks


def tiny(kind, **settings):
    config = dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=64, max_position_embeddings=64, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config | settings)).eval()


FUSED = {
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    "olmoe": dict(num_experts=4, num_experts_per_tok=2),
    "granitemoe": dict(num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": dict(num_local_experts=4, num_experts_per_tok=2, head_dim=16),
    "jamba": dict(num_experts=4, num_experts_per_tok=2, use_mamba_kernels=False),  # experts in every other block
    "recurrent_gemma": {},  # no experts: gates kept as one block-diagonal tensor
}
CALIBRATION = [(torch.randint(0, 64, (2, 8)), torch.ones(2, 8, dtype=torch.long))]
FORMAT = dict(bits=3, group=32, symmetric=False)
WAYS = {
    "check": lambda m: quantization.check_model(m, bits=[3], groups=[32]),
    "rtn": partial(quantization.apply_rtn, **FORMAT),
    "awq": partial(quantization.apply_awq, calibration=CALIBRATION, **FORMAT),
    "gptq": partial(quantization.apply_gptq, calibration=CALIBRATION, act_order=False, **FORMAT),
    "nf4": quantization.apply_nf4,
}


@pytest.mark.parametrize("kind", FUSED)
def test_weights_that_would_stay_as_they_are_refuse_the_model(kind):
    model = tiny(kind, **FUSED[kind])
    before = copy.deepcopy(model.state_dict())
    for way in WAYS.values():
        with pytest.raises(ValueError, match=r"would stay unquantized, \d+% of the blocks' weights: .*(expert|gate)"):
            way(model)
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


def test_the_share_left_out_is_named():
    """Two blocks of attention (32 x 32, 2 of 16 x 32, 32 x 32) and four experts (128 x 32 and 32 x 64)."""
    left, linear = 4 * (128 * 32 + 32 * 64), 2 * 32 * 32 + 2 * 16 * 32
    share = f"{left / (left + linear):.0%}"
    with pytest.raises(ValueError, match=rf"4 tensors of Mixtral.* {share} of .*layers.0.mlp.experts.gate_up_proj \(4"):
        check_covered(tiny("mixtral", **FUSED["mixtral"]))


@pytest.mark.parametrize(
    "kind", ["llama", "qwen3", "gemma2", "gpt_neox", "opt", "bloom", "falcon", "phi", "lfm2", "rwkv"]
)
def test_models_of_linear_layers_pass(kind):
    model = tiny(kind)
    check_covered(model)
    quantized = quantization.apply_rtn(model, bits=4, group=-1, symmetric=False)
    assert set(quantized) == set(block_linears(model))


def test_what_nobody_quantizes_is_let_be_and_a_bare_matrix_is_not():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.place, self.conv = nn.Linear(8, 8), nn.Embedding(4, 8), nn.Conv1d(8, 8, 3, groups=8)
            self.mix, self.A_log = nn.Parameter(torch.ones(1, 1, 8)), nn.Parameter(torch.ones(8, 4))

    model = nn.Module()
    model.blocks = nn.ModuleList([Block(), Block()])
    check_covered(model)
    model.blocks[1].w = nn.Parameter(torch.ones(8, 8))
    with pytest.raises(ValueError, match=r"1 tensors of .* 33% of the blocks' weights: blocks.1.w \(8, 8\)\. Only"):
        check_covered(model)


@pytest.mark.parametrize("apply", [quantization.apply_awq, partial(quantization.apply_gptq, act_order=True)])
def test_one_block_at_a_time_is_away_and_numbers_stay(apply, monkeypatch):
    """Here both places are the CPU: what is moved, when, and that it comes back."""
    model = tiny("llama", num_hidden_layers=3)
    ids = torch.randint(64, (4, 20), generator=torch.Generator().manual_seed(0))
    calibration = [(ids, torch.ones_like(ids))]
    form = dict(bits=3, group=16, symmetric=False, calibration=calibration)
    plain, streamed = copy.deepcopy(model), copy.deepcopy(model)
    want = apply(plain, **form)
    blocks, away, real = list(decoder_blocks(streamed).values()), [], torch.nn.Module.to

    def to(module, device):
        if module in blocks and isinstance(device, str):  # the device asked for; home is a torch.device
            assert away[-1:] in ([], [None], [blocks.index(module)]), "two blocks at work"
            away.append(blocks.index(module))
        elif module in blocks:
            away.append(None)
        return real(module, device)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    got = apply(streamed, device="cpu", **form)
    assert {x for x in away if x is not None} == {0, 1, 2} and away[-1] is None
    assert got.keys() == want.keys() and all(torch.equal(got[k].codes, want[k].codes) for k in want)
    for a, b in zip(plain.parameters(), streamed.parameters()):
        torch.testing.assert_close(a, b)
