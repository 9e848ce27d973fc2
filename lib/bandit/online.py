"""Online alignment as a contextual dueling bandit: one loop for every method; a method is a row of a table, not a code
path.

Each round draws prompts, samples answers, picks two of each prompt to compare, has the oracle (or, for the synthetic
share, a drawn reward head) say which is better, and takes one step of the policy and a few of the reward heads. arXiv
2411.01493, Algorithm 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lib import bandit
from lib.bandit.methods import Method, check_shares, labelled_by_heads, policy_loss, prompts_of, rounds
from lib.engine import checkpoint
from lib.engine.latents import check_gradients
from lib.harness.progress import announce, track
from lib.scoring.oracles import Oracle


class Candidates(NamedTuple):
    """Answers of one round: B prompts, N each, with what the methods look at."""

    prompts: list[int]
    answers: list[list]  # (B, N), compared by equality
    features: Tensor  # (B, N, D) of the frozen start model
    log_probs: Tensor  # (B, N) under the policy that is learning
    start: Tensor  # (B, N) under the start model
    held: list  # whatever the world keeps for a prompt's answers

    def rows(self, keep: Sequence[int]) -> Candidates:
        """The prompts of these rows."""
        at = torch.tensor(list(keep), dtype=torch.long)
        return Candidates(
            [self.prompts[i] for i in keep],
            [self.answers[i] for i in keep],
            self.features[at],
            self.log_probs[at],
            self.start[at],
            [self.held[i] for i in keep],
        )


class World(Protocol):
    """What a method plays in: `lib.bandit.enumerated`, where everything is exact, and `lib.studies.sea.language`, a
    language model.

    Several worlds may be played side by side; a round then has each one's prompts, world by world, and no world sees
    another's.
    """

    worlds: int
    dim: int  # of the features

    def draw(self, n: int) -> list[int]: ...
    def propose(self, prompts: list[int], n: int, source: str) -> Candidates: ...
    def step(
        self, c: Candidates, duels: Tensor, mask: Tensor, loss: Callable, bonus: tuple[float, int] | None
    ) -> dict: ...
    def texts(self, c: Candidates, which: Tensor) -> list: ...
    def evaluate(self, pick: Callable[[Tensor], Tensor] | None, source: str) -> dict[str, Tensor]: ...
    def state(self) -> dict: ...
    def restore(self, state: dict) -> None: ...


class Buffer:
    """Features (2, D) of the chosen and rejected answers of real queries in every world; the oldest leave when it is
    full.

    A pair of equal answers keeps its place with mask 0, as in the release: it was asked for and teaches nothing.
    """

    def __init__(self, capacity: int, dim: int, worlds: int = 1):
        self.store, self.mask, self.seen = torch.empty(capacity, worlds, 2, dim), torch.empty(capacity, worlds), 0

    def add(self, pairs: Tensor, mask: Tensor) -> None:
        """Append pairs (worlds n, 2, D), world by world."""
        worlds = self.store.shape[1]
        pairs, mask = pairs.float().unflatten(0, (worlds, -1)).transpose(0, 1), mask.view(worlds, -1).T
        at = (self.seen + torch.arange(len(pairs))) % len(self.store)
        self.store[at], self.mask[at] = pairs, mask
        self.seen += len(pairs)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(pairs (worlds n, 2, D), mask (worlds n)): n different ones of each world, or all there are."""
        at = torch.randperm(min(self.seen, len(self.store)), generator=generator)[:n]
        return self.store[at].transpose(0, 1).flatten(0, 1), self.mask[at].T.flatten()


