"""The virtual reference: numbers of the notes, limits, an enumerated toy, and weights by hand."""

import math

import pytest
import torch

from lib import losses
from lib.losses import references

D = torch.float64
L2 = torch.tensor([[-300.0], [-280.0]], dtype=D)
HALF = torch.tensor([0.5, 0.5], dtype=D)


def logps(k=3, b=7, scale=30.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [-100 - scale * torch.rand(k, b, generator=g, dtype=D) for _ in "wl"]


@pytest.mark.parametrize("mean, weights, want", [
    ("harmonic", (0.5, 0.5), -299.3069), ("geometric", (0.5, 0.5), -290.0), ("arithmetic", (0.5, 0.5), -280.6931),
    ("harmonic", (0.1, 0.9), -297.6974),
])  # fmt: skip
def test_means_by_hand(mean, weights, want):
    assert references.virtual(L2, torch.tensor(weights, dtype=D), mean=mean).item() == pytest.approx(want, abs=1e-4)


def test_length_normalised_log_probs_let_weights_matter():
    l = torch.tensor([[-1.2], [-0.9]], dtype=D)
    at = lambda *a: references.virtual(l, torch.tensor(a, dtype=D), mean="harmonic").item()  # noqa: E731
    assert at(0.1, 0.9) == pytest.approx(-0.93, abs=0.006) and at(0.9, 0.1) == pytest.approx(-1.17, abs=0.006)


def test_typed_again():
    w, _ = logps(scale=3.0)
    a = torch.tensor([0.2, 0.5, 0.3], dtype=D)
    for b in range(7):
        p = [math.exp(x) for x in w[:, b].tolist()]
        harmonic = 1 / sum(x / y for x, y in zip(a.tolist(), p))
        arithmetic = sum(x * y for x, y in zip(a.tolist(), p))
        assert references.virtual(w, a, mean="harmonic")[b].item() == pytest.approx(math.log(harmonic), abs=1e-10)
        assert references.virtual(w, a, mean="arithmetic")[b].item() == pytest.approx(math.log(arithmetic), abs=1e-10)


def test_ordering_and_stability():
    for scale in (0.5, 50.0, 2000.0):
        w, _ = logps(scale=scale)
        h, g, m = (references.virtual(w * 10, references.uniform(3), mean=x) for x in references.MEANS)
        assert (h <= g).all() and (g <= m).all() and torch.isfinite(torch.stack([h, g, m])).all()
        assert (h >= (w * 10).min(0).values - 1e-9).all() and (h <= (w * 10).min(0).values + math.log(3) + 1e-9).all()


def test_a_zero_weight_is_left_out():
    l = torch.tensor([[-280.0], [-300.0]], dtype=D)
    assert references.virtual(l, torch.tensor([1.0, 0.0], dtype=D), mean="harmonic").item() == -280
    nearly = torch.tensor([1 - 1e-6, 1e-6], dtype=D)
    assert references.virtual(l, nearly, mean="harmonic").item() == pytest.approx(-286.184, abs=0.01)


@pytest.mark.parametrize("mean", references.MEANS)
def test_one_or_equal_references_are_dpo(mean):
    w, l = logps(k=1)
    pi = torch.randn(2, 7, dtype=D, generator=torch.Generator().manual_seed(1)) - 110
    want = losses.dpo(*pi, w[0], l[0], beta=0.1).loss
    for k in (1, 4):
        ref = references.combine(
            w.expand(k, -1), l.expand(k, -1), references.uniform(k).double(), mean=mean, epsilon=0.1, adaptive=True
        )
        assert torch.allclose(losses.dpo(*pi, *ref, beta=0.1).loss, want, atol=1e-12)
        assert torch.allclose(
            references.multi_dpo(*pi, w.expand(k, -1), l.expand(k, -1), references.uniform(k).double(), beta=0.1).loss,
            want,
            atol=1e-12,
        )


def test_clipping_limits():
    w, l = logps(scale=300.0)
    zero = references.clip(w, 0.0)
    assert torch.equal(zero, w[:1].expand(3, -1)) and torch.equal(references.clip(w, 1e6), w)
    a = references.arwc(w - l)
    ref = references.combine(w, l, a, mean="harmonic", epsilon=0.0, adaptive=True)
    assert torch.allclose(torch.stack(ref), torch.stack([w[0], l[0]]), atol=1e-9)  # DPO on the primary
    free = references.combine(w, l, a, mean="harmonic", epsilon=None, adaptive=True)
    assert torch.allclose(
        torch.stack(references.combine(w, l, a, mean="harmonic", epsilon=1e6, adaptive=False)), torch.stack(free)
    )
    by_hand = references.clip(torch.tensor([[-100.0], [-150.0], [-50.0]]), 0.1)
    assert by_hand[:, 0].tolist() == pytest.approx([-100, -110, -90])


def test_adaptive_windows():
    w, l = logps()
    e_w, e_l = references.adaptive_epsilon(w, l, largest=0.1)
    assert torch.allclose(e_w + e_l, torch.full_like(e_w, 0.1)) and ((e_w > e_l) == (w.mean(0) < l.mean(0))).all()
    by_hand = references.adaptive_epsilon(
        torch.tensor([[-10.0], [-30.0]]), torch.tensor([[-50.0], [-70.0]]), largest=0.1
    )
    assert [x.item() for x in by_hand] == pytest.approx([0.025, 0.075])


def test_the_release_swaps_the_weights():
    l = torch.tensor([[-104.81], [-110.0]], dtype=D)
    w = torch.tensor([0.8, 0.2], dtype=D)
    ours, release = (
        references.combine(l, l, w, mean="harmonic", epsilon=None, adaptive=False, swap_weights=s)[0].item()
        for s in (False, True)
    )
    assert ours == pytest.approx(-108.413, abs=1e-3) and release == pytest.approx(-109.778, abs=1e-3)
    a, b = l[0].item(), l[1].item()  # what the release types: log pA + log pB - log(w pA + (1-w) pB)
    assert release == pytest.approx(a + b - (a + math.log(0.8 + 0.2 * math.exp(b - a))), abs=1e-9)
    with pytest.raises(ValueError, match="two references only"):
        references.combine(
            *logps(), references.uniform(3), mean="harmonic", epsilon=None, adaptive=False, swap_weights=True
        )


def test_multi_dpo_is_a_convex_mix_and_gradients_are_those_derived():
    w, l = logps(k=2)
    a = torch.tensor([0.3, 0.7], dtype=D)
    pi_w, pi_l = (
        (torch.randn(7, dtype=D, generator=torch.Generator().manual_seed(s)) - 110).requires_grad_() for s in (1, 2)
    )
    mixed = references.multi_dpo(pi_w, pi_l, w, l, a, beta=0.1)
    parts = [losses.dpo(pi_w, pi_l, w[k], l[k], beta=0.1).loss for k in range(2)]
    assert torch.allclose(mixed.loss, 0.3 * parts[0] + 0.7 * parts[1])
    d, margins = (pi_w - pi_l).detach(), w - l
    (g,) = torch.autograd.grad(mixed.loss.sum(), pi_w)
    assert torch.allclose(g, -0.1 * (a[:, None] * (0.1 * (margins - d)).sigmoid()).sum(0))
    ref_w, ref_l = references.combine(w, l, a, mean="harmonic", epsilon=0.1, adaptive=True)
    (g,) = torch.autograd.grad(losses.dpo(pi_w, pi_l, ref_w, ref_l, beta=0.1).loss.sum(), pi_w)
    assert torch.allclose(g, -0.1 * (0.1 * (ref_w - ref_l - d)).sigmoid())
    start = losses.dpo(w[0], l[0], ref_w, ref_l, beta=0.1).loss  # step 0: not log 2
    assert (
        torch.allclose(start, -torch.nn.functional.logsigmoid(0.1 * ((w[0] - l[0]) - (ref_w - ref_l))))
        and (start - math.log(2)).abs().max() > 1e-3
    )


def test_jensen_bound_and_closed_forms_on_an_enumerated_toy():
    """Six answers, three references: the surrogate never exceeds the objective, and each closed form is its own
    objective's maximum."""
    g = torch.Generator().manual_seed(0)
    logp = torch.randn(3, 6, generator=g, dtype=D).log_softmax(-1)
    r, a, beta = torch.rand(6, generator=g, dtype=D), torch.tensor([0.2, 0.5, 0.3], dtype=D), 0.5
    objective = lambda p: (p * r).sum(-1) - beta * sum(a[k] * (p * (p.log() - logp[k])).sum(-1) for k in range(3))  # noqa: E731
    bar = references.virtual(logp, a, mean="harmonic")
    surrogate = lambda p: (p * r).sum(-1) - beta * (p * (p.log() - bar)).sum(-1)  # noqa: E731
    p = (3 * torch.randn(5000, 6, generator=g, dtype=D)).softmax(-1)
    assert (surrogate(p) <= objective(p) + 1e-12).all()
    best = {m: (references.virtual(logp, a, mean=m) + r / beta).softmax(-1) for m in ("harmonic", "geometric")}
    assert (surrogate(p) <= surrogate(best["harmonic"])).all() and (objective(p) <= objective(best["geometric"])).all()
    for name, f in (("harmonic", surrogate), ("geometric", objective)):
        near = (best[name].log() + 0.05 * torch.randn(500, 6, generator=g, dtype=D)).softmax(-1)
        assert (f(near) <= f(best[name])).all()
    assert objective(best["geometric"]) > objective(best["harmonic"]) > objective(best["geometric"]) - 0.05


def test_weights_by_hand():
    margins = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    assert references.arwc(margins).tolist() == [[0.75, 0.5], [0.25, 0.5]]
    assert torch.allclose(references.arwc(1e4 * margins), references.arwc(margins))
    validation = torch.tensor([[1.0, 1.0, -2.0], [5.0, -5.0, 2.0]])
    assert references.vdw(validation).tolist() == [0.25, 0.75]
    assert references.vaw(validation).tolist() == [0.5, 0.5]
    assert references.vaw(torch.tensor([[1.0, 1.0], [1.0, -1.0]])).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert references.swcw(None, 2, one_hot=False).tolist() == [0.5, 0.5]
    assert references.swcw(margins, 2, one_hot=False).tolist() == references.arwc(margins).tolist()
    assert references.swcw(None, 2, one_hot=True).tolist() == [1, 0] and references.swcw(
        -margins.flip(0), 2, one_hot=True
    ).tolist() == [0, 1]


def test_thompson_learns_which_reference_pays():
    t = references.Thompson(2, prior=5.0, generator=torch.Generator().manual_seed(0))
    assert t.weights.tolist() == [0.5, 0.5]
    for _ in range(300):
        k = t.draw()
        t.update(k, before=0.5, after=0.6 if k == 1 else 0.5)
    assert t.weights[1] > 0.6 and t.a[0] == 5.0 and t.a[1] > 200
    again = references.Thompson(2, prior=5.0, generator=torch.Generator().manual_seed(0))
    assert [again.draw() for _ in range(5)] == [
        x.draw()
        for x in [references.Thompson(2, prior=5.0, generator=torch.Generator().manual_seed(0))]
        for _ in range(5)
    ]


def test_bad_input():
    one = torch.ones(3)
    good = (-one, -2 * one, one, one)
    assert references.table([good, good], names=["a", "b"]).chosen.shape == (2, 3)
    assert references.table([good], names=["a"]).rows([2]).normalized().rejected.tolist() == [[-2.0]]
    with pytest.raises(ValueError, match="at least the primary"):
        references.table([], names=[])
    with pytest.raises(ValueError, match="reference 'b' scored 2 chosen"):
        references.table([good, tuple(x[:2] for x in good)], names=["a", "b"])
    with pytest.raises(ValueError, match=r"reference 'b' has no log-probability of the rejected answer of pairs \[1\]"):
        references.table([good, (-one, torch.tensor([-1.0, float("nan"), -1.0]), one, one)], names=["a", "b"])
    with pytest.raises(ValueError, match="counts no tokens"):
        references.table([(-one, -one, one, 0 * one)], names=["a"])
    with pytest.raises(ValueError, match="sum to one"):
        references.virtual(L2, torch.tensor([0.5, 0.6], dtype=D), mean="harmonic")
    with pytest.raises(ValueError, match="one of harmonic, geometric, arithmetic, given 'median'"):
        references.virtual(L2, HALF, mean="median")
    with pytest.raises(ValueError, match="at least one reference is needed, given 0"):
        references.uniform(0)
    with pytest.raises(ValueError, match="epsilon is at least 0"):
        references.combine(L2, L2, HALF, mean="harmonic", epsilon=-0.1, adaptive=False)


def test_shares_go_evenly_to_all_but_the_primary():
    assert references.share(0.3, 3).tolist() == pytest.approx([0.7, 0.15, 0.15])
    assert references.share(0.3, 1).tolist() == [1.0] and references.share(1.0, 2).tolist() == [0.0, 1.0]
    assert references.share(0.0, 2).tolist() == [1.0, 0.0]
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="a share lies in"):
            references.share(wrong, 2)


