"""Whether the language world can test what SEA rests on: heads that learn the oracle's taste from its queries.

Where heads cannot say which of two answers the oracle will prefer, no choice of theirs can save a query, and the
language world's claims read *cannot tell here*.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lib import bandit
from lib.bandit.methods import METHODS, labelled_by_heads, prompts_of, rounds
from lib.bandit.online import Agent
from lib.engine.generation import Sampling
from lib.harness import seeding
from lib.scoring.oracles import Oracle, is_free, wins
from lib.studies.sea.language import Dialogue


def accuracy(world: Dialogue, cfg, *, arm: str = "sea-logit") -> Tensor:
    """Per held-out prompt, of two different answers of the start's: 1 where the heads' mean prefers the one that the
    oracle prefers, 0 where the other, 1/2 where the oracle sees no difference. NaN for equal answers.

    The heads have learned from as many queries, in rounds of the same sizes, as the method `arm` makes, from pairs of
    the start's answers. ValueError for an oracle that is not free: it would be asked beside its budget.
    """
    if not is_free(world.bench.rewards["oracle"]):
        raise ValueError("the gate asks the oracle beside its budget, and this oracle is not free")
    g, method = partial(seeding.torch_generator, cfg.seed), METHODS[arm]
    reward = world.bench.rewards["oracle"]
    world.reset(g("gate", cfg.device), lr=cfg.lr)
    oracle = Oracle(reward, labels=cfg.labels, flip=cfg.flip, generator=g("gate oracle"))
    agent = Agent(world, method, oracle, cfg, generator=g("gate heads"))
    for k in range(rounds(method, cfg, cfg.budget)):
        c = world.propose(world.draw(prompts_of(method, cfg, k) - labelled_by_heads(method, cfg, k)), 2, "start")
        first = oracle.compare(*(world.texts(c, torch.full((len(c.prompts),), i)) for i in range(2)))
        pairs = torch.where(first[:, None, None], c.features, c.features.flip(1))
        kinds = bandit.kinds_of(c.answers)
        agent.learn(pairs, (kinds[:, 0] != kinds[:, 1]).float())
    b = world.bench
    done = world.sample(b.held_out_ids, "start", Sampling(cfg.temperature, g("gate test", cfg.device), n=2))
    features = world.look(b.held_out_ids, done)[1]
    with torch.no_grad():
        liked = agent.heads(features.float()).mean(0)  # (B, 2)
    texts = [[(p, b.tokenizer.decode(c.tokens, skip_special_tokens=True)) for c in row]
        for p, row in zip(b.held_out, done)]  # fmt: skip
    true = wins(*(reward([row[i] for row in texts]) for i in range(2)))
    right = torch.where(liked[:, 0] > liked[:, 1], true, 1 - true)
    return right.masked_fill(torch.tensor([row[0].tokens == row[1].tokens for row in done]), float("nan"))
