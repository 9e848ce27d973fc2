"""The steps of a policy or a reference."""

import numpy as np
import pytest
import torch

from lib import losses
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
