"""What is measured of a policy on the tiny model."""

import pytest
import torch

from lib import data
from lib.losses import references
from lib.studies.mrpo import candidates, measures, scores, tasks


def test_what_is_measured(world, picks):
    chosen = picks()
    table, policy = scores.table(world, ["base"], "test", chosen), scores.matrix(world, "base", "test")
    measures.measure(
        world, "base", "plain", chosen, table=table, own=(table.chosen[0], table.rejected[0]), policy=policy
    )
    measures.generated(world, "base", tasks.Task("plain", chosen, chosen, chosen, chosen), to=["base"])
    m = world.run.record().metrics().set_index("metric").value
    assert m["accuracy, own reference"] == m["accuracy, primary reference"] == 0 and m["margin, nats"] == 0
    w, l = candidates.gather(policy, chosen)
    assert m["accuracy, reference-free sum"] == pytest.approx((w > l).double().mean().item())
    items = world.run.record().items()
    assert items[items.metric == "KL to base"].value.abs().max() < 1e-3 and set(
        items[items.dataset == "samples plain"].metric
    ) == {"true reward", "length", "KL to base"}


def test_a_normalized_method_is_measured_per_token_on_both_sides(world, picks):
    """Policy -30 and -12, lengths 20 and 5, the reference -2 a token: (-1.5 + 2) - (-2.4 + 2) = 0.9, a hit."""
    chosen = picks()[:1]
    one = torch.ones(1)
    table = references.Table(*(x * one[None] for x in (-40.0, -10.0, 20.0, 5.0)))
    policy = torch.zeros(len(world.splits["test"].prompts), len(world.splits["test"].texts[0]))
    policy[chosen[0].row, chosen[0].chosen], policy[chosen[0].row, chosen[0].rejected] = -30.0, -12.0
    for arm, normalized, own in (("a", True, -2 * one), ("b", False, -2 * one)):
        measures.measure(world, arm, "x", chosen, table=table, own=(own, own), policy=policy, normalized=normalized)
    m = world.run.record().metrics()
    assert m[m.metric == "accuracy, own reference"].set_index("arm").value.to_dict() == {"a": 1.0, "b": 0.0}


def test_weights_of_the_rules_on_a_second_reference_are_recorded(world, picks):
    for part in (world.splits, world.pieces, world.tokens):
        part["validation"] = part["test"]
    world.weights["complementary"] = {k: v + 0.02 * torch.randn_like(v) for k, v in world.weights["base"].items()}
    t = tasks.Task("plain", picks(), picks(), picks(), picks())
    measures.concentration(world, t, ["complementary", "mis-scored"])
    m = world.run.record().metrics()
    assert (
        set(zip(m.arm, m.metric)) == {(s, r) for s in ("complementary", "mis-scored") for r in ("arwc", "vdw", "vaw")}
        and m.value.between(0, 1).all()
    )


def test_preferences_of_people(world):
    ask = lambda text, *answers: data.Comparison(({"role": "user", "content": text},), *answers)  # noqa: E731
    pairs = [ask("Say hi.", "hi there", "no"), ask("Add.", "four", "five")]
    measures.transfer(world, "base", "people", pairs)
    items = world.run.record().items()
    assert len(items) == 4 and set(items.dataset) == {"transfer people"} and set(items.value) <= {0.0, 1.0}
