"""Preference losses of a log-linear policy as what they are: convex problems, solved to rounding, many worlds at once.

A policy softmax(theta . phi) has pi_w - pi_l = theta . (phi_w - phi_l): its normaliser cancels within a pair. With
w = beta (theta - theta_0), theta_0 the start, and x = phi_w - phi_l the DPO margin against any fixed reference is
x . w - offset, offset = beta [(ref_w - ref_l) - theta_0 . x], so that DPO, MRPO and Multi-DPO are logistic regressions
that differ in their offsets alone. No steps, no learning rate.

Axes: W worlds, N pairs, M losses of a pair, d features, P prompts, A answers; float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-10  # of the gradient's norm
MOST = 100  # Newton steps, secants; ten are usual
WIDE, WIDER = 1.5, 8  # a bracket's growth at a time, on a logarithm, and how often
NEAR = 1e-5  # of a matched value's logarithm
NO_OPTIMUM = (
    "without an anchor some world's loss has no finite optimum: its pairs can be told apart without error, or they "
    "show fewer directions than there are features; give an anchor above 0"
)


class Teacher(NamedTuple):
    """Adds sum_p weight KL(teacher || policy) at each prompt p: convex in w, as the policy is log-linear."""

    features: Tensor  # (W, P, A, d)
    start: Tensor  # theta_0 . phi (W, P, A)
    target: Tensor  # the teacher's probabilities (W, P, A)
    weight: Tensor  # (W, P)


class Problem(NamedTuple):
    """minimise over w: sum_mi weight softplus(offset - x . w) + anchor / 2 |w|^2 + the teacher's KL, of each world."""

    x: Tensor  # (W, N, d)
    offset: Tensor  # (M, W, N)
    weight: Tensor  # (M, W, N)
    anchor: Tensor  # (W,)
    beta: float  # the teacher sees theta = theta_0 + w / beta
    teacher: Teacher | None = None


class At(NamedTuple):
    """A problem at some w: loss (W,), gradient (W, d), Hessian (W, d, d)."""

    loss: Tensor
    gradient: Tensor
    hessian: Tensor


def at(problem: Problem, w: Tensor) -> At:
    """Loss, gradient and Hessian at w (W, d)."""
    p, eye = problem, torch.eye(w.shape[1], dtype=w.dtype)
    z = p.offset - (p.x @ w[..., None])[..., 0]
    pull = p.weight * z.sigmoid()
    curve = (pull * (-z).sigmoid()).sum(0)
    loss = (p.weight * -torch.nn.functional.logsigmoid(-z)).sum((0, 2)) + p.anchor / 2 * w.square().sum(1)
    gradient = p.anchor[:, None] * w - (pull.sum(0)[:, None] @ p.x)[:, 0]
    hessian = p.anchor[:, None, None] * eye + p.x.mT @ (curve[..., None] * p.x)
    if p.teacher is None:
        return At(loss, gradient, hessian)
    return At(*(a + b for a, b in zip((loss, gradient, hessian), _pulled(p.teacher, w / p.beta, p.beta))))


def _pulled(t: Teacher, moved: Tensor, beta: float) -> At:
    """The teacher's part: sum_p weight (log Z - E_teacher[logit]), up to the teacher's entropy, with d/dw = d/dtheta /
    beta."""
    logits = t.start + torch.einsum("wpad,wd->wpa", t.features, moved)
    own = logits.softmax(-1)
    loss = (t.weight * (logits.logsumexp(-1) - (t.target * logits).sum(-1))).sum(1)
    gradient = torch.einsum("wp,wpa,wpad->wd", t.weight, own - t.target, t.features) / beta
    centred = t.features - torch.einsum("wpa,wpad->wpd", own, t.features)[:, :, None]
    weighted = (t.weight[..., None] * own)[..., None] * centred
    hessian = weighted.flatten(1, 2).mT @ centred.flatten(1, 2) / beta**2
    return At(loss, gradient, hessian)


