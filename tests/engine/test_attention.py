"""Grouped attention against the one with repeated keys, alone and inside models."""

import pytest
import torch

from lib.engine import attention

F = torch.nn.functional


def repeated(q, k, v, mask, **kw):
    n = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, k.repeat_interleave(n, 1), v.repeat_interleave(n, 1), mask, **kw)


@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (5, 1)])
@pytest.mark.parametrize("masking", ["bool", "additive", "causal", "none"])
@pytest.mark.parametrize("short", [0, 7])
def test_values_and_gradients_equal_repeated_keys(heads, masking, short, monkeypatch):
    monkeypatch.setattr(attention, "SHORT", short)  # 0: the fused gradient
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(3, h, 7, 8, generator=g, dtype=torch.float64).requires_grad_()
        for h in (heads[0], heads[1], heads[1])
    )
    mask = torch.rand(3, 1, 7, 7, generator=g) > 0.4
    mask |= torch.eye(7, dtype=torch.bool)
    mask = {"bool": mask, "additive": torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -1e9)}.get(
        masking
    )
    want = repeated(q, k, v, mask, is_causal=masking == "causal", scale=0.3)
    got = attention.grouped_attention(q, k, v, mask, causal=masking == "causal", scale=0.3)
    assert torch.allclose(got, want, atol=1e-12)
    up = torch.randn(want.shape, generator=g, dtype=torch.float64)
    for a, b in zip(torch.autograd.grad(got, (q, k, v), up), torch.autograd.grad(want, (q, k, v), up)):
        assert torch.allclose(a, b, atol=1e-12)


def test_the_short_gradient_in_bfloat16_is_as_near_to_float64_as_the_fused_one(monkeypatch):
    g = torch.Generator().manual_seed(0)
    q, k, v, up = (torch.randn(2, h, 40, 16, generator=g).bfloat16() for h in (6, 2, 2, 6))
    mask = torch.ones(40, 40, dtype=torch.bool).tril()[None, None]

    def gradients(dtype, short):
        monkeypatch.setattr(attention, "SHORT", short)
        x = [t.to(dtype).requires_grad_() for t in (q, k, v)]
        out = attention.grouped_attention(*x, mask, causal=False, scale=None)
        return out, torch.autograd.grad(out, x, up.to(dtype))

    (fused, a), (ours, b), (value, exact) = (
        gradients(torch.bfloat16, 0),
        gradients(torch.bfloat16, 40),
        gradients(torch.float64, 0),
    )
    monkeypatch.setattr(attention, "SHORT", 40)
    with torch.no_grad():  # what is trained has the values that scoring gives
        assert torch.equal(attention.grouped_attention(q, k, v, mask, causal=False, scale=None), ours)
    error = lambda got, to: [((x.double() - e).norm() / e.norm()).item() for x, e in zip(got, to)]  # noqa: E731
    assert max(error(b, exact)) < 2 * max(error(a, exact)) < 0.02
    assert error([ours], [value])[0] < 2 * error([fused], [value])[0] < 0.02


def test_a_model_gives_the_same_logits_and_generates_the_same_text(tiny_model):
    model = tiny_model.double()
    assert model.config._attn_implementation == attention.NAME
    ids = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    ask = lambda: model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)  # noqa: E731
    ours, text = model(ids, attention_mask=mask).logits, ask()
    assert torch.allclose(model(ids[:1]).logits, ours[:1], atol=1e-12)  # without a mask: causal
    model.set_attn_implementation("sdpa")
    assert torch.allclose(model(ids, attention_mask=mask).logits[mask.bool()], ours[mask.bool()], atol=1e-12)
    assert ask().tolist() == text.tolist()


@pytest.mark.parametrize("kind", [attention.NAME, "sdpa", "eager"])
def test_packed_rows_are_read_alike_by_every_attention(tiny_model, kind):
    """Two answers beside each other after their prompt give what each gives alone, whichever attention reads the
    mask: eager adds it to the scores, and a mask of true and false would move them by one nat in place of closing."""
    from lib.engine.logprobs import hidden_states, pack

    prompt, answers = [5, 6, 7], [[8, 9, 10], [11, 12]]
    alone = torch.cat([tiny_model(torch.tensor([[*prompt, *a]]), output_hidden_states=True).hidden_states[-1][
        0, len(prompt) - 1 : -1] for a in answers])  # fmt: skip
    tiny_model.set_attn_implementation(kind)
    assert torch.allclose(hidden_states(tiny_model, pack([(prompt, answers)])), alone, atol=1e-5)


def test_an_attention_that_reads_no_mask_of_ours_is_refused(tiny_model):
    from lib.engine.logprobs import hidden_states, pack

    tiny_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="by sdpa or by eager, LlamaForCausalLM .* has flash_attention_2"):
        hidden_states(tiny_model, pack([([5, 6], [[7]])]))


def test_two_masks_of_one_forward_are_not_taken_for_each_other(tiny_model):
    """A full layer and one with a window are asked in turn, as in Gemma: each is attended with its own mask."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, 6, 8, generator=g, dtype=torch.float64) for h in (4, 2, 2))
    full = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    window, position = full & ~torch.ones(6, 6, dtype=torch.bool).tril(-2), torch.arange(6)[None]
    ask = lambda mask: attention.grouped_attention(q, k, v, mask, causal=False, scale=None)  # noqa: E731
    want = [ask(m) for m in (full, window)]
    with attention.layout(full, position, position, model=tiny_model):
        got = [ask(m) for m in (full, window, full)]
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1]) and torch.equal(got[2], want[0])
    assert not torch.allclose(*want)
