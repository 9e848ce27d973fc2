"""The comparisons at toy size: both sides do the same work, and the table says what was measured."""

import subprocess

import pytest
import torch

from lib import models, speed
from lib.harness import index, presets, results
from lib.speed import limits, measure, ours, peers, work

BASE = dict(model="tiny-random", device="cpu", pairs=4, steps=2, prompt=10, answer=5, micro=2, trl_micro=2)
SAMPLE = dict(model="tiny-random", device="cpu", prompts=3, candidates=2, tokens=4, batch=2, their_batch=2)


def test_three_steps_lose_the_same_as_trl():
    spec = BASE | {"task": "dpo", "dtype": "float32", "lr": 1e-3}
    a, b = (measure.measure(spec | {"side": s}) for s in ("ours", "trl-precomputed"))
    assert a["losses"] == pytest.approx(b["losses"], abs=1e-4) and a["losses"][2] < a["losses"][0] - 0.01
    assert len(a["seconds"]) == len(b["seconds"]) == 2 and a["units"] == b["units"] == 4


@pytest.mark.parametrize("side", ["ours", "trl-precomputed"])
def test_lora_steps(side):
    out = measure.measure(BASE | {"task": "lora", "side": side})
    assert out["losses"][0] == pytest.approx(0.6931, abs=1e-2) and out["peak GB"] > 0


def test_lora_trains_what_peft_computes():
    model, _ = models.load("tiny-random", dtype=torch.float32)
    wrapped, latent = ours.lora(model)
    adapters = sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n)
    assert sum(p.numel() for p in latent.parameters) == adapters > 0
    assert all(p.dtype == torch.float32 for p in latent.parameters)


def test_scores_and_samples_agree_with_the_peer():
    a, b = (measure.measure(SAMPLE | {"task": "score", "side": s}) for s in ("ours", "transformers"))
    assert a["units"] == b["units"] == 6 and a["mean"] == pytest.approx(b["mean"], rel=0.01)
    for task, units in (("greedy", 12), ("sample", 24)):
        a, b = (measure.measure(SAMPLE | {"task": task, "side": s}) for s in ("ours", "transformers"))
        assert 0 < a["units"] <= units and 0 < b["units"] <= units
    parity = peers.greedy_parity("tiny-random", prompts=4, tokens=6, device="cpu").set_index("dtype")
    assert parity.loc["float32"].tolist() == [1.0, 1.0]


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task is one of dpo, lora, score, greedy, sample, given 'nap'"):
        measure.measure({"task": "nap", "side": "ours"})


def test_a_child_alternates_and_a_failing_one_says_why(monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, **k: asked.append(command[-1]) or Done('{"units": 2, "seconds": [0.5], "peak GB": 1}', 0))
    got = speed.compare("dpo", "ours", "trl", repeats=2, device="cpu")
    assert [("trl" in a) for a in asked] == [False, True, True, False] and got[1]["peer"]["units"] == 2
    assert speed.tune("dpo", "ours", "micro", [2, 4], device="cpu") == (2, {2: 4.0, 4: 4.0})
    monkeypatch.setattr(subprocess, "run", lambda command, **k: Done("", 1))
    with pytest.raises(RuntimeError, match="ours failed at dpo: the last line"):
        speed.tune("dpo", "ours", "micro", [2], device="cpu")


class Done:
    def __init__(self, stdout, code):
        self.stdout, self.stderr, self.returncode = stdout, "the last line", code


def test_operations_by_hand():
    model, _ = models.load("tiny-random", dtype=torch.float32)
    body, head = 4 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128), 258 * 64
    assert limits.train_flops(model, 2, 10, 5) == 2 * (20 * 6 * body + 10 * 4 * head)
    assert limits.trl_flops(model, 2, 10, 5, reference=False) == 2 * 30 * (6 * body + 4 * head)
    assert limits.trl_flops(model, 2, 10, 5, reference=True) == 2 * 30 * (8 * body + 6 * head)
    assert limits.decode_bytes(model, 3, 7) == 4 * (sum(p.numel() for p in model.parameters()) + 3 * 7 * 2 * 4 * 2 * 16)
    assert limits.step_profile(model, 2, 10, 5).sum() == pytest.approx(1)
    assert limits.matmul_peak("cpu", torch.float32, size=64, repeats=2) > 1e6 and limits.copy_bandwidth("cpu", gigabytes=0.001, repeats=2) > 1e6


def test_pairs_and_prompts_are_the_same_for_both():
    model, tokenizer = models.load("tiny-random", dtype=torch.float32)
    a, b = (work.token_pairs(model, 3, 10, 5) for _ in range(2))
    assert a == b and {(len(p.prompt), len(p.chosen), len(p.rejected)) for p in a} == {(10, 5, 5)}
    assert len(work.text_prompts(tokenizer, 4)) == 4


def test_table_and_goals(sandbox):
    run = results.start(presets.resolve("speed", {"PRESET": "smoke", "SEED": 0}), notebook="95_speed")
    repeats = [{"ours": {"units": 8, "seconds": [1.0, 3.0], "peak GB": 2.0}, "peer": {"units": 8, "seconds": [8.0], "peak GB": g}} for g in (2.0, 6.0, 4.0)]
    speed.record(run, "DPO step, pairs, 12:4", "trl", repeats)
    run.finish(model={})
    table = index.speed([run.record()]).set_index("metric")
    assert table.loc["per second", ["ours", "peer_value", "ratio", "low", "high", "n"]].tolist() == [4, 1, 4, 4, 4, 3]
    assert table.loc["peak GB", ["ours", "peer_value", "ratio", "low", "high"]].tolist() == [2, 4, 2, 1, 3]
    goals = speed.goals(index.speed([run.record()]))
    assert goals.verdict.tolist() == ["reached", "reached"]
    assert "4.00 [4.00, 4.00]" in index.speed_markdown([run.record()])
