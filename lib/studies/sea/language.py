"""The language model's world of `lib.bandit.online`: real prompts, sampled answers, a policy whose last blocks
learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.bandit.methods import METHODS, rounds
from lib.bandit.online import Agent, Candidates, play
from lib.data import Prompt, encode
from lib.engine import keeping, latents, training, trunk
from lib.engine.generation import GREEDY, Completion, Sampling, generate, recorded
from lib.engine.head import head_of
from lib.engine.logprobs import check_finite, sum_logprob, token_logprobs
from lib.harness import seeding, take_home
from lib.quantization import block_linears
from lib.scoring import oracles
from lib.scoring.metrics import distinct_n
from lib.scoring.oracles import Oracle, Reward, is_free

Ids = Sequence[Sequence[int]]


class Bench(NamedTuple):
    """What every method is given alike: a language model of which the last blocks learn, prompts, and what rewards
    (prompt, answer) texts. One pass through the frozen blocks serves features, start log-probs and the step."""

    cfg: Any
    model: torch.nn.Module
    tokenizer: Any
    stop: list[int]
    train: list[str]
    held_out: list[str]
    ids: Ids  # of train
    held_out_ids: Ids
    rewards: dict[str, Reward]  # the oracle uses the first
    top: torch.nn.Module  # the blocks that learn, and the head
    below: torch.nn.Module  # the last block that does not
    linears: dict[str, torch.nn.Linear]
    start: dict[str, Tensor]  # their weights before any method
    dim: int


def bench(
    cfg,
    model,
    tokenizer,
    train: Sequence[Prompt],
    held_out: Sequence[Prompt],
    *,
    rewards: dict[str, Reward],
    stop_ids: Sequence[int],
) -> Bench:
    """The model divided below its last `cfg.blocks`, and the prompts encoded."""
    top = trunk.split(model, cfg.blocks)[1]
    linears = block_linears(top)
    return Bench(
        cfg, model, tokenizer, list(stop_ids), [p.text for p in train], [p.text for p in held_out],
        encode(tokenizer, train), encode(tokenizer, held_out), rewards, top, trunk.end(model, cfg.blocks),
        linears, {n: m.weight.detach().clone() for n, m in linears.items()}, model.config.hidden_size,
    )  # fmt: skip


@torch.no_grad()
def as_start(b: Bench) -> None:
    """Put the start's weights where the policy's are."""
    for n, m in b.linears.items():
        m.weight.copy_(b.start[n])


def sampled(b: Bench, ids: Ids, sampling: Sampling) -> list[list[Completion]]:
    """Completions of the weights as they are, grouped by prompt."""
    n, done = sampling.n, generate(
        b.model, ids, max_new_tokens=b.cfg.tokens, stop_ids=b.stop, batch=b.cfg.generation_batch, sampling=sampling,
        watch=b.below,
    )  # fmt: skip
    return [done[i * n : (i + 1) * n] for i in range(len(ids))]


@torch.inference_mode()
def looked_at(b: Bench, ids: Ids, done: Sequence[Sequence[Completion]]) -> tuple[list, Tensor, Tensor]:
    """(trunk states, mean hidden states (B, N, D) over each answer, log-probs (B, N)) of sampled answers (B, N) under
    the weights as they are."""
    rows, pieces = [(p, [c.tokens for c in row]) for p, row in zip(ids, done)], [recorded(row) for row in done]
    head, means, log_probs = head_of(b.top), [], []
    for i in range(0, len(rows), b.cfg.eval_batch):
        some = slice(i, i + b.cfg.eval_batch)
        packed, hidden = trunk.top_states(b.top, rows[some], pieces[some])
        tokens = token_logprobs(hidden, head, packed.target)
        log_probs.append(sum_logprob(tokens, packed.branch, packed.branches).cpu())
        sums = torch.zeros(packed.branches, b.dim).index_add_(0, packed.branch.cpu(), hidden.float().cpu())
        means.append(sums / packed.branch.cpu().bincount(minlength=packed.branches)[:, None])
    shape = (len(rows), len(rows[0][1]))
    return pieces, torch.cat(means).view(*shape, -1), torch.cat(log_probs).view(shape)


def text(b: Bench, answer: Sequence[int]) -> str:
    return b.tokenizer.decode(list(answer), skip_special_tokens=True)


class Dialogue:
    """The policy of one method on a bench: its weights, its optimizer, its order of prompts.

    Features are the start model's mean hidden states over an answer, standardised by the first round's.
    """

    def __init__(self, bench: Bench, generator: torch.Generator):
        self.bench, self.dim, self.worlds = bench, bench.dim, 1
        self.reset(generator, lr=bench.cfg.lr)

    def reset(self, generator: torch.Generator, *, lr: float, horizon: int | None = None) -> None:
        """The policy is the start model again, the prompts' order that of `generator`; the rate falls over `horizon`
        steps."""
        self.generator, cfg = generator, self.bench.cfg
        self.standard: tuple[Tensor, Tensor] | None = None  # mean and deviation of the first round's features
        as_start(self.bench)
        self.latent = latents.Latent(self.bench.linears, partial(latents.Full, quantizer=None))
        self.stepper = training.Stepper(self.latent, training.AdamW(lr, cfg.warmup, cfg.clip, horizon=horizon))
        self.order: list[int] = []

    def draw(self, n: int) -> list[int]:
        """The next n prompts, each once an epoch."""
        while len(self.order) < n:
            where = self.generator.device
            self.order += torch.randperm(len(self.bench.ids), generator=self.generator, device=where).tolist()
        out, self.order = self.order[:n], self.order[n:]
        return out

    def sample(self, ids: Ids, source: str, sampling: Sampling = GREEDY) -> list[list[Completion]]:
        """Completions, grouped by prompt, of the policy or the start."""
        if source == "start":
            as_start(self.bench)
        done = sampled(self.bench, ids, sampling)
        self.latent.sync()
        return done

    def look(self, ids: Ids, done) -> tuple[list, Tensor, Tensor]:
        """(trunk states, features (B, N, D), start's log-probs (B, N)) of sampled answers (B, N)."""
        as_start(self.bench)
        pieces, means, log_probs = looked_at(self.bench, ids, done)
        self.latent.sync()
        if self.standard is None:
            flat = means.flatten(0, 1)
            self.standard = (flat.mean(0), flat.std(0).clamp(min=1e-6))
        return pieces, (means - self.standard[0]) / self.standard[1] / self.dim**0.5, log_probs

    def propose(self, prompts: list[int], n: int, source: str) -> Candidates:
        """n answers a prompt from the policy or the start; "both": one of each, the policy's first. The start's have no
        policy log-prob."""
        ids = [self.bench.ids[p] for p in prompts]
        how = Sampling(self.bench.cfg.temperature, self.generator, n=1 if source == "both" else n)
        if source == "both":
            done = [a + b for a, b in zip(self.sample(ids, "policy", how), self.sample(ids, "start", how))]
        else:
            done = self.sample(ids, source, how)
        answers = [[tuple(c.tokens) for c in row] for row in done]
        pieces, features, start = self.look(ids, done)
        own = torch.tensor([[sum(c.logprobs) if source == "policy" else float("nan") for c in row] for row in done])
        return Candidates(prompts, answers, features, own, start, pieces)

    def texts(self, c: Candidates, which: Tensor) -> list[tuple[str, str]]:
        """(prompt, one candidate's answer) of each prompt: what the oracle reads."""
        b = self.bench
        return [(b.train[p], text(b, row[i])) for p, row, i in zip(c.prompts, c.answers, which.tolist())]

    def step(self, c: Candidates, duels: Tensor, mask: Tensor, loss: Callable, bonus: tuple[float, int] | None) -> dict:
        """One optimizer step on the round's pairs, the chosen answer first; a masked pair counts in the mean's size."""
        b, head = self.bench, head_of(self.bench.top)

        def objective(indices):
            pairs = [(c.prompts[i], *duels[i].tolist(), i) for i in indices]
            packed, hidden = trunk.top_states(
                b.top,
                [(b.ids[p], [c.answers[i][w], c.answers[i][l]]) for p, w, l, i in pairs],
                [[c.held[i][0], c.held[i][1 + w], c.held[i][1 + l]] for _, w, l, i in pairs],
            )
            tokens = token_logprobs(hidden, head, packed.target)
            policy = check_finite(sum_logprob(tokens, packed.branch, packed.branches).view(-1, 2), indices)
            reference = c.start[indices].gather(1, duels[indices]).to(policy.device)
            lengths = torch.tensor(
                [[len(c.answers[i][w]), len(c.answers[i][l])] for _, w, l, i in pairs], device=policy.device
            )
            total = (
                loss(*policy.unbind(1), *reference.unbind(1), *lengths.unbind(1)) * mask[indices].to(policy.device)
            ).sum()
            if bonus is not None:
                weight, which = bonus
                total = total + weight * policy[(duels[indices] == which).to(policy.device)].sum()
            return total, {"margin": ((policy[:, 0] - policy[:, 1]) - (reference[:, 0] - reference[:, 1])).sum().item()}

        row = self.stepper.step(list(range(len(duels))), objective, micro=b.cfg.micro)
        return {k: row[k] for k in ("loss", "margin", "gradient norm")}

    def evaluate(
        self, pick: Callable[[Tensor], Tensor] | None, source: str, *, n: int | None = None
    ) -> dict[str, Tensor]:
        """Per held-out prompt, under every reward: win (1, 1/2, 0) of the greedy (or picked) answer against the
        yardstick's (`_yardstick`).

        A reward that is not free is not asked.
        Draws of the heads' best of N come from a generator of their own: looking does not change the run.
        """
        b = self.bench
        if not hasattr(self, "reference"):
            self.greedy = [row[0].tokens for row in self.sample(b.held_out_ids, "start")]
            self.reference = self._yardstick()
        if pick is None:  # the start and a policy without a step answer alike
            answers = (
                self.greedy
                if source == "start" or not self.stepper.done
                else [row[0].tokens for row in self.sample(b.held_out_ids, source)]
            )
        else:
            own = torch.Generator(device=self.generator.device).manual_seed(0)
            how = Sampling(b.cfg.temperature, own, n=n or b.cfg.best_of)
            done = self.sample(b.held_out_ids, source, how)
            _, features, _ = self.look(b.held_out_ids, done)
            answers = [row[i].tokens for row, i in zip(done, pick(features).tolist())]
        texts, out = [text(b, a) for a in answers], {}
        self.shown = texts  # the latest, for a reader
        for name, reward in b.rewards.items():
            if not is_free(reward):  # looking would be billed and counted nowhere
                continue
            mine, start = (reward(list(zip(b.held_out, t))) for t in (texts, self.reference))
            same = torch.tensor([a == b for a, b in zip(texts, self.reference)], device=mine.device)
            out[f"win rate, {name}"] = oracles.wins(torch.where(same, start, mine), start)
            out[f"reward, {name}"] = mine.double()
        out["length"] = torch.tensor([float(len(a)) for a in answers])
        out["distinct bigrams"] = torch.tensor([distinct_n([a], 2) for a in answers], dtype=torch.float64)
        return out

    def _yardstick(self) -> list[str]:
        """What every answer is compared with: of `yardstick` answers of the start the one that the oracle likes best;
        the start's greedy one for 1, and where asking the oracle would be billed.

        A single answer of the start is beaten every time after few steps, and then methods cannot be told apart.
        """
        b, n = self.bench, self.bench.cfg.yardstick
        reward = next(iter(b.rewards.values()))
        if n == 1 or not is_free(reward):
            return [text(b, a) for a in self.greedy]
        own = torch.Generator(device=self.generator.device).manual_seed(1)
        done = self.sample(b.held_out_ids, "start", Sampling(b.cfg.temperature, own, n=n))
        texts = [[text(b, c.tokens) for c in row] for row in done]
        best = reward([(p, t) for p, row in zip(b.held_out, texts) for t in row]).view(-1, n).argmax(1)
        return [row[i] for row, i in zip(texts, best.tolist())]

    def state(self) -> dict:
        """Everything the next round depends on."""
        return {
            "stepper": self.stepper.state(),
            "order": list(self.order),
            "generator": self.generator.get_state(),
            "standard": self.standard,
        }

    def restore(self, state: dict) -> None:
        """Continue from `state`."""
        self.stepper.restore(state["stepper"])
        self.order, self.standard = list(state["order"]), state["standard"]
        self.generator.set_state(state["generator"])


class Played(NamedTuple):
    """What one method did: a row a look, the last scores a prompt, what it took and what was watched, the last
    answers."""

    rows: list[dict]
    scores: dict[str, Tensor]
    took: dict[str, float]
    answers: list[str]


PREFERRED = "a query that the oracle answered, in their order: prompt, chosen and rejected answer"


def compete(world: Dialogue, arm: str, cfg, *, lr: float, keep: Path | None = None, run=None) -> Played:
    """One method in the language world, from the start; keep: see `online.play`. run: where, if KEEP names the method,
    its weights and what the oracle preferred are kept; pairs of equal answers are left out."""
    g, method = partial(seeding.torch_generator, cfg.seed), METHODS[arm]
    luck = ": again" if arm == "passive-again" else ""  # methods share their luck, but for the one that has another
    world.reset(g(f"world{luck}", cfg.device), lr=lr, horizon=rounds(method, cfg, cfg.budget))
    oracle = Oracle(world.bench.rewards["oracle"], labels=cfg.labels, flip=cfg.flip, generator=g("language oracle"))
    agent = Agent(world, method, oracle, cfg, generator=g("language agent"))
    rows, over, last = play(agent, budget=cfg.budget, every=cfg.every, desc=f"{arm}, rate {lr:g}", keep=keep)
    if run is not None and take_home.wanted(run.manifest, arm):
        b = world.bench
        keeping.keep(run, arm, b.model, b.linears, note=f"Learned from {oracle.queries} queries.")
        log = [
            {"prompt": a[0], "chosen": (a if won else z)[1], "rejected": (z if won else a)[1]}
            for a, z, _, won in oracle.log
            if a != z
        ]
        take_home.keep_rows(run, f"preferences-{arm}", log, PREFERRED)
    took = {"oracle queries": oracle.queries, "policy steps": world.stepper.done}
    looks = {
        k: [r[k] for r in rows[1:] if isfinite(r[k])]
        for k in ("KL to the start", "synthetic labels true", "heads agree with the label")
    }
    watched = {k: v[-1] if k == "KL to the start" else sum(v) / len(v) for k, v in looks.items() if v}
    rate = next((k for k in over if k.startswith("win rate, ")), None)  # the oracle's, unless looking would be billed
    whole = {} if rate is None else {"win rate, whole run": over[rate]}
    return Played(rows, last | whole, took | watched, world.shown)
