import copy

import numpy as np
import pytest
import torch

from lib.engine import generation
from lib.quantization import apply_rtn
from lib.scoring import flipping

PROMPTS = [[5, 6, 7], [9, 10], [1, 2, 3, 4], [100, 101, 102], [33, 34]]
STOP = [257]


@pytest.fixture
def pair(tiny_model):
    q = copy.deepcopy(tiny_model)
    apply_rtn(q, bits=3, group=32, symmetric=False)
    greedy = lambda m: [c.tokens for c in generation.generate(m, PROMPTS, max_new_tokens=12, stop_ids=STOP, batch=5)]  # noqa: E731
    return tiny_model, q, greedy(tiny_model), greedy(q)


def fidelity(fp, answers):
    return flipping.Fidelity(fp, PROMPTS, max_new_tokens=12, stop_ids=STOP, batch=2, answers=answers)


def test_teacher_forced_by_hand():
    weight = torch.eye(3)
    fp = [torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.9, 0.0]])]
    q = [torch.tensor([[3.0, 1.0, 0.0], [1.8, 1.9, 0.0]])]
    f = flipping.teacher_forced(fp, q, [[0, 1]], weight)
    assert f.flip.tolist() == [False, True] and f.row.tolist() == [0, 0]
    assert f.kl[0] == 0 and f.kl[1] > 0 and f.logit_margin.tolist() == pytest.approx([2.0, 0.1], abs=1e-6)
    assert f.q_logprob[1].item() == pytest.approx(q[0][1].log_softmax(-1)[1].item(), abs=1e-6)
    assert f.per_row(f.flip, 2).tolist() == [1, 0]


def test_flips_equal_a_plain_comparison(pair):
    fp, q, answers, _ = pair
    f = fidelity(fp, answers).forced(q)
    want = []
    for x, y in zip(PROMPTS, answers):
        ids = torch.tensor([[*x, *y]])
        a, b = (m(ids).logits[0, len(x) - 1 : -1].argmax(-1) for m in (fp, q))
        assert a.tolist() == y  # the answer is full precision's own greedy text
        want += (a != b).tolist()
    assert f.flip.tolist() == want and 0 < sum(want) < len(want)


def test_a_model_equals_itself(pair):
    fp, _, answers, _ = pair
    forced = fidelity(fp, answers).forced(fp)
    assert not forced.flip.any() and forced.kl.abs().max() < 1e-6


def test_validation_pools_over_tokens(pair):
    fp, q, answers, _ = pair
    f = fidelity(fp, answers)
    forced, tokens = f.forced(q), sum(map(len, answers))
    v = f.validation(q)
    assert v["kl"] == pytest.approx(forced.per_row(forced.kl, len(PROMPTS)).sum() / tokens, rel=1e-5)
    assert v["flip rate"] == pytest.approx(forced.per_row(forced.flip, len(PROMPTS)).sum() / tokens, rel=1e-5)


def test_decoding_from_an_own_cache_is_greedy_decoding(pair):
    fp, _, answers, _ = pair
    contexts = [[*x, *y[:3]] for x, y in zip(PROMPTS, answers)]
    context = flipping.read(fp, contexts)
    tokens, states = flipping.decode_from(context, fp, [y[3] for y in answers], steps=8)
    assert tokens.tolist() == [y[4:12] for y in answers]
    led = flipping.forced_from(context, fp, torch.tensor([y[3:11] for y in answers]))  # the context is as it was
    assert torch.allclose(led, states, atol=1e-4)


def test_without_the_cascade_every_variant_reads_the_same_continuation(pair):
    """By plain forwards over whole sequences, where one model does all: the flip alone, and the flip in q's hands."""
    fp, q, fp_answers, q_answers = pair
    parts = flipping.breakdown(fp, q, PROMPTS, fp_answers, q_answers, steps=5, stop_ids=STOP, batch=3)
    for n, i in enumerate(parts.pop("index")["prompt"]):
        t = flipping.data.first_divergence(fp_answers[i], q_answers[i])
        before, kept, flipped = [*PROMPTS[i], *fp_answers[i][:t]], fp_answers[i][t], q_answers[i][t]
        base, _ = flipping.decode_from(flipping.read(fp, [before]), fp, [kept], steps=5)
        valid = flipping._until_stop(base, set(STOP))[0]

        def logits(model, first):
            ids = torch.tensor([[*before, first, *base[0, :-1].tolist()]])  # noqa: B023
            return model(ids).logits[0, len(before) :].double()[valid]  # noqa: B023

        yes = logits(fp, kept)
        for name, no in (("flip only", logits(fp, flipped)), ("full quantized decoding", logits(q, flipped))):
            kl = (yes.softmax(-1) * (yes.log_softmax(-1) - no.log_softmax(-1))).sum(-1).mean()
            assert parts[name]["forced kl"][n] == pytest.approx(kl.item(), abs=1e-4)
            flips = (yes.argmax(-1) != no.argmax(-1)).double().mean().item()
            assert parts[name]["forced flips"][n] == pytest.approx(flips, abs=1e-6)
    same = flipping.breakdown(fp, fp, PROMPTS, fp_answers, q_answers, steps=5, stop_ids=STOP, batch=5)
    assert np.abs(same["perturbed KV only"]["forced kl"]).max() < 1e-6
    assert np.allclose(same["flip only"]["forced kl"], same["full quantized decoding"]["forced kl"], atol=1e-6)


def test_breakdown_of_a_model_with_itself_and_of_full_decoding(pair):
    fp, q, fp_answers, q_answers = pair
    parts = flipping.breakdown(fp, q, PROMPTS, fp_answers, q_answers, steps=6, stop_ids=STOP, batch=2)
    index = parts.pop("index")["prompt"]
    assert set(parts) == set(flipping.VARIANTS) and len(index) > 0
    for n, i in enumerate(index):  # full quantized decoding is q's own text after the flip
        t = flipping.data.first_divergence(fp_answers[i], q_answers[i])
        before = [[*PROMPTS[i], *fp_answers[i][:t]]]
        base, _ = flipping.decode_from(flipping.read(fp, before), fp, [fp_answers[i][t]], steps=6)
        full, _ = flipping.decode_from(flipping.read(q, before), q, [q_answers[i][t]], steps=6)
        assert full[0, : len(q_answers[i]) - t - 1].tolist() == q_answers[i][t + 1 : t + 7]
        valid = flipping._until_stop(base, {257})
        want = ((base == full) & valid).sum().item() / valid.sum().item()
        assert parts["full quantized decoding"]["agreement"][n] == pytest.approx(want)
    same = flipping.breakdown(fp, fp, PROMPTS, fp_answers, q_answers, steps=6, stop_ids=STOP, batch=5)
    assert (same["perturbed KV only"]["agreement"] == 1).all() and np.abs(same["perturbed KV only"]["kl"]).max() < 1e-5
    assert np.allclose(same["flip only"]["agreement"], same["full quantized decoding"]["agreement"])


def test_until_stop():
    tokens = torch.tensor([[1, 9, 2, 9], [3, 4, 5, 6], [9, 9, 9, 9]])
    assert flipping._until_stop(tokens, {9}).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_noise_floor_is_zero_in_float64(pair):
    fp, _, answers, _ = pair
    floor = flipping.noise_floor(fp.double(), PROMPTS, answers, batch=5, other_batch=1)
    assert floor["flip rate"] == 0 and floor["kl"] < 1e-6 and floor["tokens"] == sum(map(len, answers))
