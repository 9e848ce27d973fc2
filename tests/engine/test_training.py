from functools import partial

import pytest
import torch
from torch import nn

from lib.engine import checkpoint, latents, training
from tests.engine.regression import Q, X, Y, fit, linear, loss_of


def test_dense_training_is_adamw_by_hand():
    m = linear()
    w = nn.Parameter(m.weight.clone())
    opt = torch.optim.AdamW([w], lr=0.05, weight_decay=0.0)
    batches = training.epochs(12, 4, torch.Generator().manual_seed(0))
    for step in range(5):
        i = next(batches)
        opt.zero_grad()
        (((X[i] @ w.T - Y[i]) ** 2).sum() / 4).backward()
        opt.param_groups[0]["lr"] = 0.05 * min(1, (step + 1) / 2)
        opt.step()
    fit(latents.Latent({"a": m}, partial(latents.Full, quantizer=None)), m)
    assert torch.allclose(m.weight, w, atol=1e-6)


def test_micro_batches_do_not_change_the_result():
    weights = []
    for micro in (1, 3, 4):
        m = linear()
        fit(latents.Latent({"a": m}, partial(latents.Full, quantizer=None)), m, micro=micro)
        weights.append(m.weight.clone())
    assert torch.allclose(weights[0], weights[1], atol=1e-6) and torch.allclose(weights[0], weights[2], atol=1e-6)
    assert not torch.equal(weights[0], linear().weight)


def test_the_best_checkpoint_is_kept():
    m = linear()
    latent = latents.Latent({"a": m}, partial(latents.Full, quantizer=None))
    values = iter([5.0, 3.0, 4.0, 6.0])
    seen = []

    def validate():
        seen.append(m.weight.clone())
        return {"kl": next(values)}

    curve = fit(latent, m, steps=3, validation=training.Validation(validate, every=1, select="kl"))
    assert [r["validation kl"] for r in curve] == [5, 3, 4, 6]
    assert torch.equal(m.weight, seen[1]) and not torch.equal(seen[1], seen[3])


def test_stop_and_zero_steps():
    m = linear()
    latent = latents.Latent({"a": m}, partial(latents.Full, quantizer=Q))
    before = m.weight.clone()
    assert fit(latent, m, steps=0) == [] and torch.equal(m.weight, before)
    assert len(fit(latent, m, steps=9, stop=lambda curve: len(curve) == 3)) == 3


def test_epochs_visit_everything_once():
    batches = training.epochs(10, 4, torch.Generator().manual_seed(0))
    seen = [i for _ in range(5) for i in next(batches)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


def test_a_batch_is_handed_out_shortest_first():
    lengths = [5, 9, 1, 7, 3, 2, 8, 4, 6, 10]
    draw = lambda **k: training.epochs(10, 4, torch.Generator().manual_seed(0), **k)  # noqa: E731
    plain, by_length = draw(), draw(lengths=lengths)
    for _ in range(5):
        a, b = next(plain), next(by_length)
        assert sorted(a) == sorted(b) and [lengths[i] for i in b] == sorted(lengths[i] for i in a)


def test_schedule_by_hand():
    assert [training.schedule(s, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1] and training.schedule(0, 0) == 1


def test_bad_input():
    m = linear()
    latent = latents.Latent({"a": m}, partial(latents.Full, quantizer=None))
    with pytest.raises(ValueError, match="lr > 0"):
        fit(latent, m, lr=0)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        training.fit(latent, training.epochs(12, 4, torch.Generator()), lambda i: (m(X[list(i)]).sum() * torch.nan, {}),
                     training.AdamW(1.0, 1, 1.0), steps=1, micro=4, desc="arm")  # fmt: skip


def test_a_cosine_falls_to_a_tenth_at_its_horizon():
    """SEA: peak 5e-7, warm-up 12 of 390 steps. The notes count from 0 at the start, we from the first step's own
    rate."""
    rate = lambda step: 5e-7 * training.schedule(step, 12, 390)  # noqa: E731
    assert [rate(t) for t in (5, 12, 100, 200, 390, 500)] == pytest.approx(
        [2.5e-7, 5e-7, 4.4245761e-7, 2.7686997e-7, 5e-8, 5e-8], rel=1e-6
    )
    assert training.schedule(500, 12) == 1


class Broken(torch.autograd.Function):
    """x, with a gradient that is not finite in the rows named: a loss that looks healthy."""

    @staticmethod
    def forward(ctx, x, value):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, ctx.value), None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "make",
    [
        partial(latents.Full, quantizer=None),
        partial(latents.Full, quantizer=Q),
        partial(latents.LoRA, quantizer=Q, rank=2, alpha=4, generator=torch.Generator().manual_seed(0)),
    ],
)
def test_a_gradient_that_is_not_finite_stops_the_step_by_name(make, value):
    a, b = linear(), linear()
    latent = latents.Latent({"layer a": a, "layer b": b}, make)
    stepper = training.Stepper(latent, training.AdamW(0.1, 1, 1.0))

    def loss(bad):
        return lambda i: ((a(X[i]) + (Broken.apply(b(X[i]), value) if bad else b(X[i])) - Y[i]).square().sum(), {})

    stepper.step(range(4), loss(False), micro=2, desc="an arm")
    before, state = latent.snapshot(), stepper.state()
    words = r"an arm, step 2: the gradient of layer b is not finite \(\d of \d are\); no step was taken"
    with pytest.raises(FloatingPointError, match=words):
        stepper.step(range(4), loss(True), micro=2, desc="an arm")
    assert all(torch.equal(x, y) for x, y in zip(latent.snapshot(), before)) and stepper.done == state["done"] == 1
    assert all(p.grad is None for p in latent.parameters) and not any(m.weight.requires_grad for m in (a, b))
    stepper.step(range(4), loss(False), micro=2, desc="an arm")
    assert all(torch.isfinite(p).all() for p in latent.parameters)


