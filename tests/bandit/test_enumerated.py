"""The exact world by loops over its answers."""

import pytest
import torch

from lib.bandit.enumerated import Enumerated
from lib.bandit.methods import policy_loss

generator = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731


def world(coverage="hard", **kw):
    return Enumerated(
        **{"prompts": 6, "answers": 12, "dim": 4, "coverage": coverage, "lr": 1e-2, "generator": generator(0)} | kw
    )


def step(w, n=8, bonus=None):
    c = w.propose(w.draw(n), 2, "both" if bonus else "policy")
    r = torch.tensor([[float(w.rewards[p, a]) for a in row] for p, row in zip(c.prompts, c.answers)])
    duels = r.argsort(1, descending=True)
    return c, duels, w.step(c, duels, torch.ones(n), policy_loss("dpo", beta=0.1), bonus)


def test_scores_by_loops():
    w = world()
    for _ in range(5):
        step(w)
    out = w.evaluate(None, "policy")
    own, start = w.logits(slice(None)).detach().softmax(-1), w.start.softmax(-1)
    for p in range(6):
        best = int(own[p].argmax())
        win = sum(
            float(start[p, b]) * (1.0 if w.rewards[p, best] > w.rewards[p, b] else 0.5 if best == b else 0.0)
            for b in range(12)
        )
        any_answer = sum(float(w.rewards[p, best] > w.rewards[p, b]) + 0.5 * (best == b) for b in range(12)) / 12
        assert out["win rate, any answer"][p].item() == pytest.approx(any_answer, abs=1e-6)
        kl = sum(float(own[p, b] * (own[p, b] / start[p, b]).log()) for b in range(12))
        assert out["win rate"][p].item() == pytest.approx(win, abs=1e-5) and out["KL to the start"][
            p
        ].item() == pytest.approx(kl, abs=1e-5)
        assert out["expected reward"][p].item() == pytest.approx(
            sum(float(own[p, b] * w.rewards[p, b]) for b in range(12)), abs=1e-5
        )


def test_coverage():
    correlation = lambda w: torch.corrcoef(torch.stack([w.start.flatten(), w.rewards.flatten()]))[0, 1]  # noqa: E731
    assert correlation(world("hard", answers=200)) < -0.7 and abs(correlation(world("easy", answers=200))) < 0.15
    w = world()
    assert torch.allclose(w.rewards.mean(1), torch.zeros(6), atol=1e-5) and torch.allclose(
        w.rewards.std(1), torch.full((6,), 2.0), atol=1e-5
    )
    with pytest.raises(ValueError, match="easy or hard, given 'odd'"):
        world("odd")


def test_the_policy_starts_as_the_start_and_the_best_of_all_answers_is_the_best():
    w = world("easy")
    assert torch.equal(w.logits(slice(None)), w.start)

    def oracle(features):
        return torch.stack(
            [(f[:, None] == w.features[p]).all(-1).float() @ w.rewards[p] for p, f in enumerate(features)]
        ).argmax(-1)  # noqa: E731

    assert w.evaluate(oracle, "start", n=300)["reward"].tolist() == w.rewards.amax(1).tolist()


def test_answers_come_at_the_policy_s_rates():
    w = world("easy", prompts=1)
    c = w.propose([0] * 2000, 2, "start")
    share = torch.tensor(c.answers).flatten().bincount(minlength=12) / 4000
    assert torch.allclose(share, w.start[0].softmax(-1), atol=0.04)
    for i in range(5):
        assert torch.allclose(c.features[i, 0], w.features[0, c.answers[i][0]]) and c.start[i, 0] == pytest.approx(
            w.start[0].log_softmax(-1)[c.answers[i][0]].item()
        )


def test_a_step_prefers_the_chosen_and_a_bonus_lowers_the_start_s_answers():
    w = world()
    for _ in range(20):
        c, duels, out = step(w, n=16)
    assert out["loss"] < 0.69
    plain, with_bonus = world(), world()
    for w, weight in ((plain, 1e-12), (with_bonus, 3.0)):
        c, _, _ = step(w, n=64, bonus=(weight, 1))
    of_start = torch.tensor(c.answers)[:, 1:]
    mean = lambda w: w.logits(c.prompts).log_softmax(-1).gather(1, of_start).mean().item()  # noqa: E731
    assert mean(with_bonus) < mean(plain)


@pytest.mark.parametrize("loss", ["dpo", "slic", "ipo", "ipo-mean"])
def test_a_step_on_two_logits_is_that_on_two_log_probabilities(loss):
    gradients = []
    for bonus in (None, (0.0, 0)):  # with a bonus, be it none, the step takes log-probabilities over all answers
        w = world()
        step(w)  # away from the start
        w.optimizer.step = lambda: None
        c = w.propose([0, 1, 2, 3], 2, "policy")
        w.step(c, torch.tensor([[0, 1], [1, 0]] * 2), torch.ones(4), policy_loss(loss, beta=0.1), bonus)
        gradients.append(torch.cat([p.grad.flatten() for p in (*w.weights, *w.biases)]))
    assert gradients[0].abs().max() > 1e-4 and torch.allclose(*gradients, atol=1e-6)


