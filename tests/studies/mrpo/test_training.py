"""The steps of a policy or a reference."""

import numpy as np
import pytest
import torch

from lib import losses
from lib.harness import presets
from lib.studies.mrpo import scores, training
from lib.studies.mrpo.world import load, snapshot


def test_references_are_kept_and_the_model_put_back(world, tiny_model, picks):
    logits = lambda: tiny_model(torch.tensor([[5, 6, 7]])).logits  # noqa: E731
    start, chosen = logits(), picks()
    loss = lambda w, l, i: losses.dpo(w, l, *(x[0, i] for x in table[:2]), beta=0.1)  # noqa: E731
    table = scores.table(world, ["base"], "train", chosen)
    curve = training.fit(world, chosen, loss, lr=1e-2, steps=4, desc="complementary")
    assert curve[0]["loss"] == pytest.approx(np.log(2), abs=1e-4) and curve[-1]["loss"] < curve[0]["loss"]
    world.weights["complementary"] = snapshot(world.linears)
    tuned = logits()
    assert not torch.allclose(tuned, start)
    assert torch.allclose(scores.matrix(world, "base", "test"), scores.matrix(world, "base", "test")) and torch.equal(
        logits(), tuned
    )
    load(world, world.weights["base"])
    assert torch.equal(logits(), start)
    wrong, right = scores.matrix(world, "mis-scored", "test"), scores.matrix(world, "complementary", "test")
    assert not torch.equal(wrong, right) and torch.equal(wrong.flatten().sort().values, right.flatten().sort().values)
    states = training.chosen_states(world, "complementary", chosen)
    assert torch.equal(logits(), start) and [len(s) for s in states] == [
        len(world.splits["train"].answers[c.row][c.chosen]) for c in chosen
    ]


def test_micro_batches_change_no_arm_and_a_loss_of_whole_batches_gets_them(world, picks):
    chosen, ends, sizes = picks(8), {}, {}
    for micro, whole in ((1, False), (4, False), (1, True), (0, False)):
        cfg, seen = presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 0, "MICRO": micro}), []
        if not micro:
            cfg.choose(micro=3)  # what the machine was left to choose

        def loss(w, l, i, seen=seen):
            seen.append(len(i))
            return losses.dpo(w, l, torch.full_like(w, -9.0), torch.full_like(l, -9.0), beta=0.1)

        training.fit(world._replace(cfg=cfg), chosen, loss, lr=1e-3, steps=3, desc="x", whole=whole)
        ends[micro, whole], sizes[micro, whole] = snapshot(world.linears), seen
    assert (
        sizes[0, False] == [3, 1] * 3 and sizes[1, False] == [1] * 12 and sizes[4, False] == sizes[1, True] == [4] * 3
    )
    for other in ((4, False), (1, True), (0, False)):
        for name, w in ends[1, False].items():
            torch.testing.assert_close(w, ends[other][name], rtol=1e-4, atol=1e-6)
