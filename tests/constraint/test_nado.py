"""The constraint's target, its distance, and NADO, held against loops and against enumeration (test_tabular)."""

import copy
import math

import pytest
import torch

from lib import constraint
from lib.constraint import tabular
from lib.constraint.nado import (
    Nado,
    consistency,
    constraint_kl,
    expected_success,
    head_kl,
    importance,
    prefix_bce,
    soft_weight,
    steered,
)

D64 = torch.float64


def logs(r):
    r = torch.tensor(r, dtype=D64)
    return r.log(), (-r).log1p()


def case(m=3, v=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    log_p = torch.randn(m, v, dtype=D64, generator=g).log_softmax(-1)
    r = torch.rand(m, v, dtype=D64, generator=g)
    return log_p, r.log(), (-r).log1p()


def test_the_target_by_hand():
    """p = (.5, .3, .2), R = (.9, .1, .5), R(x) = .6: hard q = pR / .58; delta .8: w = .8 R / .6 + .2 (1 - R) / .4."""
    log_p, (log_r, log_not) = torch.tensor([[0.5, 0.3, 0.2]], dtype=D64).log(), logs([[0.9, 0.1, 0.5]])
    x = torch.tensor([0.6], dtype=D64)
    hard = steered(log_p, soft_weight(log_r, log_not, x, delta=1.0, floor=0.0)).exp()[0]
    assert hard.tolist() == pytest.approx([0.45 / 0.58, 0.03 / 0.58, 0.1 / 0.58])
    w = soft_weight(log_r, log_not, x, delta=0.8, floor=0.0).exp()[0]
    assert w.tolist() == pytest.approx([1.2 + 0.05, 0.8 / 6 + 0.45, 0.8 / 1.2 + 0.25])
    assert soft_weight(log_r, log_not, x, delta=0.6, floor=0.0).abs().max() == 0, "where the constraint holds, q is p"
    floored = soft_weight(*logs([[1e-9, 1e-8, 1e-7]]), x, delta=1.0, floor=1e-4)
    assert torch.equal(steered(log_p, floored).exp().round(decimals=12), log_p.exp().round(decimals=12)), (
        "where all is lost, none is preferred"
    )


@pytest.mark.parametrize("direction", constraint.DIRECTIONS)
def test_distance_and_gradient_typed_again(direction):
    log_p, log_r, log_not = case()
    logits = log_p.clone().requires_grad_()
    w = soft_weight(log_r, log_not, torch.full((3,), 0.4, dtype=D64), delta=0.9, floor=1e-4)
    kl = constraint_kl(logits.log_softmax(-1), w, direction=direction)
    for i in range(3):
        p = log_p[i].exp().tolist()
        weight = [0.9 * math.exp(log_r[i, v]) / 0.4 + 0.1 * (1 - math.exp(log_r[i, v])) / 0.6 for v in range(5)]
        z = sum(a * b for a, b in zip(p, weight))
        q = [a * b / z for a, b in zip(p, weight)]
        want = sum(a * math.log(a / b) for a, b in (zip(p, q) if direction == "reverse" else zip(q, p)))
        assert kl[i].item() == pytest.approx(want, abs=1e-12)
    (gradient,) = torch.autograd.grad(kl.sum(), logits)
    p, q = log_p.exp(), steered(log_p, w).exp()
    a = (p / q).log()
    want = p * (a - kl.detach()[:, None]) if direction == "reverse" else p - q
    assert torch.allclose(gradient, want)


@pytest.mark.parametrize("direction", constraint.DIRECTIONS)
def test_the_fused_distance_is_the_plain_one(direction):
    g = torch.Generator().manual_seed(1)
    hidden, head = (
        torch.randn(7, 4, dtype=D64, generator=g).requires_grad_(),
        torch.randn(11, 4, dtype=D64, generator=g),
    )
    log_r = torch.rand(7, 11, dtype=D64, generator=g).log()
    plain = constraint_kl((hidden @ head.T).log_softmax(-1), log_r, direction=direction)
    fused = head_kl(hidden, head, lambda s: log_r[s], direction=direction, chunk=3)
    up = torch.arange(1.0, 8, dtype=D64)
    assert torch.allclose(plain, fused, atol=1e-12)
    assert torch.allclose(*(torch.autograd.grad((up * x).sum(), hidden)[0] for x in (plain, fused)), atol=1e-12)


def test_no_gradient_enters_the_target():
    log_p, log_r, log_not = case()
    r = log_r.clone().requires_grad_()
    for direction in constraint.DIRECTIONS:
        kl = constraint_kl(
            log_p.clone().requires_grad_(),
            soft_weight(r, log_not, torch.full((3,), 0.4, dtype=D64), delta=1.0, floor=1e-4),
            direction=direction,
        )
        assert torch.autograd.grad(kl.sum(), r, allow_unused=True)[0] is None


def test_a_constant_success_rate_steers_nowhere():
    log_p, log_r, log_not = case()
    same = torch.full_like(log_r, 0.3).log()
    for direction in constraint.DIRECTIONS:
        for delta in (0.9, 1.0):
            w = soft_weight(
                same, torch.full_like(log_r, 0.7).log(), torch.full((3,), 0.3, dtype=D64), delta=delta, floor=1e-4
            )
            assert constraint_kl(log_p, w, direction=direction).abs().max() < 1e-12


def test_the_two_directions_agree_to_first_order():
    log_p, log_r, _ = case()
    for scale, least in ((1e-2, 0.9), (1e-3, 0.99)):
        a, b = (constraint_kl(log_p, scale * log_r, direction=d) for d in constraint.DIRECTIONS)
        assert ((a / b) > least).all() and ((a / b) < 1 / least).all()


@pytest.mark.parametrize("style", constraint.STYLES)
def test_an_untrained_nado_changes_nothing(style):
    g = torch.Generator().manual_seed(0)
    embeddings, hidden = torch.randn(9, 6, generator=g), torch.randn(4, 6, generator=g)
    nado = Nado(embeddings, 2, generator=g, style=style)
    log_r, log_not = nado(hidden)
    assert torch.allclose(log_r.exp(), torch.full((4, 9), 0.5)) and torch.allclose(
        log_not.exp(), torch.full((4, 9), 0.5)
    )
    log_p = torch.randn(4, 9, generator=g).log_softmax(-1)
    assert torch.allclose(steered(log_p, log_r), log_p, atol=1e-6)
    assert not any(p.shape == embeddings.shape for p in nado.parameters()), "the embeddings are not its own"


@pytest.mark.parametrize("style", constraint.STYLES)
def test_nado_at_one_token_is_nado_at_all(style):
    g = torch.Generator().manual_seed(0)
    nado = Nado(torch.randn(9, 6, generator=g), 1, generator=g, style=style)
    for p in nado.parameters():
        p.data = torch.randn(p.shape, generator=g) / 3
    hidden, target = torch.randn(4, 6, generator=g), torch.tensor([0, 3, 8, 3])
    every, picked = nado(hidden), nado(hidden, target)
    for a, b in zip(every, picked):
        assert torch.allclose(a.gather(1, target[:, None])[:, 0], b, atol=1e-5)
    assert torch.allclose(every[0].exp() + every[1].exp(), torch.ones(4, 9), atol=1e-5)
    if style == "dinado":
        (e,) = nado.embeddings
        x = torch.nn.functional.layer_norm(hidden, (6,))
        x = x + torch.nn.functional.gelu(torch.nn.functional.layer_norm(x, (6,)) @ nado.up[0].T) @ nado.down[0].T
        assert torch.allclose(every[0].amax(1), torch.nn.functional.logsigmoid(x @ nado.value), atol=1e-5)


def test_the_label_is_asked_at_every_prefix():
    """Two answers, of 2 and 1 tokens, labels 1 and 0: mean of -log .8, -log .6, -log(1 - .3)."""
    picked, branch, labels = logs([0.8, 0.6, 0.3]), torch.tensor([0, 0, 1]), torch.tensor([1.0, 0.0])
    want = -(math.log(0.8) + math.log(0.6) + math.log(0.7)) / 3
    assert prefix_bce(picked, branch, labels).item() == pytest.approx(want)
    weighted = prefix_bce(picked, branch, labels, weight=torch.tensor([3.0, 1.0])).item()
    assert weighted == pytest.approx(-(3 * math.log(0.8) + 3 * math.log(0.6) + math.log(0.7)) / 7)


@pytest.mark.parametrize("direction", ["expected", "said"])
def test_consistency_is_aligned_by_one_token(direction):
    """r of a prefix was said one token before E of it; the first token of an answer has no predecessor, of another
    answer neither."""
    picked, expected, branch = logs([0.8, 0.6, 0.3, 0.9]), logs([0.5, 0.7, 0.2, 0.4]), torch.tensor([0, 0, 1, 1])

    def kl(a, b):
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    at = constraint.followers(branch)
    assert at.tolist() == [0, 2]
    pairs = [(0.7, 0.8), (0.4, 0.3)]
    want = sum(kl(e, r) if direction == "expected" else kl(r, e) for e, r in pairs) / 2
    assert consistency(
        tuple(x[at + 1] for x in expected), tuple(x[at] for x in picked), direction=direction
    ).item() == pytest.approx(want)
    none = constraint.followers(torch.arange(4))
    assert consistency(tuple(x[none + 1] for x in expected), tuple(x[none] for x in picked)).item() == 0


def test_the_success_rate_of_a_prefix_by_its_next_tokens():
    log_p, log_r, log_not = case()
    e, no = expected_success(log_p, (log_r, log_not))
    want = (log_p.exp() * log_r.exp()).sum(-1)
    assert torch.allclose(e.exp(), want) and torch.allclose(no.exp(), 1 - want)


@pytest.mark.parametrize("tau", [0.5, 0.8, 1.0])
def test_importance_weights_give_the_success_rate_of_the_model_itself(tau):
    """Answers drawn token by token at temperature 1 / tau, all of them enumerated: weights p / q give E_p[C] exactly;
    weights p^(1 - tau), right only for draws from p^tau over whole answers, do not."""
    w = tabular.world(vocabulary=3, length=3, share=0.5, seed=0)
    tables = tabular.log_tables(w.start)
    log_p, log_q = (tabular.answers(x) for x in (tables, [(tau * t).log_softmax(-1) for t in tables]))
    can = log_p > -torch.inf  # after its end an answer has one way to go on
    log_p, log_q, fine = log_p[can], log_q[can], w.fine[can]
    truth = (log_p.exp() * fine).sum().item()

    def estimate(weights):
        mass = log_q.exp() * weights
        return ((mass * fine).sum() / mass.sum()).item()

    assert estimate(importance(log_p, log_q)) == pytest.approx(truth, rel=1e-12)
    biased = estimate(((1 - tau) * log_p).softmax(0))
    assert (abs(biased - truth) > 1e-3) == (tau < 1)


def test_the_policy_gradient_points_where_the_exact_one_does():
    """Over many draws the surrogate's gradient is that of E[C] - beta KL(p || start)."""
    g = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=D64, requires_grad=True)
    start, c, beta = torch.tensor([0.2, 0.5, 0.3], dtype=D64).log(), torch.tensor([1.0, 0.0, 1.0], dtype=D64), 0.3
    log_p = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((log_p.exp() * (c - beta * (log_p - start))).sum(), logits)
    drawn = torch.multinomial(log_p.detach().exp(), 200_000, replacement=True, generator=g)
    surrogate = constraint.policy_gradient(logits.log_softmax(0)[drawn], c[drawn], start[drawn], beta=beta).mean()
    (estimate,) = torch.autograd.grad(surrogate, logits)
    assert torch.allclose(-estimate, exact, atol=5e-3)


