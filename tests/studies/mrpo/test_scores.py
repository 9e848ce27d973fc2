"""Log-probs of candidates in a world of references on the tiny model."""

import pytest
import torch

from lib.scoring.likelihood import completion_logprobs
from lib.studies.mrpo import candidates, scores


def test_scores_are_those_of_the_whole_model(world, tiny_model, picks):
    c = world.splits["test"]
    want = completion_logprobs(tiny_model, c.ids, *zip(*c.answers), batch=2)
    assert torch.allclose(scores.score(world, "test"), want, atol=1e-4)
    table = scores.table(world, ["base"], "test", picks())
    assert torch.allclose(table.chosen[0], candidates.gather(want, picks())[0], atol=1e-4)


def test_only_the_pairs_candidates_are_scored_and_they_score_as_all_do(world, picks):
    world.weights["complementary"] = {n: w + 0.01 for n, w in world.weights["base"].items()}
    chosen = picks(n=2)
    for name in ("complementary", "mis-scored"):
        part = scores.table(world, ["base", name], "train", chosen)
        known = world.matrices["complementary", "train"].isfinite()
        assert 0 < known.sum() < known.numel()
        world.matrices.pop(("complementary", "train"))
        whole = candidates.gather(scores.matrix(world, name, "train"), chosen)
        assert torch.allclose(part.chosen[1], whole[0], atol=1e-4) and torch.allclose(
            part.rejected[1], whole[1], atol=1e-4
        )
        world.matrices.pop(("complementary", "train"))


def test_accuracy_without_a_reference(world, picks):
    chosen = picks()
    w, l = candidates.gather(scores.score(world, "test"), chosen)
    n, m = candidates.gather(world.tokens["test"], chosen)
    assert scores.accuracy(world, "test", chosen) == pytest.approx((w / n > l / m).double().mean().item())
