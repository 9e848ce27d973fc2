"""The arms of the MRPO study on the tiny model."""

from functools import partial

import numpy as np
import pytest
import torch

from lib import data, losses
from lib.harness import presets
from lib.losses import references
from lib.studies.mrpo import arms, candidates, multi_reference
from lib.studies.mrpo.candidates import Choice


def picks(world, split="train", n=6):
    rng = np.random.default_rng(0)
    return [Choice(int(r), int(a), int((a + 1) % 4), 1.0) for r, a in zip(rng.integers(0, 4, n), rng.integers(0, 4, n))]


def test_arms_start_equal_and_differ_by_their_loss_alone(world):
    chosen = picks(world)
    world.weights["complementary"] = {k: v + 0.02 * torch.randn_like(v) for k, v in world.weights["base"].items()}
    t = world.table(["base", "complementary"], "train", chosen)
    a = references.arwc(t.chosen - t.rejected)
    ref = references.combine(t.chosen, t.rejected, a, mean="harmonic", epsilon=0.1, adaptive=True)
    multi = lambda w, l, i: references.multi_dpo(w, l, t.chosen[:, i], t.rejected[:, i], a[:, i], beta=0.1)  # noqa: E731
    mrpo = lambda w, l, i: losses.dpo(w, l, ref[0][i], ref[1][i], beta=0.1)  # noqa: E731
    ends = []
    for loss in (multi, mrpo):
        world.fit(chosen, loss, lr=1e-3, steps=3, desc="x")
        ends.append(world.snapshot())
    assert any(not torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
    teacher = world.chosen_states("complementary", chosen)
    plain = partial(losses.dpo, beta=0.1)
    zero = lambda w, l, i: plain(w, l, w.detach(), l.detach())  # noqa: E731
    world.weights["start"] = world.weights["base"]
    curve = world.fit(chosen, zero, lr=1e-3, steps=2, desc="kd", teacher=teacher, teacher_weight=1.0)
    assert curve[0]["loss"] > np.log(2) + 1e-3  # the KL is there


def test_what_is_measured(world):
    chosen = picks(world)
    table, policy = world.table(["base"], "test", chosen), world.score("test")
    world.measure("base", "plain", chosen, table=table, own=(table.chosen[0], table.rejected[0]), policy=policy)
    world.generated("base", multi_reference.Task("plain", chosen, chosen, chosen, chosen), to=["base"])
    m = world.run.record().metrics().set_index("metric").value
    assert m["accuracy, own reference"] == m["accuracy, primary reference"] == 0 and m["margin, nats"] == 0
    w, l = candidates.gather(policy, chosen)
    assert m["accuracy, reference-free sum"] == pytest.approx((w > l).double().mean().item())
    items = world.run.record().items()
    assert items[items.metric == "KL to base"].value.abs().max() < 1e-3 and set(
        items[items.dataset == "samples plain"].metric
    ) == {"true reward", "length", "KL to base"}


def test_the_base_is_exactly_itself_however_it_was_batched(world, monkeypatch):
    plain, noise = world.score, torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        world, "score", lambda *a: (x := plain(*a)) + torch.randn(x.shape, generator=noise)
    )  # what another batching does in bfloat16
    for name, seed in (("plain", 6), ("direct", 9)):
        chosen = picks(world, n=seed)
        world.run_arm("base", ["base"], multi_reference.Task(name, chosen, chosen, chosen, chosen))
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
    t = multi_reference.task(world.splits, "plain", Cfg(6, 6, 4, 6, 0), scarce=False)
    assert {p.category for p in world.splits["train"].prompts} and len(t.train) == 6 and len(t.validation) == 3
    world.make_references(t)
    names = ["base", "complementary"]
    for arm in [*world.cfg.items_of("arms"), *world.cfg.items_of("ablations")]:
        curve = world.run_arm(arm, names, t, samples=arm == "mrpo")
        assert len(curve) == (0 if arm == "base" else world.steps(6))
    m = world.run.record().metrics()
    accuracy = m[m.metric == "accuracy, primary reference"].set_index("arm").value
    assert set(accuracy.index) == set(arms.ARMS) and accuracy["base"] == 0 and accuracy.between(0, 1).all()
    items = world.run.record().items()
    assert {"KL to base", "KL to complementary", "true reward"} <= set(items[items.arm == "mrpo"].metric)
    assert world.run_arm("mrpo-swapped", ["base", "complementary", "equal"], t) == []


