"""The solver against plain gradient training, loops and problems without an answer."""

import pytest
import torch

from lib.losses import references
from lib.studies.mrpo import convex
from lib.studies.mrpo.convex import NO_OPTIMUM, Problem, Teacher


def random(seed=0, worlds=3, n=20, d=4, losses=2, anchor=0.5, teacher=False):
    g = torch.Generator().manual_seed(seed)
    normal = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    of = None
    if teacher:
        features = normal(worlds, 5, 6, d)
        of = Teacher(features, normal(worlds, 5, 6), normal(worlds, 5, 6).softmax(-1), normal(worlds, 5).abs())
    weight = normal(losses, worlds, n).abs()
    at = torch.full((worlds,), anchor, dtype=torch.float64)
    return Problem(normal(worlds, n, d), normal(losses, worlds, n), weight, at, 0.7, of)


def value(p, w):
    """The loss of one world, typed again: w (d,), the first world of p."""
    total = p.anchor[0] / 2 * (w * w).sum()
    for m in range(len(p.offset)):
        for i in range(p.x.shape[1]):
            h = sum(p.x[0, i, k] * w[k] for k in range(len(w))) - p.offset[m, 0, i]
            total = total + p.weight[m, 0, i] * torch.log1p(torch.exp(-h))
    for q in range(p.teacher.start.shape[1] if p.teacher else 0):
        t = p.teacher
        own = (t.start[0, q] + t.features[0, q] @ w / p.beta).softmax(-1)
        total = total + t.weight[0, q] * (t.target[0, q] * (t.target[0, q] / own).log()).sum()
    return total


@pytest.mark.parametrize("teacher", [False, True])
def test_the_optimum_is_where_plain_gradient_training_ends(teacher):
    p = random(teacher=teacher)
    found = convex.solve(p)
    assert convex.at(p, found).gradient.norm(dim=1).max() <= convex.TOLERANCE
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(2000 if not teacher else 600):
        (slope,) = torch.autograd.grad(value(p, w), w)
        w = (w - 0.02 * slope).detach().requires_grad_()
    assert torch.allclose(found[0], w.detach(), atol=1e-7)


@pytest.mark.parametrize("teacher", [False, True])
def test_gradient_and_hessian_are_those_of_the_loss(teacher):
    p, w = random(teacher=teacher), torch.randn(3, 4, dtype=torch.float64)
    here = convex.at(p, w)
    slope = torch.func.grad(lambda x: value(p, x))(w[0])
    curve = torch.func.hessian(lambda x: value(p, x))(w[0])
    assert torch.allclose(here.gradient[0], slope) and torch.allclose(here.hessian[0], curve)


def test_the_loss_is_multi_dpo():
    """By lib.losses, whose policy and references are log-probs: their gradient is zero at the optimum."""
    p = random(worlds=1)
    p = p._replace(weight=p.weight / p.weight.sum(0))
    w = convex.solve(p)[0].requires_grad_()
    pi, refs = p.x[0] @ w / 0.7, p.offset[:, 0] / 0.7
    loss = references.multi_dpo(pi, 0 * pi, refs, 0 * refs, p.weight[:, 0], beta=0.7).loss.sum()
    (slope,) = torch.autograd.grad(loss + p.anchor[0] / 2 * w.square().sum(), w)
    assert slope.norm() < 1e-9


def test_far_starts_and_extreme_offsets_are_solved_too():
    p = random(worlds=5, n=40)
    for scale in (1e-3, 30.0):
        hard = p._replace(offset=scale * p.offset, anchor=0.01 * p.anchor)
        assert convex.at(hard, convex.solve(hard)).gradient.norm(dim=1).max() <= convex.TOLERANCE


def test_pairs_that_can_be_told_apart_have_no_optimum_without_an_anchor():
    p = random(losses=1, n=30)
    apart = p._replace(x=torch.where(p.x[..., :1] > 0, p.x, -p.x), anchor=0 * p.anchor)
    with pytest.raises(ValueError, match="no finite optimum") as caught:
        convex.solve(apart)
    assert str(caught.value) == NO_OPTIMUM and "\n" not in NO_OPTIMUM
    with pytest.raises(ValueError, match="no finite optimum"):  # fewer pairs than features
        convex.solve(random(losses=1, n=2, anchor=0.0))
    convex.solve(apart._replace(anchor=p.anchor))
    convex.solve(p._replace(anchor=0 * p.anchor))  # noise tells nothing apart


def test_worlds_do_not_see_each_other():
    p, part = random(worlds=6), slice(2, 4)
    alone = Problem(p.x[part], p.offset[:, part], p.weight[:, part], p.anchor[part], p.beta)
    assert torch.allclose(convex.solve(p)[part], convex.solve(alone), atol=1e-9)


def test_a_matched_value_is_reached_in_every_world():
    scale = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    value = lambda x: scale / (1 + x) ** 2  # noqa: E731
    target = torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
    x = convex.matched(value, target, torch.ones(3, dtype=torch.float64))
    assert torch.allclose(value(x), target, rtol=2e-5)
    with pytest.raises(ValueError, match="no value reaches the target"):
        convex.matched(value, torch.tensor([0.2, 0.5, 1.0]), torch.ones(3, dtype=torch.float64))
