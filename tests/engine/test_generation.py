import pytest
import torch

from lib.engine import generation, models

PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8], [100, 101]]


def run(model, prompts=PROMPTS, n=12, batch=4, stop=(257,), n_candidates=1, temperature=0.0, generator=None, top_p=1.0):
    sampling = generation.Sampling(temperature, generator, n=n_candidates, top_p=top_p)
    return generation.generate(model, prompts, max_new_tokens=n, stop_ids=stop, batch=batch, sampling=sampling)


def test_greedy_equals_transformers(tiny_model):
    stop = [257, run(tiny_model, n=6)[1].tokens[3]]  # a token that ends one row early
    ours = run(tiny_model, stop=stop)
    for p, c in zip(PROMPTS, ours):
        theirs = tiny_model.generate(
            torch.tensor([p]), max_new_tokens=12, do_sample=False, eos_token_id=stop, pad_token_id=0
        )
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
    def draw(seed):
        return [c.tokens for c in run(tiny_model, temperature=1.0, generator=torch.Generator().manual_seed(seed))]  # noqa: E731

    assert draw(0) == draw(0) != draw(1)


def test_candidates_share_a_prompt_and_nothing_else(tiny_model):
    """Each candidate's log-probs are those of a forward of its own, though all ran side by side and ended at will."""
    model = tiny_model.double()
    stop = [257, *range(20, 60)]  # many ends at different steps
    got = run(model, n_candidates=5, temperature=1.0, generator=torch.Generator().manual_seed(2), stop=stop, n=10)
    assert len(got) == 20 and len({len(c.tokens) for c in got}) > 2
    assert len({tuple(c.tokens) for c in got[5:10]}) > 1
    for i, c in enumerate(got):
        prompt = PROMPTS[i // 5]
        lp = model(torch.tensor([[*prompt, *c.tokens]])).logits[0].log_softmax(-1)
        assert c.logprobs == pytest.approx(
            [lp[len(prompt) - 1 + t, y].item() for t, y in enumerate(c.tokens)], abs=1e-10
        )
        assert all(y not in stop for y in c.tokens[:-1]) and (c.finish == "stop") == (c.tokens[-1] in stop)


def test_rows_that_end_early_leave(tiny_model, monkeypatch):
    """With every row but one ended, the forward runs on one row."""
    plain, seen = tiny_model.model.forward, []
    monkeypatch.setattr(tiny_model.model, "forward", lambda *a, **k: seen.append(len(k["input_ids"])) or plain(*a, **k))
    first = [c.tokens[0] for c in run(tiny_model, n=1)]
    keep = next(i for i, t in enumerate(first) if first.count(t) == 1)
    seen.clear()
    run(tiny_model, stop=[t for i, t in enumerate(first) if i != keep], n=5)
    assert seen[0] == 4 and seen[1] == 1


def test_bad_arguments(tiny_model):
    with pytest.raises(ValueError, match="at least 1"):
        run(tiny_model, n=0)
    with pytest.raises(ValueError, match="Generator"):
        run(tiny_model, temperature=1.0)
    with pytest.raises(ValueError, match="equal answers"):
        run(tiny_model, n_candidates=2)
    with pytest.raises(ValueError, match="top_p"):
        run(tiny_model, temperature=1.0, generator=torch.Generator(), top_p=0.0)
    with pytest.raises(ValueError, match="row 1 has an empty prompt"):
        run(tiny_model, prompts=[[1], []])
    with pytest.raises(ValueError, match="row 0 needs 1030 tokens.*holds 1024"):
        run(tiny_model, prompts=[[1] * 1018])


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
