"""Packed rows against plain transformers forwards, and the fused head against plain autograd."""

import pytest
import torch

from lib.engine import logprobs

ROWS = [([5, 6, 7, 8], [[9, 10, 257], [11]]), ([3, 4], [[12, 13, 14, 15], [9, 257]]), ([1] * 7, [[2, 3], [4, 5, 6]])]


def gpt_neox():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    return GPTNeoXForCausalLM(GPTNeoXConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=300,
        initializer_range=0.2,
    )).eval().requires_grad_(False)  # fmt: skip


def plain(model, prompt, branch):
    ids = torch.tensor([[*prompt, *branch]])
    lp = model(ids).logits[0].log_softmax(-1)
    return torch.stack([lp[len(prompt) - 1 + t, y] for t, y in enumerate(branch)])


def packed_logprobs(model, rows, **kw):
    packed = logprobs.pack(rows)
    hidden = logprobs.hidden_states(model, packed)
    return logprobs.token_logprobs(hidden, model.get_output_embeddings().weight, packed.target, **kw), packed


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_packed_rows_equal_separate_forwards(tiny_model, family):
    model = tiny_model if family == "llama" else gpt_neox()
    got, packed = packed_logprobs(model, ROWS)
    want = torch.cat([plain(model, p, b) for p, bs in ROWS for b in bs])
    assert torch.allclose(got, want, atol=5e-5)
    sums = logprobs.sum_logprob(got, packed.branch, packed.branches)
    means = logprobs.mean_logprob(got, packed.branch, packed.branches)
    lengths = torch.tensor([len(b) for _, bs in ROWS for b in bs])
    assert torch.allclose(sums, torch.stack([plain(model, p, b).sum() for p, bs in ROWS for b in bs]), atol=2e-4)
    assert torch.allclose(means * lengths, sums, atol=1e-5)


def test_parity_in_float64(tiny_model):
    model = tiny_model.double()
    packed = logprobs.pack(ROWS)
    hidden = logprobs.hidden_states(model, packed)
    got = logprobs.token_logprobs(hidden, model.get_output_embeddings().weight, packed.target, chunk=3)
    want = torch.cat([plain(model, p, b) for p, bs in ROWS for b in bs])
    assert torch.allclose(got, want, atol=1e-10)


def test_parity_with_the_loss_transformers_reports(tiny_model):
    prompt, branch = ROWS[0][0], ROWS[0][1][0]
    ids = torch.tensor([[*prompt, *branch]])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    loss = tiny_model(ids, labels=labels).loss
    got, _ = packed_logprobs(tiny_model, [(prompt, [branch])])
    assert -got.mean().item() == pytest.approx(loss.item(), abs=5e-5)


def test_layout_by_hand():
    p = logprobs.pack([([7, 8], [[9], [10, 11]])])
    assert p.input_ids.tolist() == [[7, 8, 9, 10, 11]] and p.position_ids.tolist() == [[0, 1, 2, 2, 3]]
    assert p.source.tolist() == [1, 1, 3] and p.target.tolist() == [9, 10, 11] and p.branch.tolist() == [0, 1, 1]
    assert p.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1],
    ]  # fmt: skip


def test_chunks_padding_and_order_do_not_matter(tiny_model):
    got, packed = packed_logprobs(tiny_model, ROWS)
    assert torch.allclose(packed_logprobs(tiny_model, ROWS, chunk=2)[0], got, atol=1e-5)
    alone = torch.cat([packed_logprobs(tiny_model, [r])[0] for r in ROWS])  # no padding
    assert torch.allclose(alone, got, atol=1e-5)
    backwards = packed_logprobs(tiny_model, ROWS[::-1])[0].split([len(sum(b, [])) for _, b in ROWS[::-1]])
    assert torch.allclose(torch.cat(backwards[::-1]), got, atol=1e-5)


@pytest.mark.parametrize("row", [([], [[1]]), ([1], [[]])])
def test_empty_rows_are_refused(row):
    with pytest.raises(ValueError, match="empty prompt or an empty completion"):
        logprobs.pack([row])


def test_fused_gradients_equal_autograd():
    g = torch.Generator().manual_seed(0)
    h, t, w = (torch.randn(n, 6, generator=g) for n in (9, 9, 20))
    y, up = torch.randint(20, (9,), generator=g), torch.randn(9, generator=g)
    h.requires_grad_()
    want = (h @ w.T).log_softmax(-1).gather(-1, y[:, None])[:, 0]
    for chunk in (4, 100):
        got = logprobs.token_logprobs(h, w, y, chunk=chunk)
        assert torch.allclose(got, want, atol=1e-6)
        a, b = (torch.autograd.grad(x, h, up, retain_graph=True)[0] for x in (got, want))
        assert torch.allclose(a, b, atol=1e-5) and a.abs().max() > 0.1
    ls, lt = (h @ w.T).log_softmax(-1), (t @ w.T).log_softmax(-1)
    want = (lt.exp() * (lt - ls)).sum(-1)
    got = logprobs.token_kl(h, t, w, chunk=4)
    assert torch.allclose(got, want, atol=1e-5)
    a, b = (torch.autograd.grad(x, h, up, retain_graph=True)[0] for x in (got, want))
    assert torch.allclose(a, b, atol=1e-5) and a.abs().max() > 0.1
    assert logprobs.token_kl(h, h.detach(), w).abs().max() < 1e-6


