"""The arms of `arms.ARMS` in the exact world: each line's loss as a convex problem, its optimum, what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.losses import references
from lib.studies.mrpo import convex, exact
from lib.studies.mrpo.arms import ARMS, Spec
from lib.studies.mrpo.convex import Problem, Teacher, solve
from lib.studies.mrpo.exact import Draws, Pairs, Second

WINDOW = 8  # pairs of a batch, where weights come from the batch before
CONTROLS = {  # arm -> (its losses, what is done to its pairs)
    "dpo, flipped labels": ("dpo", Pairs.flipped),
    "dpo, no labels": ("dpo", Pairs.both_ways),
    "mrpo-unclipped, no labels": ("mrpo-unclipped", Pairs.both_ways),
}
EXTRA = {"multi-dpo-unclipped": Spec("multi", clip=False)}


class Cell(NamedTuple):
    """A point of the map: what an arm is given in every world."""

    pairs: int
    second: Second
    beta: float
    epsilon: float | None
    anchor: float  # of |beta (theta - theta_0)|^2 / 2: see presets, exact_anchor
    start: float  # quality of the primary
    scale: float  # deviation of a reference's logits
    rest: float  # nats of an answer's log-prob in which references agree
    kd_weight: float
    labels: str = "bradley-terry"


def cell(cfg, pairs: int, second: Second, **changes) -> Cell:
    """A cell with the run's settings but for `changes`."""
    names = ("beta", "anchor", "start", "scale", "rest", "kd_weight")
    return Cell(pairs, second, **({k: cfg[f"exact_{k}"] for k in names} | {"epsilon": cfg.epsilon} | changes))


class Bench(NamedTuple):
    """What the arms of a cell share."""

    draws: Draws
    cell: Cell
    start: Tensor  # theta_0 . phi (W, P, A)
    refs: Tensor  # log-probs (K, W, P, A)
    pairs: Pairs

    def policy(self, w: Tensor) -> Tensor:
        """Log-probs (W, P, A) of theta_0 + w / beta."""
        moved = torch.einsum("wpad,wd->wpa", self.draws.features, w / self.cell.beta)
        return (self.start + moved).log_softmax(-1)


def bench(draws: Draws, cell: Cell) -> Bench:
    """The references of a cell and its labelled pairs."""
    thetas = exact.directions(draws, cell.second, start=cell.start, scale=cell.scale)
    start = torch.einsum("wpad,wd->wpa", draws.features, thetas[:, 0])
    pairs = exact.preferences(draws, cell.pairs, labels=cell.labels)
    return Bench(draws, cell, start, exact.references(draws, cell.second, thetas), pairs)


def weights(b: Bench, kind: str, pairs: Pairs) -> Tensor:
    """Weights (K, W, N) of the references by name of the rule, of unclipped log-probs as in `arms.weights_of`.

    swcw: of a pair by the margins of that in the same row of the batch before, in the one pass that a run would make.
    ValueError for tsw, which asks after every step whether that step paid: here are no steps.
    """
    k, worlds, n = len(b.refs), *pairs.prompt.shape
    if kind == "tsw":
        raise ValueError("Thompson sampling learns from one training step to the next: the exact world has none")
    if kind == "uniform" or kind[0].isdigit():
        a = references.uniform(k) if kind == "uniform" else references.share(float(kind), k)
        return a.double()[:, None, None].expand(-1, worlds, n)
    if kind in ("vaw", "vdw"):
        w, l = exact.preferences(b.draws, exact.VALIDATION, labels=b.cell.labels, validation=True).of(b.refs)
        rule = getattr(references, kind)
        a = torch.stack([rule(m) for m in (w - l).unbind(1)], 1)
        return a[..., None].expand(-1, -1, n)
    w, l = pairs.of(b.refs)
    if kind == "arwc":
        return references.arwc((w - l).flatten(1)).view_as(w)
    out, before = [], None
    for now in (w - l).split(WINDOW, dim=2):
        out.append(_after(before, now, one_hot=kind == "swcw-onehot"))
        before = now
    return torch.cat(out, 2)


