"""Whole arms on the tiny model."""

import pytest
import torch

from lib.studies.mrpo import arms, experiments, measures, reference_models, scores, tasks, training


def test_the_base_is_exactly_itself_however_it_was_batched(world, monkeypatch, picks):
    plain, noise = scores.score, torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        scores, "score", lambda *a: (x := plain(*a)) + torch.randn(x.shape, generator=noise)
    )  # what another batching does in bfloat16
    for name, seed in (("plain", 6), ("direct", 9)):
        chosen = picks(n=seed)
        experiments.run_arm(world, "base", ["base"], tasks.Task(name, chosen, chosen, chosen, chosen))
    m = world.run.record().metrics()
    assert (
        m[m.metric.isin(["accuracy, primary reference", "margin, nats"])].value == 0
    ).all() and m.dataset.nunique() == 2


def test_every_arm_on_a_scarce_task(world):
    """The whole loop at toy size: references made, every arm trained from the same start with the same steps,
    everything recorded."""
    import collections

    world.splits["validation"], world.pieces["validation"], world.tokens["validation"] = (
        x["test"] for x in (world.splits, world.pieces, world.tokens)
    )
    Cfg = collections.namedtuple("Cfg", "n_scarce n_abundant n_reference n_heldout seed")
    t = tasks.of_reward(world.splits, "plain", Cfg(6, 6, 4, 6, 0), scarce=False)
    assert {p.category for p in world.splits["train"].prompts} and len(t.train) == 6 and len(t.validation) == 3
    reference_models.make(world, t)
    names = ["base", "complementary"]
    for arm in [*world.cfg.items_of("arms"), *world.cfg.items_of("ablations")]:
        curve = experiments.run_arm(world, arm, names, t, samples=arm == "mrpo")
        assert len(curve) == (0 if arm == "base" else training.steps(world, 6))
    m = world.run.record().metrics()
    accuracy = m[m.metric == "accuracy, primary reference"].set_index("arm").value
    assert set(accuracy.index) == set(arms.ARMS) and accuracy["base"] == 0 and accuracy.between(0, 1).all()
    items = world.run.record().items()
    assert {"KL to base", "KL to complementary", "true reward"} <= set(items[items.arm == "mrpo"].metric)
    assert experiments.run_arm(world, "mrpo-swapped", ["base", "complementary", "equal"], t) == []


def test_a_foreign_reference_counts_its_own_tokens_and_outlives_a_task(world, picks):
    chosen = picks()
    for split in world.splits:
        world.matrices["other model", split] = scores.matrix(world, "base", split) - 1
        world.counts["other model", split] = world.tokens[split] * 2
    table = scores.table(world, ["base", "other model"], "train", chosen)
    assert torch.allclose(table.chosen[1], table.chosen[0] - 1) and torch.equal(
        table.chosen_tokens[1], 2 * table.chosen_tokens[0]
    )
    t = tasks.Task("plain", chosen, chosen, chosen, picks())
    for part in (world.splits, world.pieces, world.tokens):
        part["validation"] = part["train"]
    for store in (world.matrices, world.counts):
        store["other model", "validation"] = store["other model", "train"]
    reference_models.make(world, t)
    for arm in ("single", "multi-dpo", "geometric", "mrpo", "mrpo-vaw", "mrpo-normalized"):
        assert len(
            experiments.run_arm(world, arm, ["base", "other model"], t, label=f"{arm}, other model")
        ) == training.steps(world, 6)
    measures.concentration(world, t, ["other model"])
    assert ("weights", "other model") in set(
        zip(world.run.record().metrics().exhibit, world.run.record().metrics().arm)
    )


@pytest.mark.parametrize("arm, whole", [("mrpo-swcw", True), ("mrpo-tsw", True), ("mrpo", False), ("dpo", False)])
def test_arms_that_look_at_the_batch_before_get_it_whole(world, picks, monkeypatch, arm, whole):
    seen = []
    monkeypatch.setattr(experiments, "fit", lambda *a, **how: seen.append(how["whole"]) or [])
    world.weights["complementary"] = world.weights["base"]
    chosen = picks()
    t = tasks.Task("plain", chosen, chosen, chosen, chosen)
    experiments._train(world, experiments.ARMS[arm], arm, ["base", "complementary"], t, 1e-3)
    assert seen == [whole]
