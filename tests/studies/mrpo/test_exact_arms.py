"""The arms in the exact world: what must be DPO, what must not matter, and what a wrong sign would break."""

import pytest
import torch

from lib.harness import presets
from lib.losses import references
from lib.studies.mrpo import convex, exact
from lib.studies.mrpo import exact_arms as ea
from lib.studies.mrpo.arms import ARMS
from lib.studies.mrpo.exact import Second

CFG = presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 200, "WORLDS": 5, "EXACT_DIM": 6, "EXACT_PROMPTS": 16})


@pytest.fixture(scope="module")
def draws():
    return exact.draw(CFG)


def bench(draws, *qualities, n=64, correlation=0.0, **changes):
    return ea.bench(draws, ea.cell(CFG, n, Second(qualities or (0.9,), correlation), **changes))


def w_of(b, arm):
    return convex.solve(ea.loss(b, arm))


PLAIN = [a for a, s in ARMS.items() if s.kind in ("virtual", "multi") and not s.normalized and s.weights != "tsw"]


@pytest.mark.parametrize("arm", [*PLAIN, "single"])
def test_identical_references_are_dpo(draws, arm):
    same = bench(draws, CFG.exact_start, correlation=1.0)
    assert torch.allclose(w_of(same, arm), w_of(same, "dpo"), atol=1e-9)
    if arm not in ("mrpo-0.1",):
        assert not torch.allclose(w_of(bench(draws), arm), w_of(bench(draws), "dpo"), atol=1e-3)


def test_windows_from_dpo_to_unclipped(draws):
    for arm in ("mrpo", "multi-dpo"):
        assert torch.allclose(w_of(bench(draws, epsilon=0.0), arm), w_of(bench(draws), "dpo"), atol=1e-9)
        assert torch.allclose(w_of(bench(draws, epsilon=1e3), arm), w_of(bench(draws), f"{arm}-unclipped"), atol=1e-9)
    tight, wide = (w_of(bench(draws, epsilon=e), "mrpo") - w_of(bench(draws), "dpo") for e in (0.01, 0.3))
    assert (tight.norm(dim=1) < wide.norm(dim=1)).all()


def test_what_no_window_moves_does_not_see_the_rest_of_an_answer(draws):
    """A constant in every reference's log-probs cancels, but in CTRO, whose window is a share of them."""
    for arm in ("mrpo-unclipped", "geometric", "arithmetic", "single", "dpo", "multi-dpo-unclipped"):
        assert torch.allclose(w_of(bench(draws, rest=0.0), arm), w_of(bench(draws, rest=50.0), arm), atol=1e-9)
    assert not torch.allclose(w_of(bench(draws, rest=0.0), "mrpo"), w_of(bench(draws, rest=50.0), "mrpo"), atol=1e-3)


def test_one_hot_weights_of_multi_dpo_are_dpo_against_that_reference(draws):
    b = bench(draws)
    for share, arm in (("0", "dpo"), ("1", "single")):
        spec = ARMS["multi-dpo"]._replace(weights=share, clip=False)
        one = convex.solve(ea.problem(b, spec, b.pairs))
        assert torch.allclose(one, w_of(b, arm), atol=1e-9)


def test_the_order_of_the_others_does_not_matter(draws):
    b = bench(draws, 0.9, -0.5, 0.2)
    turned = b._replace(refs=b.refs[[0, 3, 1, 2]])
    for arm in ("mrpo", "multi-dpo", "geometric", "mrpo-vaw", "dpo"):
        assert torch.allclose(w_of(b, arm), w_of(turned, arm), atol=1e-9)


def test_means_keep_their_order(draws):
    """harmonic <= geometric <= arithmetic, so that clipping apart the harmonic mean is nearest to the least likely."""
    b = bench(draws)
    w, l = b.pairs.of(b.refs)
    a = ea.weights(b, "arwc", b.pairs)
    means = [references.virtual(w.flatten(1), a.flatten(1), mean=m) for m in references.MEANS]
    assert (means[0] <= means[1] + 1e-12).all() and (means[1] <= means[2] + 1e-12).all()
    x = [w_of(b, arm) for arm in ("mrpo-unclipped", "geometric", "arithmetic")]
    assert not torch.allclose(x[0], x[1], atol=1e-3) and not torch.allclose(x[1], x[2], atol=1e-3)