@pytest.mark.parametrize(("delta", "floor"), [(0.98, 1e-2), (0.7, 0.0), (1.0, 1e-2)])
@pytest.mark.parametrize("style", constraint.STYLES)
def test_weights_row_by_row_are_the_soft_weights(style, delta, floor):
    g = torch.Generator().manual_seed(0)
    nado = constraint.Nado(torch.randn(30, 6, generator=g, dtype=D64), 1, generator=g, style=style).double()
    for p in nado.parameters():
        p.data = 2 * torch.randn(p.shape, generator=g, dtype=D64)
    h, x = torch.randn(11, 6, generator=g, dtype=D64), torch.rand(11, generator=g, dtype=D64)
    x[3] = 0.99  # the prompt is fine already
    with torch.no_grad():
        want, got = soft_weight(*nado(h), x, delta=delta, floor=floor), nado.weights(h, x, delta=delta, floor=floor)
        assert torch.allclose(torch.cat([got[slice(0, 8)], got[slice(8, 16)]]), want, atol=1e-9) and torch.allclose(
            nado.log_success(h), nado(h)[0]
        )
        assert torch.equal(got[slice(0, 8)], got[slice(0, 8)])  # a read writes nothing, so that a second gives the same
        narrow = copy.deepcopy(nado).float().weights(h.float(), x.float(), delta=delta, floor=floor)
        assert torch.equal(narrow[slice(0, 8)], narrow[slice(0, 8)])
    out, head = [], torch.randn(30, 6, generator=g, dtype=D64)
    for w in (lambda s: want[s], lambda s: nado.weights(h[s], x[s], delta=delta, floor=floor)):
        hidden = h.clone().requires_grad_()
        kl = constraint.head_kl(hidden, head, w, direction="reverse", chunk=9)
        out.append((kl.detach(), *torch.autograd.grad(kl.sum(), hidden)))
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*out)) and out[0][1].abs().max() > 1e-3


