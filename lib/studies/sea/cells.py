"""The grid of exact worlds: how hard a world is, as a record; every method in each, at a rate of its own.

A cell holds all that its worlds and agents are made of, so that rates tuned in it (`lib.studies.sea.tuning`) are good
for every run. In the base the start prefers bad answers, labels are drawn and two of ten then turned round; the others
differ from it as their names say.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.bandit import reaching
from lib.bandit.enumerated import Enumerated
from lib.bandit.methods import METHODS, Method
from lib.bandit.online import Agent, play
from lib.harness import seeding
from lib.harness.presets.sea import BASE, TINY
from lib.scoring.oracles import Oracle


class Cell(NamedTuple):
    """One difficulty. Burn-in is 24 queries, 8 in the clean cells: well below what a win rate of 0.8 takes."""

    dim: int = 16
    answers: int = 200  # of a prompt
    prompts: int = 8
    coverage: str = "hard"  # of good answers by the start: easy, hard
    labels: str = "bernoulli"  # or deterministic
    flip: float = 0.2  # share of labels turned round
    batch: int = 4  # prompts a round: pairs a policy step
    burn_in: int = 6  # rounds before synthetic pairs
    budget: int = 320  # queries
    candidates: int = 20  # M
    # the policy's losses: the targets of IPO, 1 / (2 beta), and SLiC, 1 / beta, lie beyond what the start has to lose
    loss: str = "dpo"
    beta: float = 0.1
    slic_beta: float = 0.05
    ipo_beta: float = 0.02
    # the reward heads, and what only some methods have
    heads: int = 8
    hidden: int = 16
    heads_lr: float = 1e-2
    heads_batch: int = 16
    heads_steps: int = 5
    anchor: float = 0.1
    buffer: int = 5000
    oversample: int = 4
    optimism: float = 1e-5


_CLEAN: dict[str, Any] = dict(labels="deterministic", flip=0.0, burn_in=2, budget=192)
CELLS = {
    BASE: Cell(),
    "noisy easy": Cell(coverage="easy"),
    "clean hard": Cell(**_CLEAN),
    "clean easy dim 64": Cell(coverage="easy", dim=64, **_CLEAN),
    "noisy hard 2 a round": Cell(batch=2, burn_in=12),
    "noisy hard dim 8": Cell(dim=8),
    "noisy hard 50 answers": Cell(answers=50),
    "noisy hard 24 prompts": Cell(prompts=24),
    TINY: Cell(dim=4, answers=30, prompts=4, budget=64, burn_in=2, candidates=6, heads=4, hidden=8, heads_batch=8),
}
# What a run records world by world in every cell; in the first it records all scores.
IN_EVERY_CELL = ["win rate, any answer", *(f"{k}, {x}" for k in ("log queries", "reached") for x in reaching.LEVELS)]
EVERY = 8  # queries between looks at the win rate


class Played(NamedTuple):
    """One method in many worlds at once."""

    counts: list[int]  # queries a world at each look
    rates: Tensor  # (looks, worlds) win rates
    scores: dict[str, Tensor]  # name -> (worlds,)
    steps: int  # the policy's
    queries: int  # asked a world


def loss_target(method: Method, cell: Cell) -> float:
    """Nats at which the policy loss of a method is content with a pair; DPO never is."""
    return {"ipo": 0.5 / cell.ipo_beta, "slic": 1 / cell.slic_beta}.get(method.loss or cell.loss, float("inf"))


def budget_of(arm: str, cell: Cell) -> int:
    """Queries a method has in a cell: passive-twice is the control that has twice as many."""
    return cell.budget * (2 if arm == "passive-twice" else 1)


def compete(arm: str, name: str, *, seed: int, worlds: int, lr) -> Played:
    """One method in that many worlds of a cell; lr: its rate, or several, each in all the worlds (`Enumerated`).

    ValueError if its loss aims at a margin that leaves the start's mistakes standing.
    """
    cell, method = CELLS[name], METHODS[arm]
    g = partial(seeding.torch_generator, seed)
    world = Enumerated(prompts=cell.prompts, answers=cell.answers, dim=cell.dim, coverage=cell.coverage, lr=lr,
        generator=g(f"{name}: world"), worlds=worlds)  # fmt: skip
    if (aim := loss_target(method, cell)) < (start := world.overcome()):
        raise ValueError(
            f"{arm} aims at a margin of {aim:.3g} nats and the start prefers a worse answer by up to {start:.3g}: a "
            "policy that fits it cannot undo the start; take a smaller beta"
        )
    oracle = Oracle(world.reward, labels=cell.labels, flip=cell.flip, generator=g(f"{name}: oracle"))
    if arm == "passive-again":  # methods share their luck, but for the one that is there to have another
        world.generator = g(f"{name}: again")
    agent = Agent(world, method, oracle, cell, generator=g(f"{name}: agent"))
    budget, counts, rates = budget_of(arm, cell), [], []

    def look(queries: int, scores: dict[str, Tensor]) -> None:
        counts.append(queries)
        rates.append(world.by_world(scores["win rate, any answer"]))

    _, over, last = play(agent, budget=budget, every=EVERY, desc=arm, quiet=True, watch=look)
    if not oracle.queries == len(oracle.log) >= budget * world.worlds:
        raise RuntimeError(f"{arm}: {oracle.queries} queries counted, {len(oracle.log)} logged, budget {budget}")
    curve = torch.stack(rates)
    scores = {k: world.by_world(v) for k, v in last.items()} | {
        "win rate, whole run": world.by_world(over["win rate, any answer"]),
        "duel regret": world.regret(oracle.log),
    }
    for level in reaching.LEVELS:
        needed = reaching.queries(counts, curve, level)
        scores[f"log queries, {level}"] = reaching.log_restricted(needed, budget)
        scores[f"reached, {level}"] = (needed <= budget).double()
    return Played(counts, curve, scores, agent.rounds, oracle.queries // world.worlds)
