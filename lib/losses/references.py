"""Several frozen reference models as one: MRPO's virtual reference, its clipping, and the weights of the references.

Axes: K references (the primary, which the policy starts from, is row 0), B pairs. l_k = log pi_k(y|x), summed over the
answer's tokens or, length-normalised, divided by reference k's own token count; a_k >= 0 with sum_k a_k = 1 are the
weights. Everything stays in log space. Source: arXiv 2405.16388 and its release; the follow-up's weights: arXiv
2512.10040.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib.losses import Preference, dpo

MEANS = ("harmonic", "geometric", "arithmetic")


class Table(NamedTuple):
    """Log-probs of every pair's answers under every reference, with each reference's own token counts; all (K, N)."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    def normalized(self) -> Table:
        """Log-probs per token of the reference's own tokenizer."""
        return self._replace(chosen=self.chosen / self.chosen_tokens, rejected=self.rejected / self.rejected_tokens)

    def rows(self, index: Sequence[int]) -> Table:
        """The pairs of `index`, in its order."""
        return Table(*(x[:, list(index)] for x in self))


def table(references: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], *, names: Sequence[str]) -> Table:
    """Stack (chosen, rejected, chosen_tokens, rejected_tokens), each (N,), of every reference, in float32 or wider.

    ValueError naming the reference: none given, other row counts than the first, missing or non-finite log-probs, no
    tokens.
    """
    if not references:
        raise ValueError("no reference given; at least the primary, from which the policy starts, is needed")
    n = len(references[0][0])
    for name, (chosen, rejected, *tokens) in zip(names, references, strict=True):
        if {len(chosen), len(rejected), *map(len, tokens)} != {n}:
            raise ValueError(
                f"reference {name!r} scored {len(chosen)} chosen and {len(rejected)} rejected answers, {names[0]!r} {n}"
            )
        for side, values in (("chosen", chosen), ("rejected", rejected)):
            bad = (~torch.isfinite(values)).nonzero()[:, 0].tolist()
            if bad:
                raise ValueError(f"reference {name!r} has no log-probability of the {side} answer of pairs {bad[:8]}")
        if any((t < 1).any() for t in tokens):
            raise ValueError(f"reference {name!r} counts no tokens for some answer")
    wide = lambda x: x.to(torch.promote_types(x.dtype, torch.float32))  # noqa: E731  float16 resolves 0.25 nats at 300
    return Table(*(torch.stack([wide(r[i]) for r in references]) for i in range(4)))


def check_weights(weights: Tensor) -> Tensor:
    """`weights` (K,) or (K, B) as given; ValueError unless they are >= 0 and sum to one over the references."""
    total = weights.sum(0)
    if (weights < 0).any() or not torch.allclose(total, torch.ones_like(total), atol=1e-4):
        raise ValueError(
            f"weights of the references are >= 0 and sum to one, given a smallest of {weights.min():.4g} and "
            f"sums of {total.min():.4g} to {total.max():.4g}"
        )
    return weights


def virtual(log_probs: Tensor, weights: Tensor, *, mean: str) -> Tensor:
    """log of the weighted mean of the references' probabilities, (K, B) -> (B,); weights (K,) or (K, B).

    harmonic: -logsumexp_k(log a_k - l_k), MRPO's; geometric: sum_k a_k l_k, the exact solution for reverse KL (arXiv
    2502.01203);
    arithmetic: logsumexp_k(log a_k + l_k). harmonic <= geometric <= arithmetic. A weight of exactly 0 leaves its
    reference out.
    """
    if mean not in MEANS:
        raise ValueError(f"the mean of references is one of {', '.join(MEANS)}, given {mean!r}")
    a = check_weights(weights if weights.ndim == 2 else weights[:, None]).to(log_probs.dtype)
    log_probs = log_probs.masked_fill(a == 0, 0.0)  # 0 * -inf is NaN, and so is -inf + inf
    if mean == "geometric":
        return (a * log_probs).sum(0)
    if mean == "harmonic":
        return -torch.logsumexp(a.log() - log_probs, 0)
    return torch.logsumexp(a.log() + log_probs, 0)


def clip(log_probs: Tensor, epsilon: Tensor | float) -> Tensor:
    """CTRO: every l_k, k > 0, into [(1+e) l_0, (1-e) l_0]; (K, B), epsilon a number or (B,). e = 0 leaves the primary
    alone."""
    primary = log_probs[0]
    bounds = (
        torch.stack([(1 + epsilon) * primary, (1 - epsilon) * primary]).sort(0).values
    )  # l_0 < 0, but a test may not know
    return torch.cat([log_probs[:1], log_probs[1:].clamp(bounds[0], bounds[1])])


def adaptive_epsilon(chosen: Tensor, rejected: Tensor, *, largest: float) -> tuple[Tensor, Tensor]:
    """(e_w, e_l) (B,): e_w = largest |m_w| / (|m_w| + |m_l|), e_l = largest - e_w, m the mean of the unclipped l_k over
    all K.

    The less likely answer gets the wider window, an impossible one (m = -inf) all of it; two certain or two impossible
    ones share it. Release code (there K = 2 and
    called eta).
    """
    m_w, m_l = chosen.mean(0).abs(), rejected.mean(0).abs()
    total, certain = m_w + m_l, torch.finfo(chosen.dtype).tiny
    share = torch.where(total > 0, m_w / total.clamp(min=certain), 0.5)
    share = torch.where(m_w.isinf(), torch.where(m_l.isinf(), 0.5, 1.0), share)
    e_w = largest * share
    return e_w, largest - e_w