def test_a_step_that_failed_leaves_no_gradient_for_the_next():
    ends = []
    for fails in (False, True):
        m = linear()
        stepper = training.Stepper(
            latents.Latent({"w": m}, partial(latents.Full, quantizer=None)), training.AdamW(0.1, 1, 1.0)
        )
        half = lambda i, m=m: (loss_of(m)(i)[0] * (float("nan") if 2 in i else 1), {})  # noqa: E731
        if fails:
            with pytest.raises(FloatingPointError, match="arm: the loss is nan at step 1"):
                stepper.step(range(4), half, micro=2, desc="arm")
        stepper.step(range(4, 8), loss_of(m), micro=2)
        ends.append(m.weight.clone())
    torch.testing.assert_close(*ends)


def test_fit_stops_too_and_huge_gradients_are_clipped():
    m = linear()
    latent = latents.Latent({"w": m}, partial(latents.Full, quantizer=None))
    batches = training.epochs(12, 4, torch.Generator().manual_seed(0))
    how, more = training.AdamW(0.1, 1, 1.0), dict(steps=2, micro=4, desc="orpo")
    with pytest.raises(FloatingPointError, match="orpo, step 1: the gradient of w is not finite"):
        training.fit(latent, batches, lambda i: (Broken.apply(m(X[i]), float("nan")).sum(), {}), how, **more)
    curve = training.fit(latent, batches, lambda i: (m(X[i]).sum() * 1e12, {}), how, **more)
    assert curve[-1]["gradient norm"] > 1e11 and torch.isfinite(m.weight).all()


def test_an_adapter_begins_alike_wherever_it_lies_and_batches_are_drawn_where_the_generator_is(monkeypatch):
    g = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    a = latents.LoRA(torch.zeros(6, 8), Q, rank=2, alpha=4.0, generator=g()).parameters[1]
    assert torch.equal(a, torch.empty(2, 8).uniform_(-(8**-0.5), 8**-0.5, generator=g()))
    real, asked = torch.randperm, []
    monkeypatch.setattr(torch, "randperm", lambda *x, device=None, **k: asked.append(device) or real(*x, **k))
    next(training.epochs(12, 4, g()))
    assert asked == [torch.device("cpu")]


def wide(kind, *, steps=12, stop=None):
    """Steps of a regression large enough for moments of a byte: (losses, the end, its stepper)."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 128, generator=g), torch.randn(64, 96, generator=g)
    m = nn.Linear(128, 96, bias=False).requires_grad_(False)
    m.weight.copy_(torch.randn(96, 128, generator=g) / 11)
    objective = lambda i: (((m(x[list(i)]) - y[list(i)]) ** 2).sum(), {})  # noqa: E731
    latent = latents.Latent({"a": m}, partial(latents.Full, quantizer=None))
    stepper = training.Stepper(latent, training.AdamW(3e-3, 2, 1e9, kind=kind))
    half, rows = None, []
    for k in range(steps):
        if k == stop:
            half = stepper.state()
        rows.append(stepper.step(range(64), objective, micro=64)["loss"])
    if half:
        end = m.weight.clone()
        stepper.restore(half)
        for _ in range(steps - stop):
            stepper.step(range(64), objective, micro=64)
        assert torch.equal(m.weight, end)
    return rows, m.weight.clone(), stepper


def size_of(stepper):
    return sum(x.nbytes for s in stepper.optimizer.state.values() for k, x in s.items() if k[:4] in ("stat", "absm"))


def test_moments_of_a_byte_follow_those_of_float32_in_a_quarter_of_the_room(tmp_path):
    (plain, full, _), (rows, small, stepper) = wide("none"), wide("8bit", stop=5)
    assert rows[0] == plain[0] and rows[-1] == pytest.approx(plain[-1], rel=0.02) and plain[-1] < 0.8 * plain[0]
    start = wide("none", steps=0)[1]
    assert not torch.equal(small, full) and (small - full).norm() < 0.1 * (full - start).norm()
    weights = 96 * 128
    assert size_of(stepper) == pytest.approx(8 * weights / 4, rel=0.05)
    checkpoint.save(tmp_path / "s.safetensors", stepper.state())  # as `phases` keeps it
    stepper.restore(checkpoint.load(tmp_path / "s.safetensors"))
    assert size_of(stepper) == pytest.approx(8 * weights / 4, rel=0.05)


@pytest.mark.parametrize(("kind", "words"), [
    ("adam8", "^the optimizer is none, 8bit or paged-8bit, given 'adam8'"),
    ("paged-8bit", "^paged-8bit pages moments out of a GPU"),
])  # fmt: skip
def test_an_optimizer_that_cannot_work_is_refused(kind, words):
    with pytest.raises(ValueError, match=words):
        wide(kind, steps=0)
