"""The exact worlds of `lib.bandit.online`: a few prompts, each with the same number of answers whose rewards are
known."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib.bandit.online import Candidates
from lib.engine.latents import check_gradients
from lib.scoring.oracles import free


class Enumerated:
    """`worlds` independent worlds played side by side, P prompts each; regret and win rates are sums, not estimates.

    Prompt p belongs to world p // P. Policy: softmax(start's logits + an MLP of the answer's features). coverage
    "easy": the start knows nothing; "hard": it prefers bad answers. lr: one rate, or several: then every world is there
    once for each, all at the first rate, all at the second, and so on.
    """

    def __init__(
        self,
        *,
        prompts: int,
        answers: int,
        dim: int,
        coverage: str,
        lr: float | Sequence[float],
        generator: torch.Generator,
        worlds: int = 1,
    ):
        if coverage not in ("easy", "hard"):
            raise ValueError(f"coverage is easy or hard, given {coverage!r}")
        g = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
        rates = [lr] if isinstance(lr, float) else list(lr)
        self.dim, self.generator, self.worlds, self.prompts = dim, generator, worlds * len(rates), prompts
        self.features = g(worlds * prompts, answers, dim)
        raw = (
            torch.tanh(self.features.view(worlds, -1, dim) @ g(worlds, dim, dim) / dim**0.5) @ g(worlds, dim, 1)
        ).view(-1, answers)
        self.rewards = 2 * (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True)
        noise = g(worlds * prompts, answers)
        self.start = 0.5 * noise if coverage == "easy" else -0.75 * self.rewards + 0.5 * noise
        sizes = [(dim, 32), (32, 32), (32, 1)]
        drawn = [g(worlds, i, o) / i**0.5 if o > 1 else torch.zeros(worlds, i, o) for i, o in sizes]
        if len(rates) > 1:
            beside = lambda x: x.repeat(len(rates), *[1] * (x.dim() - 1))  # noqa: E731
            self.features, self.rewards, self.start = map(beside, (self.features, self.rewards, self.start))
            drawn = list(map(beside, drawn))
        self.weights = [w.requires_grad_() for w in drawn]
        self.biases = [torch.zeros(self.worlds, 1, o, requires_grad=True) for _, o in sizes]
        # Adam's step is its rate times a direction: it goes at the largest, and each world keeps its part of the way
        self.optimizer = torch.optim.Adam([*self.weights, *self.biases], lr=max(rates))
        self.part = torch.tensor(rates).repeat_interleave(worlds)[:, None, None] / max(rates)

    def logits(self, prompts: Sequence[int] | slice, answers: Tensor | None = None) -> Tensor:
        """The policy's logits (B, A) of as many prompts of each world, world by world; of `answers` (B, n) only, if
        given."""
        features, start = self.features[prompts], self.start[prompts]
        if answers is not None:
            features, start = features.gather(1, answers[..., None].expand(-1, -1, self.dim)), start.gather(1, answers)
        x = features.reshape(self.worlds, -1, self.dim)
        for k, (w, b) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(b, x, w)
            x = x.relu() if k < 2 else x
        return start + x.view_as(start)

    def draw(self, n: int) -> list[int]:
        """n prompts of each world."""
        first = self.prompts * torch.arange(self.worlds)[:, None]
        return (first + torch.randint(self.prompts, (self.worlds, n), generator=self.generator)).flatten().tolist()

    @torch.no_grad()
    def propose(self, prompts: list[int], n: int, source: str) -> Candidates:
        """n answers a prompt from the policy or the start; "both": one of each, the policy's first."""
        own, start = self.logits(prompts).log_softmax(-1), self.start[prompts].log_softmax(-1)
        draw = lambda p, k: torch.multinomial(p.exp(), k, replacement=True, generator=self.generator)  # noqa: E731
        picked = (
            torch.cat([draw(own, 1), draw(start, 1)], 1)
            if source == "both"
            else draw(own if source == "policy" else start, n)
        )
        features = self.features[prompts].gather(1, picked[..., None].expand(-1, -1, self.dim))
        return Candidates(
            prompts, picked.tolist(), features, own.gather(1, picked), start.gather(1, picked), [None] * len(prompts)
        )

    def texts(self, c: Candidates, which: Tensor) -> list[tuple[int, int]]:
        """(prompt, answer) of one candidate of each prompt: what the oracle reads."""
        return [(p, row[i]) for p, row, i in zip(c.prompts, c.answers, which.tolist())]

    @free
    def reward(self, texts: Sequence[tuple[int, int]]) -> Tensor:
        """True rewards (B,)."""
        return self.rewards[tuple(torch.tensor(texts).T)] if texts else torch.zeros(0)

    def true(self, c: Candidates) -> Tensor:
        """True rewards (B, N) of a round's candidates, for the method whose heads are told."""
        return self.rewards[c.prompts].gather(1, torch.tensor(c.answers))

    def step(self, c: Candidates, duels: Tensor, mask: Tensor, loss: Callable, bonus: tuple[float, int] | None) -> dict:
        """One Adam step on the round's pairs, the chosen answer first."""
        answers = torch.tensor(c.answers)
        picked = answers.gather(1, duels)
        if (
            bonus is None
        ):  # every loss sees the difference of a prompt's two answers, in which the sum over all of them cancels
            w, l = self.logits(c.prompts, picked).unbind(1)
        else:
            own = self.logits(c.prompts).log_softmax(-1)
            w, l = own.gather(1, picked).unbind(1)
        rw, rl = c.start.gather(1, duels).unbind(1)
        ones = torch.ones_like(w)
        total = (loss(w, l, rw, rl, ones, ones) * mask).mean()  # over worlds too: a factor that Adam does not see
        if bonus is not None:
            weight, which = bonus
            total = total + weight * own.gather(1, answers[:, which : which + 1]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        named = [(f"weight {i}", w) for i, w in enumerate(self.weights)]
        check_gradients(named + [(f"bias {i}", b) for i, b in enumerate(self.biases)], "the worlds' policy")
        before = [p.detach().clone() for p in (*self.weights, *self.biases)]
        self.optimizer.step()
        with torch.no_grad():
            for p, old in zip((*self.weights, *self.biases), before):
                p.copy_(torch.lerp(old, p, self.part))
        return {"loss": total.item()}

    @torch.no_grad()
    def evaluate(self, pick: Callable[[Tensor], Tensor] | None, source: str, *, n: int = 10) -> dict[str, Tensor]:
        """Per prompt: P(win) of the greedy (or picked) answer against the start's, and against any of the prompt's
        answers, a yardstick that does not depend on the start; expected reward, KL to the start."""
        own, start = self.logits(slice(None)).log_softmax(-1), self.start.log_softmax(-1)
        if pick is None:
            answer = own.argmax(-1)
        else:
            picked = torch.multinomial(
                (own if source == "policy" else start).exp(), n, replacement=True, generator=self.generator
            )
            features = self.features.gather(1, picked[..., None].expand(-1, -1, self.dim))
            answer = picked.gather(1, pick(features)[:, None])[:, 0]
        mine = self.rewards.gather(1, answer[:, None])
        beats = (mine > self.rewards).float() + 0.5 * (mine == self.rewards).float()
        return {
            "win rate": (start.exp() * beats).sum(1), "win rate, any answer": beats.mean(1),
            "expected reward": (own.exp() * self.rewards).sum(1),
            "reward": mine[:, 0],
            "KL to the start": (own.exp() * (own - start)).sum(1),
        }  # fmt: skip

    def by_world(self, scores: Tensor) -> Tensor:
        """Means (worlds,) of scores a prompt."""
        return scores.view(self.worlds, -1).mean(1)

    def overcome(self) -> float:
        """The largest number of nats by which the start prefers an answer to a better one of the same prompt: a policy
        that ranks them right has to move that far."""
        start = self.start.gather(1, self.rewards.argsort(1))  # the worst answer first
        return (start.cummax(1).values - start).max().item()

    def regret(self, log: Sequence[tuple]) -> Tensor:
        """Mean over each world's part of an oracle's log of r(best) minus the mean reward of the two answers compared,
        (worlds,)."""
        p, a, b = torch.tensor([(p, a, b) for (p, a), (_, b), *_ in log]).T
        each = self.rewards.amax(1)[p] - (self.rewards[p, a] + self.rewards[p, b]) / 2
        sums, counts = (
            torch.zeros(self.worlds, dtype=each.dtype).index_add_(0, p // self.prompts, x)
            for x in (each, torch.ones_like(each))
        )
        return sums / counts

    def state(self) -> dict:
        return {
            "parameters": [p.detach().clone() for p in (*self.weights, *self.biases)],
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "generator": self.generator.get_state(),
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        with torch.no_grad():
            for p, s in zip((*self.weights, *self.biases), state["parameters"]):
                p.copy_(s)
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"])
