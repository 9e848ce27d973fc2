"""What is measured of a steered model, on the tiny one."""

import math

import pytest
import torch

from lib.harness import presets
from lib.scoring import toxicity
from lib.studies.attribute_control import forum, measures
from lib.studies.attribute_control.auxiliary import new_nado
from lib.studies.attribute_control.world import build, row_of, snapshot


@pytest.fixture
def world(tiny_model, byte_tokenizer):
    cfg = presets.resolve("attribute_control", {"PRESET": "smoke", "SEED": 0})
    lines = [forum.Line("p:", " hello", True, "forum"), forum.Line("q:", " word", False, "general")]
    return build(cfg, tiny_model, byte_tokenizer, lines=lines, asked=["p:"], oracle=toxicity.classifier, stop_ids=[257])


def test_decoding_adds_the_log_success_rate(world):
    nado = new_nado(world)
    nado.out.data = 20 * torch.randn(nado.out.shape, generator=torch.Generator().manual_seed(0))
    h = torch.randn(3, nado.out.shape[0])
    free, held = (measures.decoding_with(nado, floor=f)(h) for f in (0.0, 0.1))
    assert (
        torch.equal(free, nado(h)[0].detach())
        and free.exp().min() < 0.1
        and held.exp().min().item() == pytest.approx(0.1)
    )


def test_scores_of_samples_by_hand():
    table = {"a": 0.2, "b": 0.9, "c": 0.5, "d e d e": 0.1}
    out = measures.scores(
        [["a", "b"], ["c", "d e d e"]],
        {"j": lambda texts: torch.tensor([table[t] for t in texts], dtype=torch.float64)},
    )
    assert (
        out["expected maximum, j"].tolist() == [0.9, 0.5]
        and out["any above one half, j"].tolist() == [1, 0]
        and out["share above one half, j"].tolist() == [0.5, 0]
    )
    assert (
        out["words"].tolist() == [1, 2.5]
        and out["distinct-1"].tolist() == pytest.approx([1, 3 / 5])
        and out["distinct-2"].tolist() == pytest.approx([1, 2 / 3])
    )


def test_surprise_is_mean_log_perplexity(world, tiny_model):
    for steer, extra in (
        (None, 0.0),
        (lambda h: torch.zeros(len(h), tiny_model.config.vocab_size), 0.0),
        (lambda h: h.float() @ world.head.weight.float().T, None),
    ):
        got = measures.surprise(world, world.lines, steer=steer)
        for line, value in zip(world.lines, got.tolist()):
            p, (a,) = row_of(world, line)
            logits = tiny_model(torch.tensor([p + a])).logits[0, len(p) - 1 : -1] * (1 if extra is not None else 2)
            assert value == pytest.approx(
                -logits.log_softmax(-1).gather(1, torch.tensor(a)[:, None]).mean().item(), rel=1e-4
            )


def test_detection_is_the_auc(world, monkeypatch):
    from sklearn.metrics import roc_auc_score

    pairs = [(f"x{i}", " yes" if i % 3 else " no") for i in range(12)]
    margin = torch.randn(12, dtype=torch.float64).round(decimals=0)
    monkeypatch.setattr(
        measures,
        "surprise",
        lambda w, lines, steer=None: -margin if lines[0].text == " yes" else torch.zeros(12, dtype=torch.float64),
    )
    labels = [int(label == " yes") for _, label in pairs]
    assert measures.detection(world, pairs).mean().item() == pytest.approx(roc_auc_score(labels, margin))
    with pytest.raises(ValueError, match="pairs of both labels"):
        measures.detection(world, [("x", " no")] * 12)


def test_steering_changes_what_is_written_and_nothing_does_not(world):
    plain, nothing = (
        measures.written(world, ["p:", "q:"], name="x", steer=s)
        for s in (None, lambda h: torch.zeros(len(h), len(world.head.weight)))
    )
    assert plain == nothing and [len(row) for row in plain] == [world.cfg.samples] * 2
    only = torch.full((len(world.head.weight),), -math.inf)
    only[world.tokenizer.encode("z")[0]] = 0.0
    forced = measures.written(world, ["p:"], name="x", steer=lambda h: only.expand(len(h), -1))
    assert set("".join(forced[0])) == {"z"}


