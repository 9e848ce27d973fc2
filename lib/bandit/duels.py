"""Contextual dueling bandits: which two answers of a prompt to have compared, and the ensemble whose spread says so.

Rewards (K, B, N): K heads, B prompts, N answers each; a duel is two of the N. `kinds` (B, N) gives equal answers of a
prompt equal numbers: a duel never holds one answer twice while two differ. Source: arXiv 2411.01493 (SEA) and its
release; APL: arXiv 2402.08114; `double_reverse` and `delta_ucb`: ActiveUltraFeedback, arXiv 2603.09692, as its release
computes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPREADS = ("sigma", "logit")


class Ensemble(nn.Module):
    """K reward heads of two hidden layers on frozen features, as one batched module: (B, ..., D) -> (K, B, ...).

    All heads see the same pairs; they differ by where they start and, through the anchor, by where they are held. Each
    starts at truncated normal weights of deviation 1 / (2 sqrt(fan in)), as in the release. worlds: that many ensembles
    side by side, each for its share of B.
    """

    def __init__(self, heads: int, dim: int, hidden: int, *, generator: torch.Generator, worlds: int = 1):
        super().__init__()
        self.worlds = worlds
        if heads < 1 or dim < 1 or hidden < 1:
            raise ValueError(f"heads, dim and hidden are at least 1, given {heads}, {dim} and {hidden}")
        sizes = [(dim, hidden), (hidden, hidden), (hidden, 1)]
        self.weights = nn.ParameterList(
            nn.init.trunc_normal_(
                torch.empty(worlds * heads, i, o), std=0.5 / i**0.5, a=-1 / i**0.5, b=1 / i**0.5, generator=generator
            )
            for i, o in sizes
        )
        self.biases = nn.ParameterList(torch.zeros(worlds * heads, 1, o) for _, o in sizes)
        self.start = [p.detach().clone() for p in self.parameters()]

    def forward(self, features: Tensor) -> Tensor:
        k = len(self.weights[0]) // self.worlds
        x = features.reshape(self.worlds, 1, -1, features.shape[-1]).expand(-1, k, -1, -1).flatten(0, 1)
        for layer, (w, b) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(b, x, w)
            x = x.relu() if layer < 2 else x
        return x.view(self.worlds, k, -1).transpose(0, 1).reshape(k, *features.shape[:-1])

    def distance(self) -> Tensor:
        """Squared distance of each head to its own start, (worlds K,)."""
        each = ((p - s).square().flatten(1).sum(1) for p, s in zip(self.parameters(), self.start))
        return sum(each, torch.zeros(()))


def reward_loss(chosen: Tensor, rejected: Tensor, mask: Tensor | None = None) -> Tensor:
    """-log sigma(r(y+) - r(y-)), mean over heads and pairs (K, B); a masked pair (0) counts in the mean's size. Eq.
    5."""
    losses = -F.logsigmoid(chosen - rejected)
    return (losses if mask is None else losses * mask).mean()


def anchor(ensemble: Ensemble, *, weight: float, seen: int) -> Tensor:
    """weight / seen times the mean over heads of the squared distance to their start: a Gaussian prior's share of one
    pair.

    The paper prints the term with a minus (eq. 8), which would drive heads away; its release takes the mean over all
    parameters, which makes the pull some million times weaker (`release_anchor`).
    """
    return weight / max(seen, 1) * ensemble.distance().mean()


def release_anchor(ensemble: Ensemble, *, weight: float, seen: int) -> Tensor:
    """weight * 128 / seen times the mean of squared differences over all parameters, as the release computes it."""
    return weight * 128 / max(seen, 1) * ensemble.distance().sum() / sum(p.numel() for p in ensemble.parameters())


# ---- which two answers: (B, 2) indices into the candidates


def kinds_of(answers: Sequence[Sequence]) -> Tensor:
    """(B, N) numbers that are equal within a row where the answers are."""
    if isinstance(answers[0][0], int):
        return torch.tensor(answers)
    rows = []
    for row in answers:
        seen: dict = {}
        rows.append([seen.setdefault(tuple(a), len(seen)) for a in row])
    return torch.tensor(rows)


def spread(rewards: Tensor, first: Tensor, kind: str) -> Tensor:
    """How much the heads disagree on answer `first` (B,) against every other, (B, N).

    sigma: Var_k[sigma(r_k(first) - r_k(b))] over the members, the paper's; logit: unbiased Var_k[r_k(first) - r_k(b)],
    the release's.
    """
    if kind not in SPREADS:
        raise ValueError(f"spread is one of {', '.join(SPREADS)}, given {kind!r}")
    d = _at(rewards, first)[..., None] - rewards
    return torch.sigmoid(d).var(0, correction=0) if kind == "sigma" else d.var(0, correction=min(1, len(d) - 1))


def best_arm(rewards: Tensor, kinds: Tensor, heads: Tensor, *, kind: str = "sigma") -> Tensor:
    """BAI: a drawn head's best answer (heads (B,)) against the one whose comparison with it is least certain. Algorithm
    2."""
    first = _of(rewards, heads).argmax(-1)
    return _pair(first, spread(rewards, first, kind), kinds)


def double_thompson(rewards: Tensor, kinds: Tensor, order: Tensor) -> Tensor:
    """E&E: the best answers of two drawn heads, redrawn in `order` (B, K) until they differ; if all agree, the last
    head's second best. Algorithm 2."""
    picks = rewards.argmax(-1).T.gather(1, order)  # (B, K): each head's best answer, in the drawn order
    first = picks[:, 0]
    differs = kinds.gather(1, picks) != kinds.gather(1, first[:, None])
    second = picks.gather(1, differs.int().argmax(1, keepdim=True))[:, 0]
    otherwise = _pair(first, _of(rewards, order[:, -1]), kinds)[:, 1]
    return torch.stack([first, torch.where(differs.any(1), second, otherwise)], 1)