def _after(before: Tensor | None, now: Tensor, *, one_hot: bool) -> Tensor:
    """`references.swcw` of every world's batch (K, W, B)."""
    k, worlds, n = now.shape
    each = [references.swcw(None if before is None else before[:, w, :n], k, one_hot=one_hot) for w in range(worlds)]
    return torch.stack([(a if a.ndim == 2 else a[:, None]).double().expand(-1, n) for a in each], 1)


def problem(b: Bench, spec: Spec, pairs: Pairs) -> Problem:
    """The loss of a line of the table on these pairs. ValueError for an arm that has no meaning here."""
    if spec.normalized:
        raise ValueError("log-probs per token need tokens: an answer of the exact world has none")
    w, l = pairs.of(b.refs - b.cell.rest)  # (K, W, N)
    a = torch.ones_like(w[:1])
    epsilon = None if not spec.clip else b.cell.epsilon if spec.epsilon is None else spec.epsilon
    if spec.kind == "virtual":
        a, flat = weights(b, spec.weights, pairs), w.shape[1:]
        how: dict[str, Any] = dict(mean=spec.mean, epsilon=epsilon, adaptive=spec.adaptive, swap_weights=spec.swap)
        both = references.combine(w.flatten(1), l.flatten(1), a.flatten(1), **how)
        w, l = (x.view(1, *flat) for x in both)
        a = torch.ones_like(w)
    elif spec.kind == "multi":
        a = weights(b, spec.weights, pairs)
        both = references.clipped(w.flatten(1), l.flatten(1), epsilon=epsilon, adaptive=spec.adaptive)
        w, l = (x.view_as(a) for x in both)
    else:
        row = 1 if spec.kind == "second" else 0
        w, l = w[row : row + 1], l[row : row + 1]
    first, other = pairs.of(b.start)
    offset = b.cell.beta * (w - l - (first - other))
    x = pairs.difference(b.draws.features)
    anchor = torch.full_like(x[:, 0, 0], b.cell.anchor)
    return Problem(x, offset, a, anchor, b.cell.beta, _teacher(b, pairs) if spec.kd else None)


def _teacher(b: Bench, pairs: Pairs) -> Teacher:
    """The second reference at each pair's prompt, as often as there are pairs."""
    half = b.start.shape[1] // 2
    count = torch.zeros(len(b.start), half, dtype=b.start.dtype)
    count.scatter_add_(1, pairs.prompt, torch.ones_like(pairs.prompt, dtype=count.dtype))
    target = b.refs[1, :, :half].exp()
    return Teacher(b.draws.features[:, :half], b.start[:, :half], target, b.cell.kd_weight * count)


def loss(b: Bench, arm: str) -> Problem | None:
    """The problem of an arm, or of a control, with the cell's anchor; None for the base, which learns nothing."""
    name, change = CONTROLS.get(arm, (arm, None))
    spec, pairs = (ARMS | EXTRA)[name], b.pairs if change is None else change(b.pairs)
    return None if spec.kind == "none" else problem(b, spec, pairs)


def worth(b: Bench, arm: str) -> dict[str, Tensor]:
    """`exact.outcomes` of an arm."""
    if arm == "second, untrained":
        return exact.outcomes(b.draws, b.refs, b.refs[1])
    p = loss(b, arm)
    return exact.outcomes(b.draws, b.refs, b.refs[0] if p is None else b.policy(solve(p)))


def equally_far(b: Bench, arms: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """`exact.outcomes` of each arm at equal KL to the primary: in each world all arms are anchored until they are where
    the one is that moves least by itself. What moves further may win by that alone; no arm is made to move further."""
    half = b.start.shape[1] // 2
    problems: dict[str, Any] = {arm: loss(b, arm) for arm in arms}  # the base, which has none, is not compared so

    def moved(w: Tensor) -> Tensor:
        policy = b.policy(w)[:, half:]
        return (policy.exp() * (policy - b.refs[0, :, half:])).sum(-1).mean(1)

    found = convex.equally_far(problems, moved)
    return {arm: exact.outcomes(b.draws, b.refs, b.policy(w)) for arm, w in found.items()}
