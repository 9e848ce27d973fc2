"""The exact world of MRPO: prompts whose few answers are all known, so that every outcome is a sum and every loss has
its optimum (`lib.studies.mrpo.convex`).

Answer y of prompt x has features phi(x, y) ~ N(0, I) and true reward r = t . phi + noise, of mean 0 and deviation 1
over a prompt's answers, |t| = 1. Reference k is softmax(scale theta_k . phi), theta_k = q_k t + sqrt(1 - q_k^2) u_k:
q_k, its quality, is the correlation of its logits with what can be learned of the truth; u_k, its error, is orthogonal
to t. Reference 0, the primary, is where the policy starts.

Every world draws from a stream of its own, the same whatever the cell: cells and arms are compared world by world, and
no number depends on which worlds are computed together. Axes: W worlds, K references, P prompts (the first half
trains, the second is held out), A answers, d features, N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.harness import seeding

MOST_PAIRS, MOST_REFERENCES, VALIDATION = 4096, 6, 256


class Draws(NamedTuple):
    """What chance decides in each world; all cells of a run share it. float64 and whole numbers."""

    features: Tensor  # (W, P, A, d)
    rewards: Tensor  # (W, P, A)
    truth: Tensor  # (W, d), of length 1
    errors: Tensor  # (W, most references, d), of length 1 and orthogonal to the truth
    pairs: Tensor  # (W, most pairs, 3): prompt, answer, other answer; of the prompts that train
    validation: Tensor  # (W, pairs, 3): others of them
    luck: Tensor  # (W, most pairs + validation) in [0, 1): decides Bradley-Terry's labels
    shuffle: Tensor  # (W, P, A): the answer whose log-prob a mis-scored reference gives


class Second(NamedTuple):
    """The references beside the primary."""

    qualities: tuple[float, ...]
    correlation: float = 0.0  # of their errors with the primary's
    misscored: bool = False  # each answer gets the log-prob of another one, as when ids of the wrong tokenizer are read


def draw(cfg: Any, worlds: Sequence[int] | None = None) -> Draws:
    """The worlds `worlds` (all `cfg.worlds`) of the run's seed."""
    prompts, answers, d = 2 * cfg.exact_prompts, cfg.exact_answers, cfg.exact_dim
    one = [_draw(cfg.seed, w, prompts, answers, d, cfg.exact_noise) for w in worlds or range(cfg.worlds)]
    return Draws(*(torch.stack(column) for column in zip(*one)))