def least_certain(rewards: Tensor, kinds: Tensor, *, kind: str = "sigma") -> Tensor:
    """The pair whose comparison varies most over the heads."""
    n = rewards.shape[-1]
    every = torch.stack([spread(rewards, torch.full(rewards.shape[1:2], i), kind) for i in range(n)], 1)  # (B, N, N)
    return _largest(every, kinds)


def double_reverse(rewards: Tensor, kinds: Tensor, heads: Tensor) -> Tensor:
    """DRTS: one drawn head's best answer against another drawn head's worst, heads (B, 2).

    The release draws each answer's reward around the ensemble's mean; here a draw is a head, as everywhere in SEA.
    """
    best = _of(rewards, heads[:, 0]).argmax(-1)
    return _pair(best, -_of(rewards, heads[:, 1]), kinds)


def delta_ucb(rewards: Tensor, kinds: Tensor, *, width: float = 1.0) -> Tensor:
    """DeltaUCB: the pair whose gap may be the largest: argmax over i, j of (mean + width s)_i - (mean - width s)_j with
    s the heads' deviation (the release: width 1)."""
    mean, s = rewards.mean(0), rewards.std(0, correction=min(1, len(rewards) - 1))
    gap = (mean + width * s)[:, :, None] - (mean - width * s)[:, None]
    return _largest(gap, kinds)


def two_of(kinds: Tensor, generator: torch.Generator) -> Tensor:
    """A random answer and a random different one."""
    noise = torch.rand(kinds.shape, generator=generator)
    return _pair(noise.argmax(1), noise, kinds)


def first_two(kinds: Tensor) -> Tensor:
    """Passive: the first sample and the next one that differs; with two samples, those two."""
    return _pair(
        torch.zeros(len(kinds), dtype=torch.long),
        -torch.arange(kinds.shape[1], dtype=torch.float32).expand(kinds.shape),
        kinds,
    )


def best_and_worst(rewards: Tensor, heads: Tensor) -> Tensor:
    """The synthetic pair: the largest margin under a drawn head (B,), which labels it too: the first wins, no oracle is
    asked."""
    return _ends(_of(rewards, heads))


def widest(implicit: Tensor) -> tuple[Tensor, Tensor]:
    """APL's certainty: the pair of the largest |r(i) - r(j)| of implicit rewards (B, N), the larger first, and that
    margin (B,)."""
    return _ends(implicit), implicit.amax(1) - implicit.amin(1)


def alike(values: Tensor, kinds: Tensor) -> Tensor:
    """Values (B, N) in which equal answers have that of the first of them."""
    return values.gather(1, (kinds[:, :, None] == kinds[:, None]).int().argmax(2))


def entropy(log_probs: Tensor) -> Tensor:
    """APL's predictive entropy, -mean_n log pi(y_n | x): (B, N) -> (B,). APL keeps the largest; SEA's release the
    smallest."""
    return -log_probs.mean(-1)


def regret(true: Tensor, duels: Tensor) -> tuple[Tensor, Tensor]:
    """(r(best) minus the duel's mean reward, P(best beats first) + P(best beats second) - 1), (B,), of true rewards (B,
    N)."""
    best, pair = true.amax(1, keepdim=True), true.gather(1, duels)
    return best[:, 0] - pair.mean(1), torch.sigmoid(best - pair).sum(1) - 1


def _of(rewards: Tensor, heads: Tensor) -> Tensor:
    """Rewards (B, N) of one head a prompt."""
    return rewards[heads, torch.arange(rewards.shape[1])]


def _at(rewards: Tensor, index: Tensor) -> Tensor:
    """Rewards (K, B) of one answer a prompt."""
    return rewards[:, torch.arange(rewards.shape[1]), index]


def _ends(values: Tensor) -> Tensor:
    """The largest and the smallest of each row (B, N), two different ones even where all are equal: (B, 2)."""
    first = values.argmax(1)
    own = F.one_hot(first, values.shape[1]).bool()
    return torch.stack([first, values.masked_fill(own, torch.inf).argmin(1)], 1)


def _largest(every: Tensor, kinds: Tensor) -> Tensor:
    """The pair (i, j) of two different answers whose value (B, N, N) is the largest; where all are equal, any two."""
    n, lowest = kinds.shape[1], torch.finfo(every.dtype).min
    hidden = every.clamp(min=lowest / 2).masked_fill(kinds[:, :, None] == kinds[:, None], lowest)
    flat = hidden.masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf).flatten(1).argmax(1)
    return torch.stack([flat // n, flat % n], 1)


def _pair(first: Tensor, values: Tensor, kinds: Tensor) -> Tensor:
    """`first` and the answer of the largest value that is not the same as it; where all are the same, any other."""
    same = kinds == kinds.gather(1, first[:, None])
    own = F.one_hot(first, kinds.shape[1]).bool()
    hidden = torch.where(same.all(1, keepdim=True), own, same)
    lowest = torch.finfo(values.dtype).min  # so that a value of -inf still goes before one that is hidden
    return torch.stack([first, values.clamp(min=lowest).masked_fill(hidden, -torch.inf).argmax(1)], 1)