def combine(
    chosen: Tensor,
    rejected: Tensor,
    weights: Tensor,
    *,
    mean: str,
    epsilon: float | None,
    adaptive: bool,
    swap_weights: bool = False,
) -> tuple[Tensor, Tensor]:
    """(ref_w, ref_l) (B,) of the virtual reference, to hand to any pairwise loss; MRPO: mean harmonic, epsilon 0.1,
    adaptive.

    epsilon None: no clipping. swap_weights imitates the release, whose MRPO branch gives each of two references the
    other's weight.
    """
    if swap_weights:
        if len(chosen) != 2:
            raise ValueError(f"swapped weights exist for two references only, given {len(chosen)}")
        weights = weights.flip(0)
    chosen, rejected = clipped(chosen, rejected, epsilon=epsilon, adaptive=adaptive)
    return virtual(chosen, weights, mean=mean), virtual(rejected, weights, mean=mean)


def clipped(chosen: Tensor, rejected: Tensor, *, epsilon: float | None, adaptive: bool) -> tuple[Tensor, Tensor]:
    """Both sides through CTRO; epsilon None leaves them as they are."""
    if epsilon is None:
        return chosen, rejected
    if epsilon < 0:
        raise ValueError(f"epsilon is at least 0, given {epsilon}")
    e_w, e_l = adaptive_epsilon(chosen, rejected, largest=epsilon) if adaptive else (epsilon, epsilon)
    return clip(chosen, e_w), clip(rejected, e_l)


def multi_dpo(
    pi_w: Tensor, pi_l: Tensor, chosen: Tensor, rejected: Tensor, weights: Tensor, *, beta: float
) -> Preference:
    """sum_k a_k (-log sigma(beta [(pi_w - l_k(y_w)) - (pi_l - l_k(y_l))])): the baseline; rewards against the
    primary."""
    a = check_weights(weights if weights.ndim == 2 else weights[:, None])
    losses = torch.stack([dpo(pi_w, pi_l, w, l, beta=beta).loss for w, l in zip(chosen, rejected)])
    first = dpo(pi_w, pi_l, chosen[0], rejected[0], beta=beta)
    return first._replace(loss=(a * losses).sum(0))


# ---- weights of the references; margins (K, B) are l_k(y_w) - l_k(y_l)


def uniform(k: int) -> Tensor:
    """1 / K each, (K,)."""
    if k < 1:
        raise ValueError(f"at least one reference is needed, given {k}")
    return torch.full((k,), 1 / k)


def share(second: float, k: int) -> Tensor:
    """`second` for all references but the primary together, evenly, the rest for the primary, (K,)."""
    if not 0 <= second <= 1:
        raise ValueError(f"a share lies in [0, 1], given {second}")
    return torch.tensor([1 - second, *[second / (k - 1)] * (k - 1)]) if k > 1 else torch.ones(1)


def arwc(margins: Tensor) -> Tensor:
    """|D_k| / sum_j |D_j| of each pair, (K, B): trust the reference that separates the pair most; 1 / K where none
    does."""
    size = margins.abs()
    total = size.sum(0)
    return torch.where(total > 0, size / total.clamp(min=torch.finfo(size.dtype).tiny), 1 / len(size))


def vdw(validation: Tensor) -> Tensor:
    """Validation discrimination: a_k ~ sum_i |D_k(i)| over validation pairs (K, N), (K,). arXiv 2512.10040."""
    return arwc(validation.abs().sum(1, keepdim=True))[:, 0]


def vaw(validation: Tensor) -> Tensor:
    """Validation accuracy: a_k ~ number of validation pairs with D_k > 0, (K,). arXiv 2512.10040."""
    return arwc((validation > 0).to(validation.dtype).sum(1, keepdim=True))[:, 0]


def swcw(previous: Tensor | None, k: int, *, one_hot: bool) -> Tensor:
    """Sliding window: weights of a batch from the margins (K, B) of the one before, never from its own; uniform at
    first.

    one_hot: the whole weight, (K,), on argmax_k mean_i |D_k(i)|, on the primary at first. Otherwise |D| / sum |D| by
    row position as in the release of arXiv 2512.10040, (K, B).
    """
    if one_hot:
        best = 0 if previous is None else int(previous.abs().mean(1).argmax())
        return torch.nn.functional.one_hot(torch.tensor(best), k).to(torch.get_default_dtype())
    return uniform(k) if previous is None else arwc(previous)


class Thompson:
    """TSW: Beta(a_k, b_k) a reference; each step draws one, a DPO step is taken against it, and validation accuracy
    says if it paid.

    arXiv 2512.10040: prior a = b in {5, 10}; reward 1 only if the accuracy rose strictly.
    """

    def __init__(self, k: int, *, prior: float, generator: torch.Generator):
        self.a, self.b, self.generator = torch.full((k,), prior), torch.full((k,), prior), generator

    def draw(self) -> int:
        """The reference with the largest draw from its posterior."""
        x, y = (torch._standard_gamma(p, generator=self.generator) for p in (self.a, self.b))
        return int((x / (x + y)).argmax())

    def update(self, k: int, before: float, after: float) -> None:
        """Count a success of reference k if the accuracy rose, else a failure."""
        (self.a if after > before else self.b)[k] += 1

    @property
    def weights(self) -> Tensor:
        """Posterior means, normalised to sum to one, (K,)."""
        mean = self.a / (self.a + self.b)
        return mean / mean.sum()