def test_one_reference_makes_every_virtual_arm_dpo(world):
    chosen = picks(world)
    t = multi_reference.Task("plain", chosen, chosen, chosen, picks(world, "test"))
    world.splits["validation"], world.tokens["validation"], world.pieces["validation"] = (
        x["train"] for x in (world.splits, world.tokens, world.pieces)
    )
    w, l = world.reference(arms.ARMS["dpo"], ["base"], "train", chosen, chosen)
    for arm, spec in arms.ARMS.items():
        if spec.kind == "virtual" and not spec.swap:
            a, b = world.reference(spec, ["base"], "train", chosen, chosen)
            n = candidates.gather(world.tokens["train"], chosen) if spec.normalized else (1, 1)
            assert torch.allclose(a * n[0], w) and torch.allclose(b * n[1], l), arm
    pi = torch.randn(2, 6) - 20
    want = world.loss(arms.ARMS["dpo"], ["base"], t)(*pi, list(range(6))).loss
    assert torch.allclose(world.loss(arms.ARMS["multi-dpo"], ["base"], t)(*pi, list(range(6))).loss, want, atol=1e-5)


def test_arms_are_those_of_the_settings():
    settings = presets.settings("mrpo")
    assert set(arms.ARMS) == set(settings["arms"].allowed) == set(settings["ablations"].allowed)


def test_the_sliding_window_weighs_by_the_batch_before(world):
    chosen = picks(world)
    world.weights["complementary"] = {k: v + 0.02 * torch.randn_like(v) for k, v in world.weights["base"].items()}
    t, names = multi_reference.Task("plain", chosen, chosen, chosen, chosen), ["base", "complementary"]
    table, pi = world.table(names, "train", chosen), torch.randn(2, 3) - 20
    for arm, one_hot in (("mrpo-swcw", False), ("mrpo-swcw-onehot", True)):
        loss = world.loss(arms.ARMS[arm], names, t)
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


def test_thompson_takes_one_reference_a_step_and_learns_from_validation(world):
    for part in (world.splits, world.pieces, world.tokens):
        part["validation"] = part["test"]
    chosen = picks(world)
    world.weights["complementary"] = {k: v + 0.02 * torch.randn_like(v) for k, v in world.weights["base"].items()}
    t, names = multi_reference.Task("plain", chosen, chosen, picks(world, "test"), chosen), ["base", "complementary"]
    table, pi = world.table(names, "train", chosen), torch.randn(2, 6) - 20
    single = [losses.dpo(*pi, table.chosen[k], table.rejected[k], beta=world.cfg.beta).loss for k in range(2)]
    seen = []
    world.accuracy = lambda split, part: seen.append(len(part)) or float(len(seen) % 2 == 0)  # every step raises it
    loss = world.loss(arms.ARMS["mrpo-tsw"], names, t)
    for _ in range(5):
        got = loss(*pi, list(range(6))).loss
        assert any(torch.allclose(got, s) for s in single)
    assert len(seen) == 9 and set(seen) == {1}  # a quarter of six, before every step and after all but the last


def test_a_normalized_arm_starts_at_ln_two_against_equal_references(world):
    chosen = picks(world)
    world.weights["complementary"] = world.weights["base"]
    t = multi_reference.Task("plain", chosen, chosen, chosen, chosen)
    curve = world.fit(
        chosen, world.loss(arms.ARMS["mrpo-normalized"], ["base", "complementary"], t), lr=1e-3, steps=1, desc="x"
    )
    assert curve[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)


