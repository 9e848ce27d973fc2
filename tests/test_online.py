"""The online loop in the exact world: what is asked, what is counted, what is learnt, and that a stopped run goes on as it would have."""

from types import SimpleNamespace

import pytest
import torch

from lib import losses, online
from lib.enumerated import Enumerated
from lib.online import METHODS, Agent, Method
from lib.oracles import Oracle

CFG = SimpleNamespace(
    loss="dpo", beta=0.1, heads=4, hidden=8, heads_lr=1e-2, buffer=500, batch=10, candidates=5, oversample=3, burn_in=1, optimism=1e-3,
    heads_batch=8, heads_steps=2, anchor=0.5,
)  # fmt: skip
generator = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731


def agent(method="sea", seed=0, cfg=CFG, coverage="easy", **oracle):
    world = Enumerated(prompts=6, answers=12, dim=4, coverage=coverage, lr=1e-2, generator=generator(seed))
    method = METHODS[method] if isinstance(method, str) else method
    asked = Oracle(world.reward, **{"labels": "deterministic", "flip": 0.0, "generator": generator(seed + 1)} | oracle)
    return Agent(world, method, asked, cfg, generator=generator(seed + 2))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_plays_and_its_queries_are_the_oracles_log(method):
    a = agent(method)
    expected = 0
    for k in range(4):
        out = a.round()
        size = max(1, round(CFG.batch * a.method.batch))
        made = int(a.method.synthetic * size) if k >= CFG.burn_in else 0
        expected += size - made
        assert out["queries"] == a.oracle.queries == len(a.oracle.log) == expected
        assert out["synthetic"] == pytest.approx(made / size)
    scores = a.evaluate()
    assert scores["win rate"].shape == (6,) and scores["win rate"].ge(0).all() and scores["win rate"].le(1).all()
    moved = (a.world.logits(slice(None)) - a.world.start).abs().max() > 0
    assert moved == (a.method.learn != "heads")
    assert (a.heads.distance().sum() > 0) == (a.method.learn != "policy")


def test_synthetic_pairs_make_no_call_and_are_labelled_by_the_heads():
    a = agent(Method(explore="bai", learn="both", synthetic=0.9))
    a.round()
    seen, real = [], a.world.step
    a.world.step = lambda c, duels, *rest: seen.append((c, duels)) or real(c, duels, *rest)
    before = a.oracle.queries
    drawn, of = [], a._heads
    a._heads = lambda n: drawn.append(of(n)) or drawn[-1]
    with torch.no_grad():
        old = torch.nn.utils.parameters_to_vector(a.heads.parameters()).clone()
    heads = online.bandit.Ensemble(4, 4, 8, generator=generator(9))
    torch.nn.utils.vector_to_parameters(old, heads.parameters())
    a.round()
    assert a.oracle.queries - before == 1
    duels, rewards = seen[0][1], heads(seen[0][0].features)
    by_head = sum(bool((rewards[drawn[1][i], i].argmax() == w) and (rewards[drawn[1][i], i].argmin() == l)) for i, (w, l) in enumerate(duels.tolist()))
    assert by_head >= 9


def test_the_labels_are_the_oracles():
    a = agent("random")
    seen, real = [], a.world.step
    a.world.step = lambda c, duels, *rest: seen.append((c, duels)) or real(c, duels, *rest)
    a.round()
    (c, duels) = seen[0]
    for i, (w, l) in enumerate(duels.tolist()):
        p = c.prompts[i]
        assert a.world.rewards[p, c.answers[i][w]] >= a.world.rewards[p, c.answers[i][l]]


@pytest.mark.parametrize("method", ["sea", "xpo", "apl-entropy", "heads-only"])
def test_a_run_resumed_in_its_middle_goes_the_same_way(method):
    whole = agent(method, labels="bernoulli", flip=0.1)
    for _ in range(3):
        whole.round()
    state = whole.state()
    rest = [whole.round() for _ in range(3)]
    end = whole.evaluate()["win rate"]
    other = agent(method, seed=0, labels="bernoulli", flip=0.1)
    other.restore(state)
    for was in rest:
        assert other.round() == pytest.approx(was, nan_ok=True)
    assert torch.equal(other.evaluate()["win rate"], end)


def test_online_learning_wins():
    a = agent("passive", cfg=SimpleNamespace(**vars(CFG) | {"batch": 32}))
    start = a.evaluate()["expected reward"].mean()
    for _ in range(60):
        a.round()
    assert a.evaluate()["expected reward"].mean() > start + 1


def test_loss_of_xpo_by_hand():
    """Reference answers (rejected, chosen, rejected): DPO plus alpha times the mean log-prob of the start's answers."""
    own = torch.tensor([[-10.0, -12], [-20, -18], [-5.5, -5.5]], dtype=torch.float64)
    start = torch.tensor([[-11.0, -11.5], [-19, -19.5], [-6, -5]], dtype=torch.float64)
    d = losses.dpo(*own.unbind(1), *start.unbind(1), beta=0.1).loss.mean()
    of_start = torch.stack([own[0, 1], own[1, 0], own[2, 1]]).mean()
    assert (d + 5e-6 * of_start).item() == pytest.approx(0.6970352092, abs=1e-9)


@pytest.mark.parametrize("name, values, beta", [("dpo", [0.6209570478, 0.8259394199, 0.6443966601], 0.1), ("slic", [0.7, 1.5, 0.8], 0.2), ("ipo", [1.0, 25.0, 2.25], 0.2), ("ipo-mean", [5.5617361111, 7.0225, 5.29], 0.2)])
def test_policy_losses_by_hand(name, values, beta):
    t = lambda *x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    loss = online.policy_loss(name, beta=beta)
    got = loss(t(-10, -20, -5.5), t(-12, -18, -5.5), t(-11, -19, -6), t(-11.5, -19.5, -5), t(10, 20, 5), t(12, 15, 5))
    assert got.tolist() == pytest.approx(values, abs=1e-9)


def test_bad_input():
    with pytest.raises(ValueError, match="one of dpo, slic, ipo, ipo-mean, given 'kto'"):
        online.policy_loss("kto", beta=0.1)
    with pytest.raises(ValueError, match="explore is one of.*given 'greedy'"):
        agent(Method(explore="greedy")).round()


def test_a_buffer_forgets_its_oldest():
    b = online.Buffer(4, 1)
    b.add(torch.arange(6.0).view(3, 2, 1))
    b.add(torch.arange(6.0, 12.0).view(3, 2, 1))
    assert b.seen == 6 and sorted(b.store[:, 0, 0].tolist()) == [4, 6, 8, 10]
    assert len(b.sample(9, generator(0))) == 4
