"""Every loss by hand, typed again, in its limits, and through its gradient."""

import math
from functools import partial

import pytest
import torch

from lib import losses

F64 = torch.float64


def vectors(n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=g, dtype=F64) * 3 - 20 for _ in range(4)]


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_log_2_at_the_reference(beta):
    w, l, _, _ = vectors()
    out = losses.dpo(w, l, w, l, beta=beta)
    assert torch.allclose(out.loss, torch.full_like(w, math.log(2)), atol=1e-12, rtol=0)
    assert (out.chosen == 0).all() and (out.rejected == 0).all()


def test_gaps_0_10_20_by_hand():
    gain, zero = torch.tensor([0.0, 10.0, 20.0], dtype=F64), torch.zeros(3, dtype=F64)
    want = [math.log(2), math.log1p(math.exp(-1)), math.log1p(math.exp(-2))]
    assert losses.dpo(gain, zero, zero, zero, beta=0.1).loss.tolist() == pytest.approx(want, abs=1e-12)
    assert losses.dpo(zero, -gain, zero, zero, beta=0.1).loss.tolist() == pytest.approx(want, abs=1e-12)


def test_dpo_typed_again_with_smoothing():
    w, l, rw, rl = vectors()
    out = losses.dpo(w, l, rw, rl, beta=0.3, label_smoothing=0.2)
    for i in range(5):
        h = 0.3 * ((w[i] - rw[i]) - (l[i] - rl[i])).item()
        sigma = 1 / (1 + math.exp(-h))
        assert out.loss[i].item() == pytest.approx(-0.8 * math.log(sigma) - 0.2 * math.log(1 - sigma), abs=1e-12)
        assert (out.chosen[i] - out.rejected[i]).item() == pytest.approx(h, abs=1e-12)


def test_dpo_gradient_is_the_notes_formula_and_spares_the_reference():
    w, l, rw, rl = (v.requires_grad_() for v in vectors())
    out = losses.dpo(w, l, rw, rl, beta=0.3)
    gw, gl = torch.autograd.grad(out.loss.sum(), (w, l), retain_graph=True)
    h = 0.3 * ((w - rw) - (l - rl))
    assert torch.allclose(gw, -0.3 * torch.sigmoid(-h), atol=1e-12)
    assert torch.allclose(gl, 0.3 * torch.sigmoid(-h), atol=1e-12)
    assert not out.chosen.requires_grad and not out.rejected.requires_grad


@pytest.mark.parametrize("loss", [
    partial(losses.dpo, beta=0.3), partial(losses.dpop, beta=0.3, penalty=4.0),
    partial(losses.soft_dpo, beta=0.3, delta=torch.linspace(-2, 6, 5, dtype=F64)),
])  # fmt: skip
def test_gradcheck(loss):
    w, l, rw, rl = vectors()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, rw, rl).loss, (w.requires_grad_(), l.requires_grad_()))


def test_a_constant_on_both_sides_of_a_pair_changes_nothing():
    w, l, rw, rl = vectors()
    for loss in (partial(losses.dpo, beta=0.3), partial(losses.soft_dpo, beta=0.3, delta=torch.ones(5, dtype=F64))):
        assert torch.allclose(loss(w + 7, l + 7, rw, rl).loss, loss(w, l, rw, rl).loss, atol=1e-12)
        assert torch.allclose(loss(w + 7, l, rw + 7, rl).loss, loss(w, l, rw, rl).loss, atol=1e-12)


def test_penalty_by_hand_and_without_it_dpo():
    w, l, rw, rl = vectors()
    assert torch.equal(losses.dpop(w, l, rw, rl, beta=0.3, penalty=0.0).loss, losses.dpo(w, l, rw, rl, beta=0.3).loss)
    one = lambda x: torch.tensor([x], dtype=F64)  # noqa: E731
    # the chosen answer lost 2 nats: margin -2 - 0 - 5 * 2 = -12, h = -1.2
    out = losses.dpop(one(-12.0), one(-10.0), one(-10.0), one(-10.0), beta=0.1, penalty=5.0)
    assert out.loss.item() == pytest.approx(math.log1p(math.exp(1.2)), abs=1e-12)
    # it gained 2: no penalty
    assert losses.dpop(
        one(-8.0), one(-10.0), one(-10.0), one(-10.0), beta=0.1, penalty=5.0
    ).loss.item() == pytest.approx(math.log1p(math.exp(-0.2)), abs=1e-12)