@pytest.mark.parametrize("style", constraint.STYLES)
def test_expected_success_without_logarithms_is_that_with_them(style):
    g = torch.Generator().manual_seed(0)
    nado = constraint.Nado(torch.randn(30, 6, generator=g, dtype=D64), 1, generator=g, style=style).double()
    for p in nado.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=D64)
    h, log_p = torch.randn(11, 6, generator=g, dtype=D64), torch.randn(11, 30, generator=g, dtype=D64).log_softmax(-1)
    out, weight = [], torch.randn(2, 11, generator=g, dtype=D64)
    for e, n in (nado.expected(h, log_p), expected_success(log_p, nado(h))):
        out.append(
            (
                e.detach(),
                n.detach(),
                *torch.autograd.grad((weight[0] * e + weight[1] * n).sum(), list(nado.parameters())),
            )
        )
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*out)) and out[0][2].abs().max() > 1e-3
    assert torch.allclose(out[0][0].exp() + out[0][1].exp(), torch.ones(11, dtype=D64)) or style == "dinado"


def test_the_policy_gradient_of_answers_drawn_before_is_that_of_now():
    """Drawn from an older policy and weighted by p / p then, the surrogate still has the gradient of the present
    one."""
    g = torch.Generator().manual_seed(0)
    logits, older = (
        torch.tensor([0.3, -0.2, 0.5], dtype=D64, requires_grad=True),
        torch.tensor([0.9, 0.4, -0.5], dtype=D64).log_softmax(0),
    )
    start, c, beta = torch.tensor([0.2, 0.5, 0.3], dtype=D64).log(), torch.tensor([1.0, 0.0, 1.0], dtype=D64), 0.3
    log_p = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((log_p.exp() * (c - beta * (log_p - start))).sum(), logits)
    drawn = torch.multinomial(older.exp(), 400_000, replacement=True, generator=g)
    estimate = {}
    for name, then in (("weighted", older[drawn]), ("not", None)):
        surrogate = constraint.policy_gradient(
            logits.log_softmax(0)[drawn], c[drawn], start[drawn], beta=beta, then=then
        ).mean()
        (estimate[name],) = torch.autograd.grad(surrogate, logits)
    assert torch.allclose(-estimate["weighted"], exact, atol=6e-3) and not torch.allclose(
        -estimate["not"], exact, atol=2e-2
    )
    now = logits.log_softmax(0)[drawn[:50]]
    same = [
        constraint.policy_gradient(now, c[drawn[:50]], start[drawn[:50]], beta=beta, then=then)
        for then in (None, now.detach())
    ]
    assert torch.allclose(*same)


