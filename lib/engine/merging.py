"""Several sets of weights made one, and the order in which pairs of answers are shown. Pure: tensors and numbers, no
models.

Merging: selective parameter merging of models trained on the same data in different orders, arXiv 2410.03743; a set of
weights is {name: tensor}. Pairs: contrastive post-training with an easy-to-hard curriculum, arXiv 2310.02263.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Weights = dict[str, Tensor]
ORDERS = ("easy to hard", "hard to easy", "mixed")


# ---- weights


def average(models: Sequence[Weights], shares: Sequence[float] | None = None) -> Weights:
    """sum_i w_i theta_i, w_i = 1 / k or `shares` over their sum; summed in float64, in the models' own dtype."""
    w = _shares(models, shares)
    return {n: sum(s * m[n].double() for s, m in zip(w.tolist(), models)).to(x.dtype) for n, x in models[0].items()}


def interpolate(base: Weights, tuned: Weights, w: float) -> Weights:
    """(1 - w) base + w tuned: 0 gives the base, 1 the tuned weights, to the bit."""
    if not 0 <= w <= 1:
        raise ValueError(f"the tuned weights' share is between 0 and 1, given {w}")
    return average([base, tuned], [1 - w, w])


def select(
    models: Sequence[Weights],
    base: Weights,
    *,
    generator: torch.Generator,
    shares: Sequence[float] | None = None,
    redraws: int = 0,
) -> tuple[Weights, float]:
    """Each number from a model drawn for it alone, i ~ Categorical(w); drawn again among the others, up to `redraws`
    times, while theta_i = base.

    (weights, share of the numbers left as in `base`). Float32 training changes nearly every number, so that redraws do
    nothing there; they act on sparse changes and after rounding to bfloat16. Generator and tensors are on the CPU.
    """
    w = _shares([*models, base], [*(shares or [1.0] * len(models)), 0.0])[:-1]
    if not 0 <= redraws < len(models):
        raise ValueError(f"redraws are 0 to {len(models) - 1}, the number of other models, given {redraws}")
    out, kept, total = {}, 0, 0
    for name in sorted(base):  # draws do not depend on the order in which a model lists its weights
        values = torch.stack([m[name] for m in models])
        draw = -torch.rand(values.shape, generator=generator).clamp(min=1e-30).log() / w.float().view(
            -1, *[1] * base[name].ndim
        )
        order = draw.argsort(0)[: redraws + 1]  # exponential races: the first k of them are k draws without replacement
        drawn = values.gather(0, order)
        changed = (drawn != base[name]) & draw.gather(0, order).isfinite()  # a share of 0 divides to infinity
        first = changed.int().argmax(0, keepdim=True)  # 0 where none changed
        out[name] = drawn.gather(0, first)[0]
        kept, total = kept + int((~changed.any(0)).sum()), total + base[name].numel()
    return {n: out[n] for n in base}, kept / total


def _shares(models: Sequence[Weights], shares: Sequence[float] | None) -> Tensor:
    """Shares that sum to 1, float64. ValueError where models differ in names or shapes, or shares do not fit them."""
    if not models:
        raise ValueError("merging takes at least one model, given none")
    shapes = [{n: tuple(x.shape) for n, x in m.items()} for m in models]
    if odd := [i for i, s in enumerate(shapes) if s != shapes[0]]:
        bad = sorted(n for n in shapes[0].keys() | shapes[odd[0]].keys() if shapes[0].get(n) != shapes[odd[0]].get(n))
        raise ValueError(
            f"all sets of weights have the same names and shapes; number {odd[0]} differs from number 0 in {bad[0]}"
        )
    w = torch.tensor(shares if shares is not None else [1.0] * len(models), dtype=torch.float64)
    if len(w) != len(models) or not (w >= 0).all() or not w.sum() > 0:
        raise ValueError(
            f"shares are one number of at least 0 a model, not all 0, given {list(shares or [])} for {len(models)}"
        )
    return w / w.sum()


# ---- pairs


class Pair(NamedTuple):
    """Two answers to the same question by their places in the list, and by how much the first one's score is higher."""

    chosen: int
    rejected: int
    gap: float


def pairs(questions: Sequence, scores: Sequence[float], *, best: float) -> list[Pair]:
    """Every answer of score `best` before every lower one of the same question: of scores 3, (3, 1) is an easy pair and
    (3, 2) a hard one."""
    if len(questions) != len(scores):
        raise ValueError(f"each answer has a question and a score, given {len(questions)} and {len(scores)}")
    groups: dict = {}
    for i, q in enumerate(questions):
        groups.setdefault(q, []).append(i)
    return [
        Pair(i, j, scores[i] - scores[j])
        for group in groups.values()
        for i in group
        for j in group
        if scores[i] == best > scores[j]
    ]


def curriculum(
    gaps: Sequence[float], *, easy: float, steps: int, batch: int, order: str, generator: torch.Generator
) -> list[list[int]]:
    """Batches of pairs by number; a pair is easy if its gap is at least `easy`. Easy pairs' share: 1 -> 0 over the
    steps, 0 -> 1, or 1/2 ("mixed").

    The share is alpha_t = 1 - (t + 1/2) / steps, so that every order shows half of its pairs easy; it is met up to
    rounding at every step. Each kind comes once an epoch of its own. ValueError unless there are both kinds.
    """
    if order not in ORDERS:
        raise ValueError(f"order is one of {', '.join(ORDERS)}, given {order!r}")
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch are at least 1, given {steps} and {batch}")
    kinds = [[i for i, g in enumerate(gaps) if g >= easy], [i for i, g in enumerate(gaps) if g < easy]]
    if not all(kinds):
        raise ValueError(
            f"easy and hard pairs are both needed, given {len(kinds[0])} with a gap of {easy:g} or more and "
            f"{len(kinds[1])} below"
        )
    left: list[list[int]] = [[], []]
    out, wanted, given = [], 0.0, 0
    for t in range(steps):
        alpha = 1 - (t + 0.5) / steps
        wanted += batch * {"easy to hard": alpha, "hard to easy": 1 - alpha, "mixed": 0.5}[order]
        count = min(batch, max(0, round(wanted) - given))
        given += count
        take = []
        for kind, n in enumerate((count, batch - count)):
            while len(left[kind]) < n:
                left[kind] += [kinds[kind][i] for i in torch.randperm(len(kinds[kind]), generator=generator).tolist()]
            take += left[kind][:n]
            left[kind] = left[kind][n:]
        out.append(take)
    return out