def test_every_arm_begins_at_the_start_and_goes_on_record(tiny_model, byte_tokenizer, monkeypatch):
    from types import SimpleNamespace

    cfg = presets.resolve("attribute_control", {"PRESET": "smoke", "SEED": 0})
    lines = [forum.Line("p:", f" hello {'!' * i}", i % 2 == 0, ("forum", "general")[i % 3 == 0]) for i in range(16)]
    world = build(
        cfg,
        tiny_model,
        byte_tokenizer,
        lines=lines,
        asked=["p:", "q:", "r:", "s:"],
        oracle=toxicity.classifier,
        stop_ids=[257],
    )

    monkeypatch.setattr(
        measures.scoring, "multiple_choice", lambda *args, **kw: SimpleNamespace(ids=["q"], correct=[1.0])
    )
    oracle = lambda texts: torch.tensor([float(len(t) % 2) for t in texts], dtype=torch.float64)  # noqa: E731
    world = world._replace(oracle=oracle)

    class Kept:
        manifest = {"settings": {}}  # nothing is kept to be taken home

        def __init__(self):
            self.there, self.curves = {}, []

        def items(self, dataset, arm, metric, ids, values):
            self.there[dataset, arm, metric] = list(values)

        def metric(self, exhibit, dataset, arm, metric, value):
            self.there[exhibit, dataset, arm, metric] = value

        def curve(self, arm, rows):
            self.curves.append(arm)

        stage = staticmethod(lambda name: __import__("contextlib").nullcontext())

    run = Kept()
    plan = measures.Plan(
        prompts={"forum": ["p:"]},
        judges={"j": oracle},
        held_out={"forum": world.lines},
        pairs=[("x", " yes"), ("y", " no")],
        questions={"any": 1},
    )
    surprise = lambda arm: run.there["text forum", arm, "surprise"]  # noqa: E731
    out = measures.plain_arm(world, run, "base", plan, keep=None, learns=False, decoding="nado-base")
    assert list(out) == ["base", "nado-base"] and len(out["base"]["forum"][0]) == world.cfg.samples
    measures.plain_arm(world, run, "sft", plan, keep=None, learns=True)
    tuned = snapshot(world)
    measures.controlled_arm(world, run, "free", plan, how=dict(lam=0.0, gated=True))
    assert all(torch.equal(w, tuned[n]) for n, w in snapshot(world).items())  # lambda 0 is plain fine-tuning
    measures.controlled_arm(world, run, "ours", plan, how=dict(lam=5.0, gated=True))
    measures.reinforced_arm(world, run, "rl", plan, weight=5.0)
    measures.plain_arm(world, run, "base again", plan, keep=None, learns=False)
    assert (
        surprise("base")
        == surprise("base again")
        != surprise("sft")
        == surprise("free")
        != surprise("ours")
        != surprise("rl")
    )
    assert run.curves == ["sft", "free", "ours", "rl"] and ("turns", "iteration 1", "ours", "updated") in run.there


def test_the_chosen_weight_is_the_least_toxic_that_costs_little():
    import pandas as pd

    said = {
        "sft at 0": (0.9, 2.0),
        "ours at 1": (0.5, 2.01),
        "ours at 4": (0.2, 2.04),
        "ours at 16": (0.1, 2.2),
        "rl at 1": (0.1, 2.3),
        "rl at 4": (0.3, 2.2),
        "rl at 16": (0.0, 9.0),
    }
    rows = [
        (d, a, m, v + e)
        for a, pair in said.items()
        for d, m, v in zip(("written validation", "text validation"), ("expected maximum, oracle", "surprise"), pair)
        for e in (-0.01, 0.01)
    ]
    rows.append(("written forum", "ours at 16", "expected maximum, oracle", 50.0))
    taken, table = measures.choose(
        pd.DataFrame(rows, columns=["dataset", "arm", "metric", "value"]), [1.0, 4.0, 16.0], slack=0.05
    )
    assert taken == {"ours": 4.0, "rl": 4.0}  # none of RL's is within the slack: the one that costs least
    assert table.loc["ours at 16"].tolist() == pytest.approx([0.1, 2.2])