def test_subtrajectory_balance_by_hand():
    """Two tokens, all three prefixes can end: balances b_i = log R_i - log stop_i - path_i; mean of the squared
    differences."""
    log_reward, log_stop = torch.tensor([[-1.0, -2.0, -0.5]], dtype=D64), torch.tensor([[-1.5, -0.7, 0.0]], dtype=D64)
    log_token = torch.tensor([[-0.4, -0.9]], dtype=D64)
    b = [-1.0 + 1.5, -2.0 + 0.7 + 0.4, -0.5 - 0.0 + 1.3]
    want = ((b[0] - b[1]) ** 2 + (b[0] - b[2]) ** 2 + (b[1] - b[2]) ** 2) / 3
    assert constraint.subtrajectory_balance(
        log_reward, log_token, log_stop, torch.ones(1, 3, dtype=torch.bool)
    ).item() == pytest.approx(want)
    cut = torch.tensor([[True, True, False]])
    assert constraint.subtrajectory_balance(log_reward, log_token, log_stop, cut).item() == pytest.approx(
        (b[0] - b[1]) ** 2
    )


@pytest.mark.parametrize("call, message", [
    (lambda p, r, n: soft_weight(r, n, p[:, 0].exp(), delta=0.0, floor=0.1), r"delta lies in \(0, 1\], given 0"),
    (lambda p, r, n: soft_weight(r, n, p[:, 0].exp(), delta=1.1, floor=0.1), r"delta lies in \(0, 1\], given 1.1"),
    (lambda p, r, n: soft_weight(r, n, p[:, 0].exp(), delta=0.9, floor=1.0), r"floor lies in \[0, 1\), given 1"),
    (lambda p, r, n: constraint_kl(p, r, direction="both"), "direction is one of reverse, forward, given 'both'"),
    (lambda p, r, n: head_kl(p, p, lambda s: r, direction="both"), "direction is one of reverse, forward"),
    (lambda p, r, n: Nado(p.exp(), 1, generator=None, style="gedi"), "style is one of nado, dinado"),
    (lambda p, r, n: consistency((p[:, 0], p[:, 0]), (p[:, 0], p[:, 0]), direction="x"),
        "direction is expected or said"),
])  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*case())