def _draw(seed: int, world: int, prompts: int, answers: int, d: int, noise: float) -> tuple[Tensor, ...]:
    g = seeding.torch_generator(seed, f"exact world {world}")
    normal = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    features, truth = normal(prompts, answers, d), torch.nn.functional.normalize(normal(d), dim=0)
    raw = features @ truth + noise * normal(prompts, answers)
    rewards = (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True)
    errors = normal(MOST_REFERENCES, d)
    errors = torch.nn.functional.normalize(errors - (errors @ truth)[:, None] * truth, dim=1)
    total = MOST_PAIRS + VALIDATION
    prompt = torch.randint(prompts // 2, (total,), generator=g)
    first = torch.randint(answers, (total,), generator=g)
    other = (first + torch.randint(1, answers, (total,), generator=g)) % answers
    pairs, luck = torch.stack([prompt, first, other], 1), torch.rand(total, generator=g, dtype=torch.float64)
    shuffle = torch.rand(prompts, answers, generator=g).argsort(1)
    return features, rewards, truth, errors, pairs[:MOST_PAIRS], pairs[MOST_PAIRS:], luck, shuffle


def directions(draws: Draws, second: Second, *, start: float, scale: float) -> Tensor:
    """theta (W, K, d) of the references, the primary, of quality `start`, first; times `scale`."""
    own, others = draws.errors[:, :1], draws.errors[:, 1 : 1 + len(second.qualities)]
    mixed = second.correlation * own + (1 - second.correlation**2) ** 0.5 * others
    errors = torch.nn.functional.normalize(torch.cat([own, mixed], 1), dim=2)
    q = torch.tensor([start, *second.qualities], dtype=torch.float64)[:, None]
    return scale * (q * draws.truth[:, None] + (1 - q**2).sqrt() * errors)


def references(draws: Draws, second: Second, thetas: Tensor) -> Tensor:
    """Their log-probs (K, W, P, A) of every answer."""
    logits = torch.einsum("wpad,wkd->kwpa", draws.features, thetas)
    if second.misscored:
        logits[1:] = logits[1:].gather(3, draws.shuffle.expand_as(logits[1:]))
    return logits.log_softmax(-1)


class Pairs(NamedTuple):
    """Preferences: prompt, chosen and rejected answer (W, N)."""

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor

    def of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen and the rejected answers' part of `values` (..., W, P, A): (..., W, N)."""
        flat, answers = values.flatten(-2), values.shape[-1]
        at = (self.prompt * answers + answer for answer in (self.chosen, self.rejected))
        chosen, rejected = (flat.gather(-1, i.expand(*flat.shape[:-1], -1)) for i in at)
        return chosen, rejected

    def difference(self, features: Tensor) -> Tensor:
        """phi_w - phi_l (W, N, d)."""
        world = torch.arange(len(features))[:, None]
        return features[world, self.prompt, self.chosen] - features[world, self.prompt, self.rejected]

    def flipped(self) -> Pairs:
        """Every preference the wrong way round."""
        return Pairs(self.prompt, self.rejected, self.chosen)

    def both_ways(self) -> Pairs:
        """Every pair with either label: they say nothing of which answer is better."""
        return Pairs(*(torch.cat(column, 1) for column in zip(self, self.flipped())))


def preferences(draws: Draws, n: int, *, labels: str, validation: bool = False) -> Pairs:
    """The first n pairs (or the validation's) of each world, labelled: "bradley-terry", P(a over b) = sigma(r_a - r_b),
    or "deterministic". The first 16 are among the first 32. ValueError for more pairs than were drawn."""
    of = draws.validation if validation else draws.pairs
    if not 1 <= n <= of.shape[1]:
        raise ValueError(f"a world has 1 to {of.shape[1]} pairs, asked for {n}")
    pairs = Pairs(*of[:, :n].unbind(2))
    a, b = pairs.of(draws.rewards)
    luck = (draws.luck[:, MOST_PAIRS:] if validation else draws.luck)[:, :n]
    if labels not in ("bradley-terry", "deterministic"):
        raise ValueError(f"labels are bradley-terry or deterministic, given {labels!r}")
    right = (a - b).sigmoid() > luck if labels == "bradley-terry" else a > b
    return Pairs(pairs.prompt, *(torch.where(right, x, y) for x, y in (pairs[1:], pairs[:0:-1])))


def outcomes(draws: Draws, log_refs: Tensor, policy: Tensor) -> dict[str, Tensor]:
    """What a policy with these log-probs (W, P, A) is worth on the held-out prompts, each (W,) and exact.

    expected reward: sum_y pi(y) r(y). accuracy: of all pairs of answers, those that the implicit reward
    log pi - log pi_0 puts in the order of the true one (ties are wrong), and by log pi alone, "without reference".
    KL to k: sum_y pi log(pi / pi_k), nats.
    """
    half = policy.shape[1] // 2
    own, refs, r = policy[:, half:], log_refs[:, :, half:], draws.rewards[:, half:]
    out = {
        "expected reward": (own.exp() * r).sum(-1).mean(1),
        "accuracy": _ordered(own - refs[0], r),
        "accuracy, without reference": _ordered(own, r),
    }
    return out | {f"KL to {k}": (own.exp() * (own - ref)).sum(-1).mean(1) for k, ref in enumerate(refs)}


def _ordered(values: Tensor, rewards: Tensor) -> Tensor:
    """Share (W,) of the pairs of answers of a prompt that `values` orders as `rewards` does; both (W, P, A)."""
    over = lambda x: x[..., :, None] > x[..., None, :]  # noqa: E731
    truly = over(rewards)
    return (over(values) & truly).sum((1, 2, 3)) / truly.sum((1, 2, 3))
