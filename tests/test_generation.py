import pytest
import torch

from lib import generation, models

PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8], [100, 101]]


def run(model, prompts=PROMPTS, n=12, batch=4, stop=(257,), **kw):
    return generation.generate(model, prompts, max_new_tokens=n, stop_ids=stop, batch=batch, **kw)


def test_greedy_equals_transformers(tiny_model):
    stop = [257, run(tiny_model, n=6)[1].tokens[3]]  # a token that ends one row early
    ours = run(tiny_model, stop=stop)
    for p, c in zip(PROMPTS, ours):
        theirs = tiny_model.generate(torch.tensor([p]), max_new_tokens=12, do_sample=False, eos_token_id=stop, pad_token_id=0)
        assert c.tokens == theirs[0, len(p) :].tolist()
        assert c.finish == ("stop" if c.tokens[-1] in stop else "length")
    assert {c.finish for c in ours} == {"stop", "length"}


def test_logprobs_are_the_teacher_forced_ones(tiny_model):
    for p, c in zip(PROMPTS, run(tiny_model, temperature=1.3, generator=torch.Generator().manual_seed(1))):
        lp = tiny_model(torch.tensor([[*p, *c.tokens]])).logits[0].log_softmax(-1)
        want = [lp[len(p) - 1 + t, y].item() for t, y in enumerate(c.tokens)]
        assert c.logprobs == pytest.approx(want, abs=1e-4)


def test_batch_size_does_not_matter_in_float64(tiny_model):
    model = tiny_model.double()
    assert [c.tokens for c in run(model, batch=1)] == [c.tokens for c in run(model, batch=3)]


def test_seeds(tiny_model):
    draw = lambda seed: [c.tokens for c in run(tiny_model, temperature=1.0, generator=torch.Generator().manual_seed(seed))]  # noqa: E731
    assert draw(0) == draw(0) != draw(1)


def test_draws_follow_the_softmax():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]]).expand(40000, 5)
    for t in (1.0, 0.5):
        got = generation.draw(logits, t, torch.Generator().manual_seed(0)).bincount(minlength=5) / 40000
        assert torch.allclose(got, (logits[0] / t).softmax(-1), atol=0.01)


def test_bad_arguments(tiny_model):
    with pytest.raises(ValueError, match="at least 1"):
        run(tiny_model, n=0)
    with pytest.raises(ValueError, match="Generator"):
        run(tiny_model, temperature=1.0)


def test_cached_once_and_again_for_other_weights(tiny_model, sandbox, monkeypatch):
    calls = []
    plain = generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a, **k: calls.append(1) or plain(*a, **k))
    ask = lambda: generation.generate_cached(tiny_model, PROMPTS, max_new_tokens=4, stop_ids=[257], batch=4)  # noqa: E731
    first = ask()
    assert ask() == first and len(calls) == 1
    with torch.no_grad():
        tiny_model.model.norm.weight[0] += 1
    ask()
    assert len(calls) == 2 and models.fingerprint(tiny_model)
