"""The online loop in the exact world: what is asked, what is counted, what is learnt, and that a stopped run goes on as
it would have."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib import bandit, losses
from lib.bandit import online
from lib.bandit.enumerated import Enumerated
from lib.bandit.methods import METHODS, Method, rounds
from lib.bandit.online import Agent
from lib.scoring.oracles import Oracle

CFG = SimpleNamespace(
    loss="dpo", beta=0.1, heads=4, hidden=8, heads_lr=1e-2, buffer=500, batch=10, candidates=5, oversample=3,
    burn_in=1, optimism=1e-3,
    heads_batch=8, heads_steps=2, anchor=0.5, slic_beta=0.2, ipo_beta=0.2,
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
        after = k >= CFG.burn_in  # of 10 prompts 30 % are 3 in every round
        size = 7 if method == "passive-matched" and after else 10
        made = 3 if a.method.synthetic and after else 0
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
    by_head = sum(
        bool((rewards[drawn[1][i], i].argmax() == w) and (rewards[drawn[1][i], i].argmin() == l))
        for i, (w, l) in enumerate(duels.tolist())
    )
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


def test_bad_input():
    with pytest.raises(ValueError, match="explore is one of.*given 'greedy'"):
        agent(Method(explore="greedy")).round()


def test_a_buffer_forgets_its_oldest_and_keeps_worlds_apart():
    b = online.Buffer(4, 1)
    b.add(torch.arange(6.0).view(3, 2, 1), torch.tensor([1.0, 0, 1]))
    b.add(torch.arange(6.0, 12.0).view(3, 2, 1), torch.ones(3))
    assert b.seen == 6 and sorted(b.store[:, 0, 0, 0].tolist()) == [4, 6, 8, 10]
    pairs, mask = b.sample(9, generator(0))
    assert pairs.shape == (4, 2, 1) and mask.tolist() == [1] * 4
    b = online.Buffer(5, 1, worlds=2)
    b.add(torch.arange(8.0).view(4, 2, 1), torch.tensor([1.0, 0, 1, 1]))  # two pairs of each world
    pairs, mask = b.sample(9, generator(0))
    assert sorted(pairs[:2, 0, 0].tolist()) == [0, 2] and sorted(pairs[2:, 0, 0].tolist()) == [4, 6] and b.seen == 2
    assert mask.sum() == 3 and mask[pairs[:, 0, 0] == 2].item() == 0


@pytest.mark.parametrize("method", ["sea", "xpo", "apl-entropy", "sea-bon", "heads-only"])
def test_worlds_side_by_side_do_not_see_each_other(method):
    """Other rewards in the second world change nothing of the first; and in the second something."""
    runs = []
    for change in (False, True):
        world = Enumerated(prompts=6, answers=12, dim=4, coverage="easy", lr=1e-2, generator=generator(0), worlds=2)
        if change:
            world.rewards[6:] = world.rewards[6:].flip(1)
        a = Agent(
            world,
            METHODS[method],
            Oracle(world.reward, labels="bernoulli", flip=0.1, generator=generator(1)),
            CFG,
            generator=generator(2),
        )
        rows, over, last = online.play(a, budget=60, every=20, desc="", quiet=True)
        assert rows[-1]["step"] >= 60 and len(a.oracle.log) == 2 * rows[-1]["step"] and len(last["win rate"]) == 12
        runs.append((last["expected reward"], last["win rate"], world.regret(a.oracle.log), a.heads(world.features)))
    one, other = runs
    same = [torch.equal(x[: len(x) // 2], y[: len(y) // 2]) for x, y in zip(one[:3], other[:3])]
    assert all(same) and torch.equal(one[3][:, :6], other[3][:, :6])
    assert not torch.equal(one[2][1], other[2][1])
    assert method in ("xpo", "apl-entropy") or not torch.equal(one[3][:, 6:], other[3][:, 6:])


def test_regret_of_the_log_by_hand():
    world = Enumerated(prompts=2, answers=3, dim=2, coverage="easy", lr=1e-2, generator=generator(0), worlds=2)
    world.rewards = torch.tensor([[0.0, 1, 4], [3, 0, 0], [1, 1, 1], [5, 0, 1]])
    log = [((0, 0), (0, 1), 0.5, True), ((1, 0), (1, 1), 0.5, False), ((3, 1), (3, 2), 0.5, True)]
    assert world.regret(log).tolist() == [pytest.approx((3.5 + 1.5) / 2), 4.5] and world.by_world(
        torch.arange(4.0)
    ).tolist() == [0.5, 2.5]


def test_rounds_of_a_budget():
    """50,000 queries, 128 prompts a round, five rounds of burn-in, then 38.4 of 128 synthetic (the release, by 4 x 9 of
    32: 36)."""
    cfg = SimpleNamespace(batch=128, burn_in=5)
    assert rounds(METHODS["passive"], cfg, 50_000) == 391
    assert rounds(METHODS["sea"], cfg, 50_000) == 5 + -(-(50_000 - 640) * 10 // 896)
    assert rounds(METHODS["sea"], cfg, 300) == 3
    for method in ("sea", "passive-matched"):
        a = agent(method)
        online.play(a, budget=77, every=20, desc="", quiet=True)
        assert a.rounds == rounds(METHODS[method], CFG, 77)
        assert a.oracle.queries >= 77 > a.oracle.queries - CFG.batch


@pytest.mark.parametrize("batch, burn_in, budget", [(16, 4, 224), (10, 1, 77), (4, 1, 12), (7, 3, 300)])
def test_the_matched_method_makes_the_same_steps_at_the_same_queries(batch, burn_in, budget):
    """Counted round by round: what the oracle was asked, and how many steps the policy made."""
    cfg = SimpleNamespace(**vars(CFG) | {"batch": batch, "burn_in": burn_in})
    asked, steps = {}, {}
    for method in ("sea", "passive-matched"):
        a, made = agent(method, cfg=cfg), []
        real = a.world.step
        a.world.step = lambda *args, real=real, made=made: made.append(1) or real(*args)
        log = []
        play = a.round
        a.round = lambda play=play, log=log, a=a: log.append(a.oracle.queries) or play()
        online.play(a, budget=budget, every=20, desc="", quiet=True)
        asked[method], steps[method] = [*log, a.oracle.queries], len(made)
    assert asked["sea"] == asked["passive-matched"] and steps["sea"] == steps["passive-matched"]
    late = np.diff(asked["sea"][burn_in:])
    assert len(late) > 2 or budget < 50
    assert abs(late.sum() - 0.7 * batch * len(late)) < 1, "30 % of the pairs, to the last whole one"


def test_the_whole_run_is_read_at_the_same_queries_for_every_method():
    """Scores that are the number of queries at the look: on a line between looks, the average is that of the counts."""
    for method, every, budget in (("passive", 25, 90), ("sea", 25, 90), ("passive-matched", 16, 77), ("sea", 200, 77)):
        a = agent(method)
        a.evaluate = lambda a=a: {"x": torch.tensor([float(a.oracle.queries), -2.0 * a.oracle.queries])}
        _, over, last = online.play(a, budget=budget, every=every, desc="", quiet=True)
        counts = [q for q in range(every, budget, every)] + [budget]
        mean = sum(counts) / len(counts)
        assert over["x"].tolist() == pytest.approx([mean, -2 * mean]) and last["x"][0] == a.oracle.queries


def test_certainty_is_no_rounding():
    """At the start the policy is the start model: log-probs of the two that differ by rounding decide nothing. Equal
    answers never count as a margin."""
    a = agent("apl-certainty")
    c = a.world.propose(a.world.draw(10), 2, "policy")
    noise = torch.randn(c.log_probs.shape, generator=generator(3)) * 1e-2
    noisy = c._replace(log_probs=c.start + noise)
    assert torch.equal(a._duels(noisy, None), online.bandit.first_two(online.bandit.kinds_of(c.answers)))
    equal = noisy._replace(answers=[[row[0], row[0]] for row in c.answers])
    assert online.bandit.widest(a._implicit(equal))[1].eq(0).all()
    assert online.bandit.widest(a._implicit(noisy))[1].gt(0).any()


def test_what_is_watched_costs_no_query():
    a = agent(Method(explore="bai", learn="both", synthetic=0.5))
    a.round()
    peeked, real = [], a.oracle.peek
    a.oracle.peek = lambda first, second: peeked.append((first, second)) or real(first, second)
    out = a.round()
    assert a.oracle.queries == 15 and len(peeked[0][0]) == 5
    right = [a.world.rewards[x] > a.world.rewards[y] for x, y in zip(*peeked[0])]
    assert out["synthetic labels true"] == pytest.approx(sum(map(float, right)) / 5)
    assert agent("passive").round()["KL to the start"] == pytest.approx(0, abs=1e-6)  # nothing has been learnt yet


@pytest.mark.parametrize("method, loss", [("passive-slic", losses.hinge), ("sea-logit-ipo", losses.ipo_sum)])
def test_a_method_may_name_its_loss(method, loss):
    a, t = agent(method), torch.tensor([-3.0, -2, -4, -4.5]).double()
    assert a.loss(*t[:, None], None, None).item() == pytest.approx(loss(*t[:, None], beta=0.2).loss.item())


@pytest.mark.parametrize("broken", [lambda texts: torch.full((len(texts),), torch.nan), lambda texts: [][0]])
def test_an_oracle_that_fails_halfway_loses_nothing(tmp_path, broken):
    """The run stops with a checkpoint; the next call goes on and ends where an undisturbed run ends, without asking
    twice."""
    whole = agent("sea")
    rows, over, last = online.play(whole, budget=70, every=20, desc="", quiet=True)
    a, keep = agent("sea"), tmp_path / "kept.safetensors"
    asked, good = [], a.oracle.reward

    def reward(texts):
        asked.append(len(texts))
        return broken(texts) if len(asked) > 9 else good(texts)

    a.oracle.reward = reward
    with pytest.raises((FloatingPointError, IndexError)):
        online.play(a, budget=70, every=20, desc="", quiet=True, keep=keep)
    assert keep.exists() and 0 < a.oracle.queries < 70
    b = agent("sea")
    again, over_b, last_b = online.play(b, budget=70, every=20, desc="", quiet=True, keep=keep)
    assert not keep.exists() and b.oracle.queries == whole.oracle.queries
    assert (
        [r["win rate"] for r in again] == [r["win rate"] for r in rows]
        and torch.equal(last_b["win rate"], last["win rate"])
        and torch.equal(over_b["win rate"], over["win rate"])
    )


def test_bad_budgets_and_shares():
    with pytest.raises(ValueError, match="at least one round of 10 queries.*given 9 and 1"):
        online.play(agent("passive"), budget=9, every=1, desc="", quiet=True)
    for bad in (Method(synthetic=1.5), Method(synthetic=1.0), Method(skip=-0.1), Method(skip=0.3, synthetic=0.3)):
        with pytest.raises(ValueError, match="shares of synthetic pairs and of prompts left out lie in .*given"):
            agent(bad)
    with pytest.raises(ValueError, match="a round of 1 prompts .batch. of which 0.3 are left out can be empty"):
        agent("passive-matched", cfg=SimpleNamespace(**vars(CFG) | {"batch": 1}))


def test_an_oracle_that_is_not_free_is_asked_for_nothing_but_labels():
    """Counted at the reward itself: each query sends two answers, and synthetic pairs none."""
    sent = []
    a = agent(free=False)
    real = a.oracle.reward
    a.oracle.reward = lambda texts: sent.append(len(texts)) or real(texts)
    rows = [a.round() for _ in range(3)]
    assert sum(sent) == 2 * a.oracle.queries == 2 * len(a.oracle.log) and rows[-1]["synthetic"] > 0
    assert all(np.isnan(r["synthetic labels true"]) for r in rows)
    assert 0 <= agent_rows(free=True)[-1]["synthetic labels true"] <= 1


def agent_rows(**oracle):
    a = agent(**oracle)
    return [a.round() for _ in range(3)]


def test_a_gradient_of_the_heads_that_is_not_finite_stops_the_round(monkeypatch):
    a = agent()
    a.round()
    before = {k: v.clone() for k, v in a.heads.state_dict().items()}
    real = bandit.reward_loss
    monkeypatch.setattr(bandit, "reward_loss", lambda w, l, mask: real(w, l, mask) + (w * 0).sum().sqrt())
    with pytest.raises(FloatingPointError, match="reward heads, round 2: the gradient of .* is not finite"):
        a.round()
    assert all(torch.equal(v, before[k]) for k, v in a.heads.state_dict().items())


def test_what_a_round_says_is_counted_again():
    """Clashes are the duels whose two answers are the same kind of answer; many candidates are drawn, and over, only
    where the method asks for them."""
    for name in METHODS:
        a = agent(name)
        proposed, stepped = [], []
        propose, step = a.world.propose, a.world.step
        a.world.propose = lambda p, n, s, f=propose: proposed.append((len(p), n)) or f(p, n, s)  # noqa: B023
        a.world.step = lambda c, d, mask, *r, f=step: stepped.append((c, d, mask)) or f(c, d, mask, *r)  # noqa: B023
        out = a.round()
        explore, source = a.method.explore, a.method.source
        over = CFG.oversample if explore in ("certainty", "entropy") else 1
        assert proposed[0][0] == 10 * over
        few = explore in ("passive", "certainty") or source == "both"
        assert proposed[0][1] == (2 if few else CFG.candidates)
        if stepped:
            c, duels, mask = stepped[0]
            kinds = bandit.kinds_of(c.answers)
            same = [int(kinds[i, w]) == int(kinds[i, l]) for i, (w, l) in enumerate(duels.tolist())]
            assert mask.tolist() == [float(not x) for x in same]
            assert out["clashes"] == pytest.approx(sum(same) / len(same))


def test_looks_come_when_another_every_queries_are_full():
    a = agent("random")
    rows, _, last = online.play(a, budget=40, every=15, quiet=True, desc="")
    assert [r["step"] for r in rows] == [0, 20, 30, 40]  # rounds of 10: 15, 30 are passed at 20, 30; 40 is the end
    assert all("queries" not in r and "synthetic" in r for r in rows[1:])
    assert rows[-1]["win rate"] == pytest.approx(float(last["win rate"].sum() / 6))
    every_one, _, _ = online.play(agent("random"), budget=30, every=1, quiet=True, desc="")
    assert [r["step"] for r in every_one] == [0, 10, 20, 30]
    with pytest.raises(ValueError, match="every is at least 1"):
        online.play(agent("random"), budget=30, every=0, quiet=True, desc="")
