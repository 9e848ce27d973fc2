"""The grid: what a cell changes, steps by counting, controls that must lose or win, targets that are refused."""

import math
from types import SimpleNamespace

import pytest
import torch

from lib.bandit.enumerated import Enumerated
from lib.bandit.methods import METHODS, labelled_by_heads, prompts_of, rounds
from lib.bandit.online import Agent
from lib.harness.presets import sea
from lib.scoring.oracles import Oracle
from lib.studies.sea import cells

SEED, WORLDS = 900, 12
play = lambda arm, cell=sea.TINY, lr=0.08, **kw: cells.compete(  # noqa: E731
    arm, cell, **{"seed": SEED, "worlds": WORLDS, "lr": lr} | kw
)


def test_the_grid_is_what_the_presets_and_claims_name():
    assert list(cells.CELLS) == [*sea.CELLS, sea.TINY] and set(sea.METHODS) == set(METHODS)
    assert sea.CELLS[0] == sea.BASE and not set(sea.CORE) & set(sea.MORE)
    base = cells.CELLS[sea.BASE]
    assert all("," not in name for name in cells.CELLS)  # they stand in a comma-separated setting
    for name in sea.CELLS[1:]:
        differs = [f for f, a, b in zip(base._fields, base, cells.CELLS[name]) if a != b]
        assert differs, name
    for name, c in cells.CELLS.items():
        assert c.burn_in * c.batch <= c.budget / 8, f"{name}: burn-in is well below the time to a level"
        assert 1 < c.batch <= 4


@pytest.mark.parametrize("cell", cells.CELLS)
def test_the_matched_control_makes_exactly_seas_steps(cell):
    """At every query: the rounds of both have asked the same numbers, one policy step a round."""
    c, asked = cells.CELLS[cell], {}
    for arm in ("sea-logit", "random-sea", "drts", "deltaucb", "sea-truth", "sea-coins", "passive-matched"):
        m, t = METHODS[arm], rounds(METHODS[arm], c, c.budget)
        asked[arm] = [prompts_of(m, c, k) - labelled_by_heads(m, c, k) for k in range(t)]
    assert len({tuple(x) for x in asked.values()}) == 1
    more = len(asked["sea-logit"]) / rounds(METHODS["passive"], c, c.budget)
    assert 1.25 < more < 1.45  # 10 / 7 after burn-in


def test_steps_are_counted_as_they_are_made():
    sea_like, matched, passive = (play(a, worlds=2) for a in ("sea-logit", "passive-matched", "passive"))
    assert sea_like.steps == matched.steps and sea_like.queries == matched.queries and matched.counts == sea_like.counts
    c = cells.CELLS[sea.TINY]
    assert passive.steps == passive.queries / c.batch == c.budget / c.batch < matched.steps
    assert play("passive-twice", worlds=2).queries == 2 * c.budget


def test_scores_and_curves_are_those_of_each_world():
    a, b = play("sea-logit"), play("sea-logit")
    assert a.rates.shape == (len(a.counts), WORLDS) and a.counts[0] == 0 and a.counts[-1] >= 64
    assert all(v.shape == (WORLDS,) for v in a.scores.values()) and set(cells.IN_EVERY_CELL) < set(a.scores)
    assert all(torch.equal(a.scores[k], b.scores[k]) for k in a.scores)
    assert torch.equal(a.rates[-1], a.scores["win rate, any answer"])
    reached = a.scores["reached, 0.8"].bool()
    assert torch.equal(a.scores["log queries, 0.8"] < math.log(64), reached)


def test_equal_methods_share_their_worlds_and_their_luck_but_for_the_control_of_luck():
    one, again = play("passive"), play("passive-again")
    assert torch.equal(one.rates[0], again.rates[0]) and not torch.equal(one.rates[-1], again.rates[-1])
    assert torch.equal(play("passive-twice").rates[: len(one.rates)], one.rates)


def test_heads_told_the_truth_win_and_heads_taught_by_coins_lose():
    """Log queries to 0.8 in a tiny world, the same worlds for all."""
    lucky = {a: play(a, worlds=40).scores["win rate, any answer"].mean().item() for a in
        ("passive", "sea-logit", "sea-coins", "sea-truth")}  # fmt: skip
    assert lucky["sea-truth"] > lucky["sea-logit"] + 0.05 and lucky["sea-truth"] > lucky["passive"] + 0.1
    assert lucky["sea-coins"] < lucky["sea-logit"] - 0.03


def test_coins_turn_half_of_what_the_heads_are_taught_and_nothing_else():
    """Of every pair that is remembered, whether its first answer is the truly better one: always, or by a coin."""
    right = {}
    for taught in ("labels", "coins"):
        cell = cells.CELLS[sea.TINY]._replace(labels="deterministic", flip=0.0)
        g = lambda s: torch.Generator().manual_seed(s)  # noqa: E731
        world = Enumerated(prompts=4, answers=30, dim=4, coverage="easy", lr=0.01, generator=g(0), worlds=10)
        oracle = Oracle(world.reward, labels=cell.labels, flip=cell.flip, generator=g(1))
        agent = Agent(world, METHODS["bai-logit"]._replace(taught=taught), oracle, cell, generator=g(2))
        chosen, real = [], world.step
        world.step = lambda c, duels, *rest, real=real, chosen=chosen: (
            chosen.append((c, duels)) or real(c, duels, *rest)
        )
        for _ in range(8):
            agent.round()
        for c, duels in chosen:  # the policy is taught by the labels in both
            won, lost = world.true(c).gather(1, duels).unbind(1)
            assert (won >= lost).all()
        reward = {tuple(f.tolist()): r for f, r in zip(world.features.flatten(0, 1), world.rewards.flatten().tolist())}
        pairs = agent.buffer.store[: agent.buffer.seen].flatten(0, 1)
        right[taught] = sum(reward[tuple(a.tolist())] > reward[tuple(b.tolist())] for a, b in pairs) / len(pairs)
    assert right["labels"] > 0.99 and 0.4 < right["coins"] < 0.6


@pytest.mark.parametrize("arm, field, beta, aim", [("passive-ipo", "ipo_beta", 0.2, "2.5"),
    ("sea-logit-slic", "slic_beta", 0.5, "2")])  # fmt: skip
def test_a_target_below_what_the_start_must_lose_is_refused(monkeypatch, arm, field, beta, aim):
    monkeypatch.setitem(cells.CELLS, sea.TINY, cells.CELLS[sea.TINY]._replace(**{field: beta}))
    with pytest.raises(ValueError, match=f"^{arm} aims at a margin of {aim} nats and the start prefers a worse answer"):
        play(arm, worlds=2)


def test_targets_of_the_grid_reach_beyond_every_start():
    for name in sea.CELLS[:2]:
        for arm in ("passive-ipo", "passive-slic"):
            cell = cells.CELLS[name]
            assert cells.loss_target(METHODS[arm], cell) >= 20
            assert cells.loss_target(METHODS["passive"], cell) == float("inf")
    said = SimpleNamespace(loss="ipo", ipo_beta=0.2, slic_beta=0.2)
    assert cells.loss_target(METHODS["passive"], said) == 2.5