def test_soft_label_is_smallest_at_full_precision_and_hardens():
    delta = torch.tensor([1.5], dtype=F64)
    zero = torch.zeros(1, dtype=F64)
    gains = torch.linspace(-3, 6, 901, dtype=F64)
    values = torch.cat([losses.soft_dpo(g[None], zero, zero, zero, beta=0.7, delta=delta).loss for g in gains])
    assert gains[values.argmin()].item() == pytest.approx(1.5, abs=0.01)  # h = beta delta, that is margin delta
    w, l, rw, rl = vectors()
    hard = losses.soft_dpo(w, l, rw, rl, beta=0.3, delta=torch.full((5,), 1e4, dtype=F64)).loss
    assert torch.allclose(hard, losses.dpo(w, l, rw, rl, beta=0.3).loss, atol=1e-12)


def test_target_loss_and_margins_by_hand():
    m = losses.label_margin(*(torch.tensor([x], dtype=F64) for x in (-5.0, -9.0, -8.0, -6.0)))
    assert (m.fp_bracket.item(), m.q_bracket.item(), m.delta.item()) == (4.0, 2.0, 6.0)
    assert losses.target_loss(torch.tensor([10.0, 20.0], dtype=F64), beta=0.1).item() == pytest.approx(
        (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2, abs=1e-12
    )
    # the model itself, h = beta delta, has exactly this loss against the quantized reference
    w, l, rw, rl = vectors()
    delta = losses.label_margin(w, l, rw, rl).delta
    assert losses.dpo(w, l, rw, rl, beta=0.3).loss.mean().item() == pytest.approx(
        losses.target_loss(delta, beta=0.3).item(), abs=1e-12
    )


def test_the_label_is_exact_for_the_first_differing_greedy_token():
    g = torch.Generator().manual_seed(1)
    fp, q = (torch.randn(500, 12, generator=g, dtype=F64).log_softmax(-1) for _ in range(2))
    w, l = fp.argmax(-1), q.argmax(-1)
    at = lambda t, i: t.gather(-1, i[:, None])[:, 0]  # noqa: E731
    m = losses.label_margin(at(fp, w), at(fp, l), at(q, w), at(q, l))
    assert (m.fp_bracket >= 0).all() and (m.q_bracket >= 0).all()
    assert (m.delta[w != l] > 0).all() and (w != l).sum() > 300


def test_distillation_by_hand_and_against_torch():
    t = torch.tensor([[math.log(0.75), math.log(0.25)]], dtype=F64)
    s = torch.zeros(1, 2, dtype=F64)
    assert losses.distill(s, t).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-12)
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(7, 11, generator=g, dtype=F64) for _ in range(2))
    want = torch.nn.functional.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    assert torch.allclose(losses.distill(s, t), want, atol=1e-12)
    s.requires_grad_()
    soft = -(t.softmax(-1) * s.log_softmax(-1)).sum()  # the notes' cross-entropy form has the same gradient
    a, b = (torch.autograd.grad(x, s, retain_graph=True)[0] for x in (losses.distill(s, t).sum(), soft))
    assert torch.allclose(a, b, atol=1e-12)


def test_token_scale_by_hand():
    nll = torch.tensor([0.0, 10.0, 3.0, 3.0, 3.0], dtype=F64, requires_grad=True)
    a = losses.token_scale(nll, torch.tensor([0, 0, 1, 1, 1]), tau=10.0)
    e = math.exp(1)
    assert a.tolist() == pytest.approx([1 / (1 + e), e / (1 + e), 1 / 3, 1 / 3, 1 / 3], abs=1e-12)
    assert not a.requires_grad