def solve(problem: Problem, near: Tensor | None = None) -> Tensor:
    """The optimum w (W, d) of each world by Newton's method with halved steps from `near` (0), to a gradient's norm of
    1e-10.

    ValueError if there is none (separable pairs and no anchor), RuntimeError if it was not reached.
    """
    worlds, _, d = problem.x.shape
    w = torch.zeros(worlds, d, dtype=problem.x.dtype) if near is None else near
    here = at(problem, w)
    for _ in range(MOST):
        if (here.gradient.norm(dim=1) <= TOLERANCE).all():
            return w
        apart = ((problem.x @ w[..., None]) > 0).flatten(1).all(1)
        if (apart & (problem.anchor == 0)).any():
            raise ValueError(NO_OPTIMUM)  # w itself tells them apart: further along it the loss falls for ever
        factor, failed = torch.linalg.cholesky_ex(here.hessian)
        if failed.any():
            raise ValueError(NO_OPTIMUM)
        step = torch.cholesky_solve(here.gradient[..., None], factor)[..., 0]
        w, here = _halved(problem, w, here, step)
    raise RuntimeError(f"no optimum after {MOST} steps: a gradient of norm {here.gradient.norm(dim=1).max():.2g}")


def _halved(problem: Problem, w: Tensor, here: At, step: Tensor) -> tuple[Tensor, At]:
    """w - t step with t = 1, halved in each world until the loss falls as Armijo asks; where the step promises less
    than rounding of the loss can show, it is taken whole."""
    promised, t = (here.gradient * step).sum(1), torch.ones(len(w), dtype=w.dtype)
    for _ in range(40):
        there = at(problem, w - t[:, None] * step)
        short = (there.loss > here.loss - 1e-4 * t * promised) & (promised > 1e-12 * (1 + here.loss.abs()))
        if not short.any():
            break
        t = torch.where(short, t / 2, t)
    return w - t[:, None] * step, there


def matched(value: Callable[[Tensor], Tensor], target: Tensor, start: Tensor) -> Tensor:
    """x (W,) at which value(x), which falls with x, is `target` in each world, to 1e-5 of it: a bracket that grows
    from `start`, then secants on logarithms within it (Illinois). ValueError where no x reaches it."""
    of = lambda x: (value(x.exp()) / target).log()  # noqa: E731
    a = b = start.log()
    above = below = of(a)
    for _ in range(WIDER):
        high, low = above < -NEAR, below > NEAR
        if not (high | low).any():
            break
        a, b = torch.where(high, a - WIDE, a), torch.where(low, b + WIDE, b)  # what is there already stays
        above, below = of(a) if high.any() else above, of(b) if low.any() else below
    if (above < -NEAR).any() or (below > NEAR).any():
        raise ValueError("no value reaches the target in some world")
    x, found, side = a, above, torch.zeros_like(a)
    for _ in range(MOST):
        done = found.abs() <= NEAR
        if done.all():
            return x.exp()
        x = torch.where(done, x, a + (b - a) * above / (above - below))
        found = of(x)
        up, same = found > 0, found.sign() == side
        # the end that stays a second time counts half, or the secants would creep to the target from one side
        above, below = torch.where(same & ~up, above / 2, above), torch.where(same & up, below / 2, below)
        a, above = torch.where(up, x, a), torch.where(up, found, above)
        b, below = torch.where(up, b, x), torch.where(up, below, found)
        side = found.sign()
    raise RuntimeError(f"the target was not reached in {MOST} secants")


def equally_far(
    problems: Mapping[str, Problem], far: Callable[[Tensor], Tensor], *, most: float = math.inf
) -> dict[str, Tensor]:
    """The optimum w (W, d) of each problem, anchored until far(w) (W,), say its KL, is in each world that of the
    problem which goes least far by itself, or `most`: what moves further may win by that alone. None is made to go
    further."""
    w: dict[str, Tensor] = {}

    def gone(name: str, anchor: Tensor) -> Tensor:
        w[name] = solve(problems[name]._replace(anchor=anchor), near=w.get(name))
        return far(w[name])

    target = torch.stack([gone(name, p.anchor) for name, p in problems.items()]).amin(0).clamp(max=most)
    for name, p in problems.items():
        gone(name, matched(partial(gone, name), target, p.anchor))
    return w
