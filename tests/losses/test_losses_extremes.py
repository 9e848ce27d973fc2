"""Every loss at the ends of what a model can say: certain answers, impossible ones, and margins far beyond both."""

import inspect

import pytest
import torch

from lib import losses
from lib.losses import references

ENDS = (0.0, -1e-8, -1e-4, -1.0, -1000.0, -1e5)
SETTINGS = {
    "beta": 0.1, "tau": 0.05, "gamma": 0.5, "nll_weight": 1.0, "penalty": 50.0, "label_smoothing": 0.1,
}  # fmt: skip


def arguments(loss, w, l):
    """Keyword arguments by the names in the loss's signature; None for a loss that wants something else."""
    one, given = torch.ones_like(w.detach()), {}
    known = SETTINGS | {"pi_w": w, "pi_l": l, "ref_w": one * -3, "ref_l": one * -4, "length_w": one, "length_l": one}
    for name, p in inspect.signature(loss).parameters.items():
        if name not in known and p.default is inspect.Parameter.empty:
            return None
        if name in known:
            given[name] = known[name]
    return given


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name", ["dpo", "dpop", "orpo", "simpo", "cpo", "discopop", "hinge", "ipo_sum", "minor_dpo", "nca"]
)
def test_loss_and_gradient_are_finite_at_the_ends(name, dtype):
    loss = getattr(losses, name)
    w, l = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in zip(*((a, b) for a in ENDS for b in ENDS)))
    given = arguments(loss, w, l)
    assert given is not None, f"{name} wants more than these tests know"
    out = loss(**given).loss
    out.sum().backward()
    assert torch.isfinite(out).all() and torch.isfinite(w.grad).all() and torch.isfinite(l.grad).all()


def test_orpo_near_certainty_by_hand():
    """-a - beta log sigma(log odds): for a = -1e-4 against -1 the odds are 9999.5 and 0.58198."""
    one = torch.ones(1, dtype=torch.float64)
    got = losses.orpo(-1e-4 * one, -one, beta=0.1, length_w=one, length_l=one).loss.item()
    odds = 9999.500008 / 0.5819767069
    assert got == pytest.approx(1e-4 + 0.1 * torch.log1p(torch.tensor(1 / odds, dtype=torch.float64)).item(), abs=1e-9)


def test_discopop_far_below_is_dpo():
    far = torch.tensor([-1000.0])
    zero = torch.zeros(1)
    got = losses.discopop(far, zero, zero, zero, beta=1.0, tau=0.05).loss
    assert got.item() == pytest.approx(1000.0)


@pytest.mark.parametrize("mean", references.MEANS)
def test_a_reference_of_weight_0_may_find_an_answer_impossible(mean):
    table = torch.tensor([[-3.0, -4.0], [-torch.inf, -5.0]], requires_grad=True)
    got = references.virtual(table, torch.tensor([1.0, 0.0]), mean=mean)
    got.sum().backward()
    assert torch.allclose(got, table[0]) and torch.isfinite(table.grad).all()


def test_the_window_of_two_certain_answers_is_shared():
    zero = torch.zeros(2, 3)
    e_w, e_l = references.adaptive_epsilon(zero, zero, largest=0.1)
    assert torch.allclose(e_w, torch.full((3,), 0.05)) and torch.allclose(e_l, e_w)
