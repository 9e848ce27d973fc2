"""Rows attended part by part against the same rows behind one mask, in float64: values, gradients, windows."""

import pytest
import torch

from lib.engine import attention, cuts, latents, logprobs, packing

PROMPTS, LENGTHS = (7, 3, 5), ((4, 9, 1), (6,), (2, 2, 8, 5))  # tokens of prompts, and of each one's answers


def drawn(n, g):
    return torch.randint(5, 250, (n,), generator=g).tolist()


def rows():
    g = torch.Generator().manual_seed(0)
    return [(drawn(p, g), [drawn(n, g) for n in answers]) for p, answers in zip(PROMPTS, LENGTHS)]


def sequences():
    return [[(tuple(p), tuple(a)) for a in answers] for p, answers in rows()]


def mistral():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        vocab_size=300, sliding_window=4, initializer_range=0.2,
    )).eval()  # fmt: skip
    attention.use(model)
    return model


@pytest.mark.formula
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("packed", ["answers of a prompt", "rows of a sequence", "one answer each"])
@pytest.mark.parametrize("family", ["llama", "windows"])
def test_parts_give_the_values_and_gradients_of_whole_rows(tiny_model, family, packed, checkpoint, monkeypatch):
    model = (tiny_model if family == "llama" else mistral()).double()
    for p in model.parameters():
        p.requires_grad_(True)
    counts = []
    apart = attention._apart
    monkeypatch.setattr(attention, "_apart", lambda *args: counts.append(1) or apart(*args))

    def look(share):
        monkeypatch.setattr(cuts, "SHARE", share)
        if packed == "rows of a sequence":
            batch = packing.pack_rows(sequences())
        else:
            batch = logprobs.pack([(p, a if "prompt" in packed else a[:1]) for p, a in rows()])
        with latents.checkpointed(model, on=checkpoint):
            hidden = logprobs.hidden_states(model, batch)
            up = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1), dtype=hidden.dtype)
            weights = [p for n, p in model.named_parameters() if "layers" in n]
            return hidden.detach(), torch.autograd.grad(hidden, weights, up)

    want, gradients = look(0)
    assert not counts
    got, ours = look(9)
    layers = model.config.num_hidden_layers
    assert len(counts) == layers * (2 if checkpoint else 1)
    # transformers' norms compute in float32: two orders of the same sums differ there by its rounding
    assert (got - want).abs().max() < 1e-5 * want.abs().max()
    for a, b in zip(ours, gradients, strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


@pytest.mark.formula
@pytest.mark.parametrize("short", [0, 192])  # torch's fused kernel, and plain products
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (5, 1)])
def test_one_attention_in_parts_to_the_last_digits(tiny_model, heads, short, monkeypatch):
    monkeypatch.setattr(attention, "SHORT", short)
    monkeypatch.setattr(cuts, "SHARE", 9)
    batch, g = logprobs.pack(rows()), torch.Generator().manual_seed(0)
    b, length = batch.input_ids.shape
    q, k, v = (torch.randn(b, h, length, 8, generator=g, dtype=torch.float64).requires_grad_()
               for h in (heads[0], heads[1], heads[1]))  # fmt: skip
    up = torch.randn(q.shape, generator=g, dtype=torch.float64)
    for r, (p, answers) in enumerate(rows()):
        up[r, :, len(p) + sum(map(len, answers)) :] = 0  # padding, which nothing reads

    def attend(cut):
        position = batch.position_ids
        with attention.layout(batch.attention_mask, position, position, model=tiny_model, cut=cut):
            out = attention.grouped_attention(q, k, v, batch.attention_mask, causal=False, scale=0.3)
        return out * (up != 0), torch.autograd.grad(out, (q, k, v), up)

    (want, gradients), (got, ours) = attend(None), attend(batch.cut)
    assert torch.allclose(got, want, atol=1e-12, rtol=0) and want.abs().max() > 0.1
    for a, c in zip(ours, gradients, strict=True):
        assert torch.allclose(a, c, atol=1e-12, rtol=0) and c.abs().max() > 0.1


def test_a_cut_by_hand():
    """Prompt of 2, answers of 1 and 2 tokens in a row of 6: who is asked, who is seen, where each answer goes back."""
    heads, tails = [([0, 1], [0, 1])], [([2], [0, 1, 2]), ([3, 4], [0, 1, 3, 4])]
    got = cuts.cut([heads, tails], rows=9, length=6)
    first, second = got.parts
    assert first.query.tolist() == [[0, 1]] and second.query.tolist() == [[2, 0], [3, 4]]
    assert second.key[:, :4].tolist() == [[0, 1, 2, 0], [0, 1, 3, 4]] and second.key.shape == (2, cuts.STEP)
    assert second.real.sum(1).tolist() == [3, 4] and second.row.tolist() == [0, 0]
    assert got.back[:6].tolist() == [0, 1, 2, 4, 5, 0]


def test_only_rows_that_are_mostly_masked_are_cut():
    row = lambda prompt, n, answer: ([5] * prompt, [[6] * answer] * n)  # noqa: E731
    assert logprobs.pack([row(48, 8, 64)]).cut is not None  # an answer sees 112 of 560 keys
    assert logprobs.pack([row(64, 2, 64)]).cut is None  # a pair sees more than half of what is there
    assert logprobs.pack([row(64, 1, 64)]).cut is None