def test_worlds_at_several_rates_are_the_same_worlds_and_each_goes_at_its_own():
    """Two rates side by side end where each ends alone: same worlds, same pairs, same gradients."""
    both = world(lr=[1e-2, 4e-2], worlds=2)
    assert both.worlds == 4 and torch.equal(both.rewards[:12], both.rewards[12:])
    alone = [world(lr=lr, worlds=2) for lr in (1e-2, 4e-2)]
    for _ in range(3):
        answers = torch.randint(12, (4, 2), generator=generator(7))
        for w, prompts in ((both, [0, 5, 6, 11, 12, 17, 18, 23]), *((w, [0, 5, 6, 11]) for w in alone)):
            c = w.propose(prompts, 2, "policy")
            picked = answers.repeat(w.worlds // 2, 1)
            c = c._replace(answers=picked.tolist(), start=w.start[prompts].log_softmax(-1).gather(1, picked))
            w.step(
                c, torch.tensor([[0, 1]] * len(prompts)), torch.ones(len(prompts)), policy_loss("dpo", beta=0.1), None
            )
    for k, w in enumerate(alone):
        moved = w.logits(slice(None)) - w.start
        assert torch.allclose(
            both.logits(slice(None))[12 * k : 12 * k + 12] - w.start, moved, atol=5e-3
        )  # Adam magnifies rounding
        assert moved.abs().max() > 0.1


def test_what_the_start_must_lose_by_loops():
    w = world("easy")
    worst = max(
        float(w.start[p, i] - w.start[p, j])
        for p in range(6)
        for i in range(12)
        for j in range(12)
        if w.rewards[p, j] > w.rewards[p, i]
    )
    spread = (w.start.amax(1) - w.start.amin(1)).max().item()
    assert w.overcome() == pytest.approx(worst) and 0 < worst < spread - 0.01


def test_a_state_is_a_copy():
    w = world()
    step(w)
    state = w.state()
    a = step(w)[2]["loss"]
    w.restore(state)
    assert step(w)[2]["loss"] == a


def test_a_gradient_that_is_not_finite_stops_the_policys_step():
    w = world()
    c = w.propose(w.draw(8), 2, "policy")
    duels, mask = torch.tensor([[0, 1]] * 8), torch.ones(8)
    before = [x.detach().clone() for x in w.weights]
    broken = lambda a, b, *rest: (a - b) + ((a - b) * 0).sqrt()  # noqa: E731  0, with a gradient of 0 / 0
    with pytest.raises(FloatingPointError, match="the worlds' policy: the gradient of .* is not finite"):
        w.step(c, duels, mask, broken, None)
    assert all(torch.equal(a, b) for a, b in zip(before, w.weights))


def test_the_world_typed_again():
    """Features, rewards and both starts, with the generator's draws in their order."""
    for coverage in ("easy", "hard"):
        w, g = world(coverage), generator(0)
        features = torch.randn(6, 12, 4, generator=g)
        inner, outer = torch.randn(1, 4, 4, generator=g)[0], torch.randn(1, 4, 1, generator=g)[0]
        noise = torch.randn(6, 12, generator=g)
        for p in range(6):
            raw = [
                sum(
                    float(torch.tanh(sum(features[p, a, i] * inner[i, j] for i in range(4)) / 2)) * float(outer[j, 0])
                    for j in range(4)
                )
                for a in range(12)
            ]
            mean = sum(raw) / 12
            deviation = (sum((x - mean) ** 2 for x in raw) / 11) ** 0.5
            rewards = [2 * (x - mean) / deviation for x in raw]
            assert w.rewards[p].tolist() == pytest.approx(rewards, abs=1e-4)
            half = [0.5 * x for x in noise[p].tolist()]
            wrong = [-0.75 * r + n for r, n in zip(rewards, half)]  # likes what is bad
            assert w.start[p].tolist() == pytest.approx(half if coverage == "easy" else wrong, abs=1e-4)


def test_the_policys_logits_typed_again():
    w = world()
    with torch.no_grad():
        for k, x in enumerate([*w.weights, *w.biases]):
            x.copy_(torch.randn(x.shape, generator=generator(k)) / 3)
    logits = w.logits(slice(None)).detach()
    for p, a in ((0, 0), (3, 7), (5, 11)):
        x = w.features[p, a]
        for k in range(3):
            x = x @ w.weights[k][0].detach() + w.biases[k][0, 0].detach()
            x = x.clamp(min=0) if k < 2 else x
        assert logits[p, a].item() == pytest.approx((w.start[p, a] + x[0]).item(), abs=1e-5)