class Agent:
    """One method in one world. `round` plays and learns once; `state` and `restore` continue a run where it stopped."""

    def __init__(self, world: World, method: Method, oracle: Oracle, cfg, *, generator: torch.Generator):
        self.world, self.method, self.oracle, self.cfg, self.generator = world, method, oracle, cfg, generator
        loss = method.loss or cfg.loss
        check_shares(method, cfg.batch)
        self.loss = policy_loss(loss, beta={"slic": cfg.slic_beta, "ipo": cfg.ipo_beta}.get(loss, cfg.beta))
        self.heads = bandit.Ensemble(cfg.heads, world.dim, cfg.hidden, generator=generator, worlds=world.worlds)
        self.optimizer = torch.optim.Adam(self.heads.parameters(), lr=cfg.heads_lr, weight_decay=0.0)
        self.buffer, self.rounds = Buffer(cfg.buffer, world.dim, world.worlds), 0

    def round(self) -> dict:
        """Play one round; what happened, as numbers."""
        m, cfg = self.method, self.cfg
        size, made = prompts_of(m, cfg, self.rounds), labelled_by_heads(m, cfg, self.rounds)
        many = cfg.candidates if m.explore not in ("passive", "certainty") and m.source != "both" else 2
        over = cfg.oversample if m.explore in ("certainty", "entropy") else 1
        c = self.world.propose(self.world.draw(size * over), many, m.source)
        if over > 1:
            c = self._clearest(c, size)
        rewards = self._rewards(c)
        duels = self._duels(c, rewards)
        kinds = bandit.kinds_of(c.answers)
        synthetic = torch.zeros(self.world.worlds, size, dtype=torch.bool)
        if m.synthetic and self.rounds >= cfg.burn_in:
            order = torch.rand(synthetic.shape, generator=self.generator).argsort(1)
            synthetic.scatter_(1, order[:, :made], True)
        synthetic = synthetic.flatten()
        if synthetic.any():
            duels = torch.where(synthetic[:, None], bandit.best_and_worst(rewards, self._heads(len(duels))), duels)
        asked = (~synthetic).nonzero()[:, 0].tolist()
        real = c.rows(asked)
        first = self.oracle.compare(
            self.world.texts(real, duels[asked][:, 0]), self.world.texts(real, duels[asked][:, 1])
        )
        wins = torch.ones(len(duels), dtype=torch.bool)
        wins[asked] = first
        duels = torch.where(wins[:, None], duels, duels.flip(1))
        differ = kinds.gather(1, duels[:, :1]) != kinds.gather(1, duels[:, 1:])
        mask = differ[:, 0].float()
        out = {
            "queries": self.oracle.queries,
            "clashes": 1 - mask.mean().item(),
            "synthetic": synthetic.float().mean().item(),
        }
        out |= self._watch(c, duels, rewards, synthetic)
        if m.learn != "heads":
            bonus = {"none": None, "xpo": (cfg.optimism, 1), "selm": (cfg.optimism * cfg.beta, 1)}[
                m.bonus
            ]  # candidate 1 is the start's
            out |= self.world.step(c, duels, mask, self.loss, bonus)
        if m.learn != "policy":
            pairs = real.features.gather(1, duels[asked][..., None].expand(-1, -1, c.features.shape[-1]))
            if m.taught == "coins":
                tossed = torch.rand(len(pairs), 1, 1, generator=self.generator) < 0.5
                pairs = torch.where(tossed, pairs.flip(1), pairs)
            out |= self.learn(pairs, mask[asked])
        self.rounds += 1
        return out

    def _rewards(self, c: Candidates) -> Tensor:
        """What the heads think of the candidates, (K, B, N); all of them the true rewards where the method is told."""
        if self.method.taught == "truth":
            known: Any = self.world  # an exact one: no other has true rewards
            return known.true(c).expand(self.cfg.heads, -1, -1)
        with torch.no_grad():
            return self.heads(c.features.float())

    def _clearest(self, c: Candidates, size: int) -> Candidates:
        """APL: of the prompts drawn the `size` of each world that are most certain, or most entropic."""
        margin = bandit.widest(self._implicit(c))[1]  # of equal answers 0
        score = margin if self.method.explore == "certainty" else bandit.entropy(c.log_probs)
        score = score.view(self.world.worlds, -1)
        keep = (
            score.argsort(dim=1, descending=True, stable=True)[:, :size]
            + score.shape[1] * torch.arange(len(score))[:, None]
        )
        return c.rows(keep.flatten().tolist())

    def _implicit(self, c: Candidates) -> Tensor:
        """The rewards (B, N) that the policy itself stands for; those of equal answers are equal, though rounding makes
        their log-probs differ."""
        return bandit.alike(self.cfg.beta * (c.log_probs - c.start), bandit.kinds_of(c.answers))

    def _duels(self, c: Candidates, rewards: Tensor) -> Tensor:
        """Which two answers of each prompt to compare, (B, 2), by the method's rule."""
        kinds, rule, kind = bandit.kinds_of(c.answers), self.method.explore, self.method.spread
        if rule in ("certainty", "entropy"):
            if (
                self.rounds == 0
            ):  # the policy is the start: what differs is rounding, and there is nothing to be certain of
                return bandit.first_two(kinds)
            return bandit.widest(self._implicit(c))[0]
        if rule == "passive":
            return bandit.first_two(kinds)
        if rule == "random":
            return bandit.two_of(kinds, self.generator)
        if rule == "bai":
            return bandit.best_arm(rewards, kinds, self._heads(len(kinds)), kind=kind)
        if rule == "ets":
            order = torch.rand(len(kinds), len(rewards), generator=self.generator).argsort(1)
            return bandit.double_thompson(rewards, kinds, order)
        if rule == "uncertainty":
            return bandit.least_certain(rewards, kinds, kind=kind)
        if rule == "drts":
            return bandit.double_reverse(rewards, kinds, self._heads(2 * len(kinds)).view(-1, 2))
        if rule == "deltaucb":
            return bandit.delta_ucb(rewards, kinds)
        raise ValueError(
            "explore is one of passive, random, bai, ets, uncertainty, drts, deltaucb, certainty, entropy, given "
            f"{rule!r}"
        )

    def _heads(self, n: int) -> Tensor:
        return torch.randint(self.cfg.heads, (n,), generator=self.generator)

    def learn(self, pairs: Tensor, mask: Tensor) -> dict:
        """Remember queries, features (n, 2, D) of the better and the worse answer, mask 0 where they are equal; then a
        few Adam steps of the heads on past queries, once there are enough. Weights stay near each head's own start."""
        self.buffer.add(pairs, mask)
        if self.buffer.seen < self.cfg.heads_batch:
            return {}
        for _ in range(self.cfg.heads_steps):
            pairs, mask = self.buffer.sample(self.cfg.heads_batch, self.generator)
            chosen, rejected = self.heads(pairs).unbind(-1)
            loss = bandit.reward_loss(chosen, rejected, mask) + bandit.anchor(
                self.heads, weight=self.cfg.anchor, seen=self.buffer.seen
            )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            check_gradients(self.heads.named_parameters(), f"reward heads, round {self.rounds + 1}")
            self.optimizer.step()
        return {"heads' loss": loss.item()}

    def _watch(self, c: Candidates, duels: Tensor, rewards: Tensor, synthetic: Tensor) -> dict:
        """For the record: how far the heads disagree, how often their mean agrees with the labels, how many synthetic
        labels are true (nan where the oracle is not free), and the policy's KL to the start on the answers it gave."""
        mean = rewards.mean(0).gather(1, duels)
        made = c.rows(synthetic.nonzero()[:, 0].tolist())
        true = self.oracle.peek(*(self.world.texts(made, duels[synthetic][:, k]) for k in range(2)))
        moved = (c.log_probs - c.start).mean().item() if self.method.source == "policy" else float("nan")
        return {
            "heads agree with the label": (mean[:, 0] > mean[:, 1])[~synthetic].float().mean().item(),
            "spread of the heads": rewards.std(0).mean().item(),
            "synthetic labels true": float("nan") if true is None else true.float().mean().item(),
            "KL to the start": moved,
        }  # fmt: skip

    def evaluate(self) -> dict[str, Tensor]:
        """Scores of every held-out prompt for what the method would deploy."""
        if self.method.act == "policy":
            return self.world.evaluate(None, "policy")
        with torch.no_grad():
            pick = lambda features: self.heads(features.float()).mean(0).argmax(-1)  # noqa: E731
            return self.world.evaluate(pick, "start" if self.method.act == "bon-start" else "policy")

    def state(self) -> dict:
        """Everything that the next round depends on."""
        parts = {
            "heads": self.heads.state_dict(),
            "start": self.heads.start,
            "optimizer": self.optimizer.state_dict(),
            "buffer": self.buffer.store,
            "mask": self.buffer.mask,
        }
        return copy.deepcopy(parts) | {
            "world": self.world.state(), "oracle": self.oracle.state(), "seen": self.buffer.seen,
            "rounds": self.rounds, "generator": self.generator.get_state(),
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        """Continue from `state`."""
        self.world.restore(state["world"])
        self.heads.load_state_dict(state["heads"])
        self.heads.start = state["start"]
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.buffer.store, self.buffer.mask = state["buffer"].clone(), state["mask"].clone()
        self.buffer.seen, self.rounds = state["seen"], state["rounds"]
        self.generator.set_state(state["generator"])
        self.oracle.restore(state["oracle"])


def looks_of(budget: int, every: int) -> list[int]:
    """The query counts at which all methods are compared: each multiple of `every`, and the budget."""
    return [*range(every, budget, every), budget]


def play(
    agent: Agent,
    *,
    budget: int,
    every: int,
    desc: str,
    quiet: bool = False,
    keep: Path | None = None,
    watch: Callable[[int, dict[str, Tensor]], None] = lambda queries, scores: None,
) -> tuple[list[dict], dict[str, Tensor], dict[str, Tensor]]:
    """Rounds until the oracle was asked `budget` times a world, looking at the start and about every `every` queries.

    (one row a look: "step" is the number of queries, mean scores and what the round said; every held-out prompt's
    scores averaged over the run; its last scores). The average is over the same query counts for every method
    (`looks_of`), read between the looks on a line, since rounds do not end at the same counts. keep: where a run that
    is stopped, by an oracle that fails or by hand, leaves all it has; the next call with the same file goes on from
    there, and the file is gone once the run is done. watch: called at every look with the queries a world and the
    scores.
    """
    if budget < agent.cfg.batch or every < 1:
        raise ValueError(
            f"a budget holds at least one round of {agent.cfg.batch} queries and every is at least 1, given {budget} "
            f"and {every}"
        )
    counts = looks_of(budget, every)
    if keep is not None and keep.exists():
        kept = checkpoint.load(keep)
        agent.restore(kept["agent"])
        rows, total, last = kept["rows"], kept["total"], kept["last"]
        announce(f"{desc}: going on after {agent.oracle.queries} queries of a run that was stopped")
    else:
        last = agent.evaluate()
        watch(0, last)
        rows, total = [{"step": 0, **_means(last)}], {k: torch.zeros_like(v) for k, v in last.items()}
    steps = range(agent.rounds, rounds(agent.method, agent.cfg, budget))
    for _ in steps if quiet else track(steps, desc):
        before = agent.state() if keep is not None else None
        try:
            out = agent.round()
        except BaseException:
            if keep is not None:
                checkpoint.save(keep, {"agent": before, "rows": rows, "total": total, "last": last})
            raise
        asked = agent.oracle.queries // agent.world.worlds
        done = asked >= budget
        if done or asked // every > rows[-1]["step"] // every:
            now, at = agent.evaluate(), rows[-1]["step"]
            watch(asked, now)
            for way in [(q - at) / (asked - at) for q in counts if at < q <= asked]:
                total = {k: v + (1 - way) * last[k] + way * now[k] for k, v in total.items()}
            last = now
            rows.append({"step": asked, **_means(last), **{k: v for k, v in out.items() if k != "queries"}})
        if done:
            break
    if keep is not None:
        keep.unlink(missing_ok=True)
    return rows, {k: v / len(counts) for k, v in total.items()}, last


def _means(scores: dict[str, Tensor]) -> dict[str, float]:
    return {k: v.mean().item() for k, v in scores.items()}