def test_weights_of_the_rules_on_a_second_reference_are_recorded(world):
    for part in (world.splits, world.pieces, world.tokens):
        part["validation"] = part["test"]
    world.weights["complementary"] = {k: v + 0.02 * torch.randn_like(v) for k, v in world.weights["base"].items()}
    t = multi_reference.Task("plain", picks(world), picks(world), picks(world, "test"), picks(world, "test"))
    world.concentration(t, ["complementary", "mis-scored"])
    m = world.run.record().metrics()
    assert (
        set(zip(m.arm, m.metric)) == {(s, r) for s in ("complementary", "mis-scored") for r in ("arwc", "vdw", "vaw")}
        and m.value.between(0, 1).all()
    )


def test_a_foreign_reference_counts_its_own_tokens_and_outlives_a_task(world):
    chosen = picks(world)
    for split in world.splits:
        world.matrices["other model", split] = world.matrix("base", split) - 1
        world.counts["other model", split] = world.tokens[split] * 2
    table = world.table(["base", "other model"], "train", chosen)
    assert torch.allclose(table.chosen[1], table.chosen[0] - 1) and torch.equal(
        table.chosen_tokens[1], 2 * table.chosen_tokens[0]
    )
    t = multi_reference.Task("plain", chosen, chosen, chosen, picks(world, "test"))
    for part in (world.splits, world.pieces, world.tokens):
        part["validation"] = part["train"]
    for store in (world.matrices, world.counts):
        store["other model", "validation"] = store["other model", "train"]
    world.make_references(t)
    for arm in ("single", "multi-dpo", "geometric", "mrpo", "mrpo-vaw", "mrpo-normalized"):
        assert len(world.run_arm(arm, ["base", "other model"], t, label=f"{arm}, other model")) == world.steps(6)
    world.concentration(t, ["other model"])
    assert ("weights", "other model") in set(
        zip(world.run.record().metrics().exhibit, world.run.record().metrics().arm)
    )


def test_an_adapter_on_two_layers_of_every_block(world, tiny_model, byte_tokenizer):
    """How the paper trains: LoRA on the attention's queries and values, all blocks."""
    cfg = presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 0, "BLOCKS": 4, "RANK": 2, "TARGETS": "q_proj,v_proj"})
    study = arms.Study(cfg, world.run, tiny_model, byte_tokenizer, world.splits, stop_ids=[257])
    assert len(study.linears) == 8 and {n.rpartition(".")[2] for n in study.linears} == {"q_proj", "v_proj"}
    assert torch.allclose(study.score("test"), world.score("test"), atol=1e-4)
    chosen = picks(study)
    before = {n: p.clone() for n, p in tiny_model.named_parameters()}
    table = study.table(["base"], "train", chosen)
    loss = lambda w, l, i: losses.dpo(w, l, *(x[0, i] for x in table[:2]), beta=0.1)  # noqa: E731
    curve = study.fit(chosen, loss, lr=1e-2, steps=3, desc="x")
    assert curve[0]["loss"] == pytest.approx(np.log(2), abs=1e-4) and curve[-1]["loss"] < curve[0]["loss"]
    changed = {n for n, p in tiny_model.named_parameters() if not torch.equal(p, before[n])}
    assert len(changed) == 8 and all("q_proj" in n or "v_proj" in n for n in changed)
    for n in changed:
        difference = dict(tiny_model.named_parameters())[n] - before[n]
        assert torch.linalg.matrix_rank(difference, atol=1e-5) <= 2
    with pytest.raises(ValueError, match="no linear layer of the last 1 blocks is called query"):
        arms.Study(
            presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 0, "TARGETS": "query"}),
            world.run,
            tiny_model,
            byte_tokenizer,
            world.splits,
            stop_ids=[257],
        )


def test_preferences_of_people(world):
    ask = lambda text, *answers: data.Comparison(({"role": "user", "content": text},), *answers)  # noqa: E731
    pairs = [ask("Say hi.", "hi there", "no"), ask("Add.", "four", "five")]
    world.transfer("base", "people", pairs)
    items = world.run.record().items()
    assert len(items) == 4 and set(items.dataset) == {"transfer people"} and set(items.value) <= {0.0, 1.0}