@pytest.mark.parametrize("arm", ["dpo", "mrpo", "mrpo-swapped", "single", "multi-dpo", "geometric", "kd"])
def test_the_optimum_has_no_gradient_by_the_house_losses(draws, arm):
    """The policy's own log-probs through lib.losses, by autograd: beta, offsets, clipping and weights are theirs."""
    b, spec = bench(draws, beta=0.6), ARMS[arm]
    w = w_of(b, arm).requires_grad_()
    policy = b.policy(w)
    pi_w, pi_l = (x.flatten() for x in b.pairs.of(policy))
    rw, rl = (x.flatten(1) for x in b.pairs.of(b.refs - b.cell.rest))
    a = references.arwc(rw - rl)
    if spec.kind == "multi":
        clipped = references.clipped(rw, rl, epsilon=0.1, adaptive=True)
        loss = references.multi_dpo(pi_w, pi_l, *clipped, a, beta=0.6).loss.sum()
    else:
        epsilon = 0.1 if spec.clip else None
        row = {"primary": 0, "second": 1}.get(spec.kind)
        ref = (rw[row], rl[row]) if row is not None else references.combine(
            rw, rl, a, mean=spec.mean, epsilon=epsilon, adaptive=True, swap_weights=spec.swap)  # fmt: skip
        loss = references.dpo(pi_w, pi_l, *ref, beta=0.6).loss.sum()
    if spec.kd:
        world = torch.arange(5)[:, None]
        own, teacher = policy[world, b.pairs.prompt], b.refs[1][world, b.pairs.prompt]
        loss = loss + b.cell.kd_weight * (teacher.exp() * (teacher - own)).sum()
    (slope,) = torch.autograd.grad(loss + w.square().sum() / 2, w)
    assert slope.norm(dim=1).max() < 1e-8


def test_a_reference_equal_to_the_truth_needs_no_labels(draws):
    """Pairs with both labels say nothing of the truth: DPO stays at its start, DPO against the truth goes there."""
    b = bench(draws, 1.0, n=1000)
    weak = bench(draws, 1.0, n=1000, anchor=1e-6)
    assert w_of(b, "dpo, no labels").abs().max() < 1e-9
    w = convex.solve(ea.problem(weak, ARMS["single"], weak.pairs.both_ways()))
    assert torch.allclose(b.policy(w), b.refs[1], atol=1e-3)
    start, pulled, truth = (ea.worth(b, arm)["expected reward"] for arm in
        ("base", "mrpo-unclipped, no labels", "second, untrained"))  # fmt: skip
    assert (start < pulled).all() and (pulled < truth).all()


def test_flipped_labels_and_a_wrong_reference_cost(draws):
    b = bench(draws, -0.9, n=256)
    worth = {a: ea.worth(b, a) for a in ("dpo", "dpo, flipped labels", "single", "mrpo-unclipped")}
    assert (worth["dpo, flipped labels"]["expected reward"] < worth["dpo"]["expected reward"] - 0.3).all()
    for arm in ("single", "mrpo-unclipped"):
        assert (worth[arm]["accuracy"] < worth["dpo"]["accuracy"]).all()


def test_equal_kl_is_equal(draws):
    b, arms = bench(draws), ["dpo", "mrpo", "single", "geometric"]
    own, far = {a: ea.worth(b, a) for a in arms}, ea.equally_far(b, arms)
    least = torch.stack([own[a]["KL to 0"] for a in arms]).amin(0)
    for a in arms:
        assert torch.allclose(far[a]["KL to 0"], least, rtol=2e-5)


def test_no_number_depends_on_the_worlds_beside_it(draws):
    part = ea.bench(exact.draw(CFG, worlds=[2, 3]), bench(draws).cell)
    for arm in ("mrpo", "multi-dpo", "mrpo-vaw", "kd", "mrpo-swcw"):
        whole, some = ea.worth(bench(draws), arm), ea.worth(part, arm)
        assert all(torch.allclose(whole[m][2:4], some[m], atol=1e-9) for m in whole)


def test_weights_are_those_of_the_rules(draws):
    b = bench(draws, 0.9, -0.9)
    w, l = b.pairs.of(b.refs)
    now = ea.weights(b, "swcw", b.pairs)
    assert torch.allclose(now[:, :, :8], torch.full_like(now[:, :, :8], 1 / 3))
    for world in range(5):  # of a pair, by the margins of the one eight before
        assert torch.allclose(now[:, world, 8:], references.arwc((w - l)[:, world, :-8]))
    for kind in ("arwc", "uniform", "0.9", "vaw", "vdw", "swcw", "swcw-onehot"):
        a = ea.weights(b, kind, b.pairs)
        assert a.shape == w.shape and torch.allclose(a.sum(0), torch.ones(()).double()) and (a >= 0).all()
    assert (ea.weights(b, "vaw", b.pairs)[1] > ea.weights(b, "vaw", b.pairs)[2]).all()  # it sees which is wrong
    pairs = exact.preferences(draws, exact.VALIDATION, labels="bradley-terry", validation=True)
    margins = torch.sub(*pairs.of(b.refs))
    assert torch.allclose(ea.weights(b, "vdw", b.pairs)[:, 1, 0], references.vdw(margins[:, 1]))


@pytest.mark.parametrize("arm, words", [("mrpo-tsw", "has none"), ("mrpo-normalized", "per token need tokens")])
def test_arms_without_a_meaning_here_are_refused(draws, arm, words):
    with pytest.raises(ValueError, match=words):
        w_of(bench(draws), arm)
    assert torch.isfinite(w_of(bench(draws), "mrpo-swapped")).all()


def test_separable_pairs_without_an_anchor_are_refused(draws):
    with pytest.raises(ValueError, match="no finite optimum"):
        w_of(bench(draws, n=16, labels="deterministic", anchor=0.0), "dpo")