def test_a_certain_prefix_has_weight_r_where_the_constraint_is_hard():
    """delta = 1 leaves nothing alone, not even a prefix whose success is certain."""
    log_r, x = torch.tensor([[-0.5]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    assert soft_weight(log_r, log_r, x, delta=1.0, floor=0.0).item() == pytest.approx(-0.5)


def test_learn_finds_the_rate_of_each_prefix():
    """Two prefixes, seen often, whose answers satisfy the classifier in 3 of 4 and in 1 of 4 cases: R says so."""
    embeddings = torch.eye(4, dtype=torch.float64)
    nado = constraint.Nado(embeddings, 0, generator=torch.Generator().manual_seed(0)).double()
    hidden = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]], dtype=torch.float64).repeat(4, 1)
    target, branch = torch.tensor([0, 1] * 4), torch.arange(8)
    labels = torch.tensor([1.0, 0, 1, 0, 1, 0, 0, 1])
    curve = constraint.learn(nado, hidden, target, branch, labels, steps=300, lr=0.1)
    rate = nado(hidden, target)[0].exp()
    assert rate.tolist() == pytest.approx([0.75, 0.25] * 4, abs=1e-3)
    assert curve[0] == pytest.approx(math.log(2)) and curve[-1] == pytest.approx(0.5623351446)  # the entropy of 1/4
    with pytest.raises(ValueError, match="some answers must satisfy the classifier and some not; given 1 to 1"):
        constraint.learn(nado, hidden, target, branch, torch.ones(8), steps=1, lr=0.1)
