"""The exact world of attribute control: a language model small enough to write down every answer it can give.

An answer is T tokens of a vocabulary of V; token 0 ends it, and nothing follows. A prefix of i tokens is a number below
V^i in base V, so every probability is a table: log p(v | prefix) (V^i, V) for i = 0 .. T - 1. Everything in
`lib.constraint.nado` can be held against sums over all answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from lib import constraint
from lib.constraint.nado import bernoulli_kl, constraint_kl, expected_success, soft_weight, steered

Tables = Sequence[Tensor]  # one (V^i, V) for each length of a prefix


class World(NamedTuple):
    """tokens (N, T) of all N = V^T answers, fine (N,) C of each in {0, 1}, start: the model before training, corpus
    (N,): what it is trained on."""

    tokens: Tensor
    fine: Tensor
    start: list[Tensor]
    corpus: Tensor


def world(*, vocabulary: int, length: int, share: float, seed: int) -> World:
    """A random model and a corpus like it, of which `share` of the mass is not fine: it holds the last token, or 1 and
    later 2."""
    if not 0 < share < 1:
        raise ValueError(f"share lies in (0, 1), given {share}")
    g = torch.Generator().manual_seed(seed)
    tokens = torch.tensor(list(product(range(vocabulary), repeat=length)))
    later = (tokens == 1).cumsum(1).bool() & (tokens == 2)
    fine = ~((tokens == vocabulary - 1).any(1) | later.any(1))
    start = [torch.randn(vocabulary**i, vocabulary, generator=g, dtype=torch.float64) for i in range(length)]
    p = (answers(log_tables(start)) + 0.5 * torch.randn(len(tokens), generator=g, dtype=torch.float64)).exp()
    p = torch.where(fine, (1 - share) * p / p[fine].sum(), share * p / p[~fine].sum())
    return World(tokens, fine.double(), start, p / p.sum())


def log_tables(logits: Tables) -> list[Tensor]:
    """Log-probs of the next token; after token 0 only 0 comes."""
    ended, out = torch.zeros(1, dtype=torch.bool), []
    for table in logits:
        v = table.shape[1]
        only = torch.full((v,), -torch.inf, dtype=table.dtype)
        only[0] = 0.0
        out.append(torch.where(ended[:, None], only, table.log_softmax(-1)))
        ended = (ended[:, None] | (torch.arange(v) == 0)).flatten()
    return out


def answers(tables: Tables) -> Tensor:
    """Log-probs (V^T,) of all answers: the chain rule."""
    total = torch.zeros(1, dtype=tables[0].dtype)
    for table in tables:
        total = (total[:, None] + table).flatten()
    return total


def prefixes(mass: Tensor, tables: Tables) -> list[Tensor]:
    """Mass (V^i,) of every prefix under a distribution over answers (V^T,), for i = 0 .. T - 1."""
    return [mass.view(len(t), -1).sum(1) for t in tables]


def success(tables: Tables, fine: Tensor) -> list[Tensor]:
    """R of every prefix, (V^i,) for i = 0 .. T: sum over next tokens of p R, from the end. Section 1.5."""
    out = [fine]
    for table in reversed(tables):
        out.append((table.exp() * out[-1].view_as(table)).sum(1))
    return out[::-1]


def weights(tables: Tables, r: Sequence[Tensor], *, delta: float, floor: float = 0.0) -> list[Tensor]:
    """log w of every next token from the R of every prefix: what turns p into q."""
    x = r[0]
    return [
        soft_weight(
            r[i + 1].view_as(t).log(), (-r[i + 1].view_as(t)).log1p(), x.expand(len(t)), delta=delta, floor=floor
        )
        for i, t in enumerate(tables)
    ]


def closest(log_p: Tensor, fine: Tensor, *, delta: float) -> Tensor:
    """log q* (N,) of all answers: p with its fine mass raised to delta, if it is below; section 1.4."""
    r = (log_p.exp() * fine).sum()
    if r >= delta:
        return log_p
    bad = (1 - delta) / (1 - r)
    return log_p + torch.where(fine.bool(), delta / r, bad).log()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the loss; FloatingPointError where it has no finite gradient."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    tables = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    bad = [i for i, g in enumerate(tables) if not torch.isfinite(g).all()]
    if bad:
        raise FloatingPointError(
            f"the exact world's loss is {loss.item():g} and its gradient of table {bad[0]} is not finite; no step was "
            "taken"
        )
    optimizer.step()


def train(
    w: World,
    *,
    lam: float,
    direction: str,
    delta: float,
    over: str,
    steps: int = 1500,
    lr: float = 0.05,
    floor: float = 1e-4,
    lag: int = 0,
) -> list[Tensor]:
    """Logits trained on corpus cross-entropy + lam KL, with the exact R of the model as it is (or as it was `lag` steps
    ago).

    over: "answers", the KL between distributions over whole answers; "corpus" or "own", the KL token by token on the
    corpus' prefixes, as in practice, or on the model's own.
    """
    if over not in ("answers", "corpus", "own"):
        raise ValueError(f"over is one of answers, corpus, own, given {over!r}")
    logits = [t.clone().requires_grad_() for t in w.start]
    optimizer = torch.optim.Adam(logits, lr=lr)
    fade = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, lr / 100)
    past: list[list[Tensor]] = []
    for _ in range(steps):
        tables = log_tables(logits)
        log_p = answers(tables)
        finite = torch.isfinite(log_p)
        loss = -(w.corpus[finite] * log_p[finite]).sum()
        past.append([t.detach() for t in tables])
        of = past[max(0, len(past) - 1 - lag)]
        past = past[-1 - lag :]
        if lam and over == "answers":
            q = closest(answers(of), w.fine, delta=delta)
            loss = (
                loss
                + lam * constraint_kl(log_p[None], (q - log_p.detach()).nan_to_num(0.0)[None], direction=direction)[0]
            )
        elif lam:
            w_log = weights(of, success(of, w.fine), delta=delta, floor=floor)
            mass = prefixes(w.corpus if over == "corpus" else log_p.detach().exp(), tables)
            loss = loss + lam * sum(
                (m * constraint_kl(t, x, direction=direction)).sum() for m, t, x in zip(mass, tables, w_log)
            )
        _step(optimizer, loss)
        fade.step()
    return [t.detach() for t in logits]


def bad_mass(logits: Tables, fine: Tensor) -> float:
    """Probability of an answer that is not fine."""
    return 1 - (answers(log_tables(logits)).exp() * fine).sum().item()


def predicted(share: float, *, lam: float, direction: str, delta: float) -> float:
    """Where `train` over answers must end: bad mass t of a corpus with bad mass d. Forward, hard: t = d / (1 + lam);
    reverse:
    (t - d) / (t (1 - t)) + lam (logit t - logit(1 - delta)) = 0. Section 1.7."""
    if direction == "forward":
        return max(share / (1 + lam), 0.0)
    low, high = 1e-12, 1 - 1e-12
    logit = lambda t: torch.special.logit(torch.tensor(t, dtype=torch.float64)).item()  # noqa: E731
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if (t - share) / (t * (1 - t)) + lam * (logit(t) - logit(1 - delta)) < 0 else (low, t)
    return t


def learned(
    w: World, tables: Tables, *, samples: int, weight: float, seed: int, steps: int = 400, lr: float = 0.1
) -> list[Tensor]:
    """R of every prefix, fitted to labelled samples of the model by `prefix_bce` and `weight` times `consistency`;
    (V^i,) for i = 0 .. T as in `success`.

    One free number a prefix: what a network generalises, a table cannot.
    """
    g = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(answers(tables).exp(), samples, replacement=True, generator=g)
    v, length = tables[0].shape[1], len(tables)
    z = [torch.zeros_like(t).requires_grad_() for t in tables]
    at = [drawn // v ** (length - i) for i in range(length + 1)]  # each sample's prefix of i tokens
    optimizer = torch.optim.Adam(z, lr=lr)
    branch = torch.arange(samples).repeat_interleave(length)
    stack = lambda parts: torch.stack(parts, 1).flatten(0, 1)  # noqa: E731  sample by sample, its positions together
    log_p = stack([tables[i][at[i]] for i in range(length)])
    labels, at_one = w.fine[drawn], constraint.followers(branch)
    for _ in range(steps):
        rows = stack([z[i][at[i]] for i in range(length)])
        every = torch.nn.functional.logsigmoid(rows), torch.nn.functional.logsigmoid(-rows)
        target = stack([at[i + 1] % v for i in range(length)])
        yes, no = (x.gather(1, target[:, None])[:, 0] for x in every)
        loss = constraint.prefix_bce((yes, no), branch, labels)
        if weight:
            e, n = expected_success(log_p, every)
            loss = loss + weight * constraint.consistency((e[at_one + 1], n[at_one + 1]), (yes[at_one], no[at_one]))
        _step(optimizer, loss)
    r = [x.detach().sigmoid().flatten() for x in z]
    return [(tables[0].exp() * r[0]).sum().view(1), *r]


def steered_tables(tables: Tables, r: Sequence[Tensor], *, delta: float, floor: float = 0.0) -> list[Tensor]:
    """The model that decodes with R: what NADO does at every token, no training."""
    return [steered(t, x) for t, x in zip(tables, weights(tables, r, delta=delta, floor=floor))]


def error(r: Sequence[Tensor], true: Sequence[Tensor], tables: Tables) -> float:
    """Root mean square of R - true R over the prefixes of one token and more, as often as the model writes them."""
    mass = prefixes(answers(tables).exp(), [*tables, answers(tables)[:, None]])[1:]
    off = sum((m * (a - b).square()).sum().item() for m, a, b in zip(mass, r[1:], true[1:]))
    return math.sqrt(off / sum(m.sum().item() for m in mass))


def reinforced(w: World, *, beta: float) -> Tensor:
    """log of the optimum (N,) of reward C with beta KL to the start: start exp(C / beta), renormalised; beta to 0 gives
    the hard q* of the start."""
    return (answers(log_tables(w.start)) + w.fine / beta).log_softmax(0)


def amortised(w: World, *, floor: float, steps: int = 1500, lr: float = 0.05) -> list[Tensor]:
    """Logits of a GFlowNet whose reward is start(answer) max(C, floor): sub-trajectory balance over all answers; its
    optimum is q*."""
    logits = [t.clone().requires_grad_() for t in w.start]
    start = log_tables(w.start)
    v, length = start[0].shape[1], len(start)
    stop_at = [
        torch.arange(v**i) * v ** (length - i) for i in range(length + 1)
    ]  # the answer that ends after this prefix
    reward = answers(start) + w.fine.clamp(min=floor).log()
    n = len(w.tokens)
    at = [torch.arange(n) // v ** (length - i) for i in range(length + 1)]
    log_reward = torch.stack([reward[stop_at[i][at[i]]] for i in range(length + 1)], 1)
    ended = torch.cat([torch.zeros(n, 1, dtype=torch.long), (w.tokens == 0).long()], 1).cumsum(1)
    mask = ended == 0  # prefixes that go on or stop here; what comes after the end is no prefix
    optimizer = torch.optim.Adam(logits, lr=lr)
    fade = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, lr / 100)
    for _ in range(steps):
        raw = [t.log_softmax(-1) for t in logits]
        log_token = torch.stack([raw[i][at[i], w.tokens[:, i]] for i in range(length)], 1)
        log_stop = torch.stack([*(raw[i][at[i], 0] for i in range(length)), torch.zeros(n, dtype=raw[0].dtype)], 1)
        loss = constraint.subtrajectory_balance(log_reward.masked_fill(~mask, 0.0), log_token, log_stop, mask)
        _step(optimizer, loss)
        fade.step()
    return [t.detach() for t in logits]


def divergence(log_a: Tensor, log_b: Tensor) -> float:
    """KL(a || b) of two distributions over all answers."""
    return (log_a.exp() * (log_a - log_b).nan_to_num(0.0)).sum().item()


def bernoulli(a: float, b: float) -> float:
    """KL(Bern(a) || Bern(b))."""
    both = [
        (torch.tensor(x, dtype=torch.float64).log(), torch.tensor(1 - x, dtype=torch.float64).log()) for x in (a, b)
    ]
    return bernoulli_kl(*both).item()