@pytest.mark.parametrize("chunk", [3, 100])
def test_greedy_tokens_are_the_likeliest_and_of_twins_the_first(chunk):
    g = torch.Generator().manual_seed(0)
    # whole numbers: every product is exact, so that a tie is one however the product is blocked
    h, w = (torch.randint(-9, 10, (n, 6), generator=g).double() for n in (30, 20))
    want = [max(range(20), key=lambda v: (row @ w[v]).item()) for row in h]
    assert (
        logprobs.greedy_tokens(h, w, chunk=chunk).tolist()
        == want
        == logprobs.greedy_tokens(h, torch.cat([w, w]), chunk=chunk).tolist()
    )
    assert (
        logprobs.greedy_tokens(h.bfloat16(), w.bfloat16(), chunk=chunk).tolist()
        == (h.bfloat16() @ w.bfloat16().T).float().argmax(-1).tolist()
    )
    assert len(logprobs.greedy_tokens(h[:0], w)) == 0


def test_a_trainable_head_gets_its_gradient():
    h, w, y = torch.randn(4, 5), torch.randn(7, 5, requires_grad=True), torch.tensor([0, 6, 3, 3])
    logprobs.token_logprobs(h, w, y).sum().backward()
    p = (h @ w.detach().T).softmax(-1)
    want = (torch.nn.functional.one_hot(y, 7) - p).T @ h
    assert torch.allclose(w.grad, want, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "tolerance"), [("gpt_neox", 1e-10), ("llama", 1e-6)]
)  # transformers' RMSNorm is float32
def test_loss_and_gradient_of_a_pair_equal_the_naive_ones_in_float64(tiny_model, family, tolerance):
    """Shared prefix, chunks and micro-batches against one plain forward a sequence: DPO loss and every weight's
    gradient."""
    from functools import partial

    from lib import data, losses
    from lib.engine import objectives

    model = (tiny_model if family == "llama" else gpt_neox()).double()
    weights = [p for n, p in model.named_parameters() if "layers" in n]
    for p in weights:
        p.requires_grad_(True)
    pairs = [data.Pair(str(i), p, *b, 0) for i, (p, b) in enumerate(ROWS)]
    ref = torch.randn(2, 3, dtype=torch.float64)
    loss = partial(losses.dpo, beta=0.3)
    grads = lambda value: torch.autograd.grad(value, weights)  # noqa: E731
    pi = torch.stack([torch.stack([plain(model, x, y).sum() for y in ys]) for x, ys in ROWS])
    naive = loss(pi[:, 0], pi[:, 1], ref[0], ref[1]).loss.sum()
    want = grads(naive)
    objective = objectives.preference(model, pairs, loss, ref_w=ref[0], ref_l=ref[1])
    for split in ([[0, 1, 2]], [[0], [2, 1]]):
        parts = [objective(s)[0] for s in split]
        assert sum(parts).item() == pytest.approx(naive.item(), abs=1e-10)
        got = [sum(g) for g in zip(*map(grads, parts))]
        worst = max((a - b).abs().max().item() / b.abs().max().item() for a, b in zip(got, want))
        assert worst < tolerance


def test_broken_weights_are_named(tiny_model):
    from lib import scoring

    with torch.no_grad():
        tiny_model.model.embed_tokens.weight[7] = float("nan")
    with pytest.raises(FloatingPointError, match=r"rows \["):
        scoring.completion_logprobs(tiny_model, [[1], [7]], [[2], [3]], batch=1)


def test_bfloat16_noise_does_not_grow_with_length(tiny_model):
    """The error of a token's log-prob stays what rounding makes it, however long the answer; the sum grows like a
    random walk."""
    import copy

    g = torch.Generator().manual_seed(0)
    low = copy.deepcopy(tiny_model).bfloat16()
    wide = copy.deepcopy(low).float()  # the same rounded weights: only the arithmetic differs
    error = {}
    for length in (32, 512):
        rows = [
            (
                torch.randint(5, 250, (16,), generator=g).tolist(),
                [torch.randint(5, 250, (length,), generator=g).tolist()],
            )
            for _ in range(4)
        ]
        gap = packed_logprobs(low, rows)[0] - packed_logprobs(wide, rows)[0]
        error[length] = gap.abs().mean().item()
        assert gap.view(4, -1).sum(1).abs().max() < 6 * gap.std() * length**0.5
    assert 1e-4 < error[32] < 0.1 and error[512] < 1.5 * error[32]


def test_rows_that_are_not_finite_are_named_and_no_others():
    values = torch.tensor([0.0, float("nan"), -1.0, float("inf")])
    with pytest.raises(FloatingPointError, match=r"rows \['b', 'd'\] are not finite"):
        logprobs.check_finite(values, ["a", "b", "c", "d"])
    assert logprobs.check_finite(values[::2], ["a", "c"]).tolist() == [0.0, -1.0]
