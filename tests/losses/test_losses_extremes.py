"""Every loss at the ends of what a model can say: certain answers, impossible ones, and margins far beyond both."""

import inspect
import math

import pytest
import torch

from lib import losses
from lib.losses import references

ENDS = (0.0, -1e-8, -1e-4, -1.0, -1000.0, -1e5)
NOT_OF_PAIRS = {"distill", "token_scale", "target_loss", "label_margin", "f_score", "kto"}  # each has a test below
LOSSES = sorted({n for n in losses.__all__ if n[0].islower()} - NOT_OF_PAIRS - {"f_dpo"})


def settings(one):
    """Every argument that a loss of pairs may ask for, by its name."""
    return {
        "beta": 0.1, "tau": 0.05, "gamma": 0.5, "nll_weight": 1.0, "penalty": 50.0, "label_smoothing": 0.1,
        "weights": (0.8, 0.2, 1.0), "weight": 0.5, "shift": 0.2, "multiplier": 0.3,
        "margin": 1000 * one, "delta": -1000 * one, "earlier_w": -1000 * one, "earlier_l": one,
        "advantage_w": 1000 * one, "advantage_l": -1000 * one,
        "length_w": one, "length_l": one, "ref_w": one * -3, "ref_l": one * -4,
    }  # fmt: skip


def ends(dtype):
    """Every pair of ENDS as log-probs of the chosen and the rejected answer that ask for gradients."""
    return (torch.tensor(x, dtype=dtype, requires_grad=True) for x in zip(*((a, b) for a in ENDS for b in ENDS)))


def check(loss, w, l, **more):
    known = settings(torch.ones_like(w.detach())) | more
    given = {name: known[name] for name in inspect.signature(loss).parameters if name in known}
    out = loss(w, l, **given).loss
    out.sum().backward()
    assert torch.isfinite(out).all() and torch.isfinite(w.grad).all() and torch.isfinite(l.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_finite_at_the_ends(name, dtype):
    check(getattr(losses, name), *ends(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind, alpha", [("reverse_kl", None), ("forward_kl", None), ("js", None), ("alpha", 0.5)])
def test_f_divergences_are_finite_at_the_ends(kind, alpha, dtype):
    check(losses.f_dpo, *ends(dtype), kind=kind, alpha=alpha)
    u = torch.tensor([-1e5, 0.0, 1e5], dtype=dtype)
    assert torch.isfinite(losses.f_score(u, kind, alpha=alpha)).all()


def test_scores_before_the_cap_are_the_formulas():
    u = torch.tensor([-40.0, -1.0, 0.0, 40.0], dtype=torch.float64)
    assert torch.allclose(losses.f_score(u, "forward_kl"), -(-u).exp(), rtol=1e-12)
    assert torch.allclose(losses.f_score(u, "alpha", alpha=0.5), -2 * (-u / 2).exp(), rtol=1e-12)


@pytest.mark.parametrize("good", [True, False])
def test_kto_is_finite_at_the_ends(good):
    u = torch.tensor([-1e5, 0.0, 1e5], requires_grad=True)
    for kl in (-1e5, 0.0, 1e5):
        out = losses.kto(u, torch.full((3,), good), beta=0.1, kl=torch.tensor(kl), weight_good=1.0, weight_bad=1.0)
        grad = torch.autograd.grad(out.sum(), u)[0]
        assert torch.isfinite(out).all() and torch.isfinite(grad).all()


def test_what_one_answer_of_a_margin_is_worth_at_the_ends():
    far = torch.tensor([-1e5, 1e5])
    assert losses.target_loss(far, beta=0.1).item() == pytest.approx(5000.0)
    assert losses.label_margin(far, -far, far, -far).delta.tolist() == [0.0, 0.0]
    scale = losses.token_scale(torch.tensor([0.0, 1e5, 1e5, 3.0]), torch.tensor([0, 0, 0, 1]), tau=0.05)
    assert scale.tolist() == [0.0, 0.5, 0.5, 1.0]


def test_tokens_that_a_teacher_forbids_add_nothing():
    """Logits with -inf, as a grammar or a ban of tokens leaves them: by hand, and no gradient is lost."""
    teacher = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, 0.0, 0.0]])
    student = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, -torch.inf, 0.0]], requires_grad=True)
    got = losses.distill(student, teacher)
    assert got.tolist() == [0.0, torch.inf]
    open_ = torch.zeros(1, 3, requires_grad=True)
    kl = losses.distill(open_, teacher[:1])
    kl.sum().backward()
    assert kl.item() == pytest.approx(math.log(3) - math.log(2))
    assert torch.allclose(open_.grad, torch.tensor([[-1 / 6, -1 / 6, 1 / 3]]))


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


def test_the_window_goes_to_an_answer_that_a_reference_finds_impossible():
    chosen, rejected = torch.tensor([[-3.0, -3.0], [-torch.inf, -torch.inf]]), torch.tensor([[-4.0, -4.0], [-5.0, 0.0]])
    rejected[1, 1] = -torch.inf
    e_w, e_l = references.adaptive_epsilon(chosen, rejected, largest=0.1)
    assert torch.allclose(e_w, torch.tensor([0.1, 0.05])) and torch.allclose(e_l, torch.tensor([0.0, 0.05]))
    weights = torch.tensor([1.0, 0.0])
    got = references.combine(chosen, rejected, weights, mean="harmonic", epsilon=0.1, adaptive=True)
    assert torch.allclose(got[0], chosen[0]) and torch.allclose(got[1], rejected[0])