def test_weights_of_each_pair_of_the_mixed_baseline():
    w, l = logps(k=2)
    pi = torch.randn(2, 7, dtype=D, generator=torch.Generator().manual_seed(1)) - 110
    a = torch.rand(2, 7, dtype=D, generator=torch.Generator().manual_seed(2))
    a = a / a.sum(0)
    got = references.multi_dpo(*pi, w, l, a, beta=0.1)
    for b in range(7):
        one = [losses.dpo(*pi[:, b : b + 1], w[k, b : b + 1], l[k, b : b + 1], beta=0.1) for k in range(2)]
        assert got.loss[b].item() == pytest.approx(sum(a[k, b].item() * one[k].loss.item() for k in range(2)))
        assert got.chosen[b].item() == pytest.approx(one[0].chosen.item())


def test_thompsons_draws_and_means_typed_again():
    t = references.Thompson(3, prior=2.0, generator=torch.Generator().manual_seed(7))
    t.a, t.b = torch.tensor([3.0, 2.0, 5.0]), torch.tensor([2.0, 6.0, 2.0])
    means = [3 / 5, 2 / 8, 5 / 7]
    assert t.weights.tolist() == pytest.approx([m / sum(means) for m in means])
    g = torch.Generator().manual_seed(7)
    for _ in range(30):
        x = torch._standard_gamma(t.a, generator=g).tolist()
        y = torch._standard_gamma(t.b, generator=g).tolist()
        shares = [p / (p + q) for p, q in zip(x, y)]  # Beta(a, b)
        assert t.draw() == shares.index(max(shares))


def test_windows_where_both_answers_are_certain_are_shared():
    zero = torch.zeros(2, 1, dtype=D)
    assert [x.item() for x in references.adaptive_epsilon(zero, zero, largest=0.1)] == pytest.approx([0.05, 0.05])
