"""The losses of the arms on the tiny model."""

from functools import partial

import numpy as np
import pytest
import torch

from lib import losses
from lib.harness import presets
from lib.losses import references
from lib.studies.mrpo import arms, candidates, scores, tasks, training
from lib.studies.mrpo.world import snapshot


def test_arms_start_equal_and_differ_by_their_loss_alone(world, picks):
    chosen = picks()
    world.weights["complementary"] = {k: v + 0.02 * torch.randn_like(v) for k, v in world.weights["base"].items()}
    t = scores.table(world, ["base", "complementary"], "train", chosen)
    a = references.arwc(t.chosen - t.rejected)
    ref = references.combine(t.chosen, t.rejected, a, mean="harmonic", epsilon=0.1, adaptive=True)
    multi = lambda w, l, i: references.multi_dpo(w, l, t.chosen[:, i], t.rejected[:, i], a[:, i], beta=0.1)  # noqa: E731
    mrpo = lambda w, l, i: losses.dpo(w, l, ref[0][i], ref[1][i], beta=0.1)  # noqa: E731
    ends = []
    for loss in (multi, mrpo):
        training.fit(world, chosen, loss, lr=1e-3, steps=3, desc="x")
        ends.append(snapshot(world.linears))
    assert any(not torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
    teacher = training.Teacher(training.chosen_states(world, "complementary", chosen), 1.0)
    plain = partial(losses.dpo, beta=0.1)
    zero = lambda w, l, i: plain(w, l, w.detach(), l.detach())  # noqa: E731
    world.weights["start"] = world.weights["base"]
    curve = training.fit(world, chosen, zero, lr=1e-3, steps=2, desc="kd", teacher=teacher)
    assert curve[0]["loss"] > np.log(2) + 1e-3  # the KL is there


def test_one_reference_makes_every_virtual_arm_dpo(world, picks):
    chosen = picks()
    t = tasks.Task("plain", chosen, chosen, chosen, picks())
    world.splits["validation"], world.tokens["validation"], world.pieces["validation"] = (
        x["train"] for x in (world.splits, world.tokens, world.pieces)
    )
    w, l = arms.reference(world, arms.ARMS["dpo"], ["base"], "train", chosen, chosen)
    for arm, spec in arms.ARMS.items():
        if spec.kind == "virtual" and not spec.swap:
            a, b = arms.reference(world, spec, ["base"], "train", chosen, chosen)
            n = candidates.gather(world.tokens["train"], chosen) if spec.normalized else (1, 1)
            assert torch.allclose(a * n[0], w) and torch.allclose(b * n[1], l), arm
    pi = torch.randn(2, 6) - 20
    want = arms.loss(world, arms.ARMS["dpo"], ["base"], t)(*pi, list(range(6))).loss
    assert torch.allclose(
        arms.loss(world, arms.ARMS["multi-dpo"], ["base"], t)(*pi, list(range(6))).loss, want, atol=1e-5
    )


def test_arms_are_those_of_the_settings():
    settings = presets.settings("mrpo")
    assert set(arms.ARMS) == set(settings["arms"].allowed) == set(settings["ablations"].allowed)


def test_the_sliding_window_weighs_by_the_batch_before(world, picks):
    chosen = picks()
    world.weights["complementary"] = {k: v + 0.02 * torch.randn_like(v) for k, v in world.weights["base"].items()}
    t, names = tasks.Task("plain", chosen, chosen, chosen, chosen), ["base", "complementary"]
    table, pi = scores.table(world, names, "train", chosen), torch.randn(2, 3) - 20
    for arm, one_hot in (("mrpo-swcw", False), ("mrpo-swcw-onehot", True)):
        loss = arms.loss(world, arms.ARMS[arm], names, t)
        first, second = loss(*pi, [0, 1, 2]).loss, loss(*pi, [3, 4, 5]).loss
        margins = (table.chosen - table.rejected)[:, [0, 1, 2]]
        for got, i, a in (
            (first, [0, 1, 2], references.swcw(None, 2, one_hot=one_hot)),
            (second, [3, 4, 5], references.swcw(margins, 2, one_hot=one_hot)),
        ):
            w, l = references.combine(
                table.chosen[:, i], table.rejected[:, i], a, mean="harmonic", epsilon=0.1, adaptive=True
            )
            assert torch.allclose(got, losses.dpo(*pi, w, l, beta=world.cfg.beta).loss)


def test_thompson_takes_one_reference_a_step_and_learns_from_validation(world, monkeypatch, picks):
    for part in (world.splits, world.pieces, world.tokens):
        part["validation"] = part["test"]
    chosen = picks()
    world.weights["complementary"] = {k: v + 0.02 * torch.randn_like(v) for k, v in world.weights["base"].items()}
    t, names = tasks.Task("plain", chosen, chosen, picks(), chosen), ["base", "complementary"]
    table, pi = scores.table(world, names, "train", chosen), torch.randn(2, 6) - 20
    single = [losses.dpo(*pi, table.chosen[k], table.rejected[k], beta=world.cfg.beta).loss for k in range(2)]
    seen = []
    raised = lambda w, split, part: seen.append(len(part)) or float(len(seen) % 2 == 0)  # noqa: E731 every step raises it
    monkeypatch.setattr(scores, "accuracy", raised)
    loss = arms.loss(world, arms.ARMS["mrpo-tsw"], names, t)
    for _ in range(5):
        got = loss(*pi, list(range(6))).loss
        assert any(torch.allclose(got, s) for s in single)
    assert len(seen) == 9 and set(seen) == {1}  # a quarter of six, before every step and after all but the last


def test_a_normalized_arm_starts_at_ln_two_against_equal_references(world, picks):
    chosen = picks()
    world.weights["complementary"] = world.weights["base"]
    t = tasks.Task("plain", chosen, chosen, chosen, chosen)
    curve = training.fit(
        world,
        chosen,
        arms.loss(world, arms.ARMS["mrpo-normalized"], ["base", "complementary"], t),
        lr=1e-3,
        steps=1,
        desc="x",
    )
    assert curve[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
