"""The comparisons at toy size: both sides do the same work, and the table says what was measured."""

import importlib
import subprocess
from unittest import mock

import pytest
import torch

from lib import speed
from lib.engine import models
from lib.harness import index, presets, results
from lib.quantization import block_linears
from lib.speed import limits, measure, ours, peers, work

BASE = dict(model="tiny-random", device="cpu", pairs=4, repeats=2, prompt=10, answer=5, micro=2, trl_micro=2)
SAMPLE = dict(model="tiny-random", device="cpu", repeats=2, prompts=3, candidates=2, tokens=4, batch=2, their_batch=2)


def test_three_steps_lose_the_same_as_trl():
    spec = BASE | {"task": "dpo", "dtype": "float32", "lr": 1e-3}
    a, b = (measure.measure(spec | {"side": s}) for s in ("ours", "trl-precomputed"))
    assert a["losses"] == pytest.approx(b["losses"], abs=1e-4) and a["losses"][2] < a["losses"][0] - 0.01
    assert len(a["seconds"]) == len(b["seconds"]) == 2 and a["units"] == b["units"] == [4, 4]


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
    assert a["units"] == b["units"] == [6, 6] and a["mean"] == pytest.approx(b["mean"], rel=0.01)
    for task, units in (("greedy", 12), ("sample", 24)):
        a, b = (measure.measure(SAMPLE | {"task": task, "side": s}) for s in ("ours", "transformers"))
        assert all(0 < u <= units for u in [*a["units"], *b["units"]]) and len(a["seconds"]) == len(a["units"]) == 2
    parity = peers.greedy_parity("tiny-random", prompts=4, tokens=6, device="cpu").set_index("dtype")
    assert parity.loc["float32"].tolist() == [1.0, 1.0]


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task is one of dpo, lora, score, greedy, sample, given 'nap'"):
        measure.measure({"task": "nap", "side": "ours"})


STUB = """
import json, sys
spec = json.loads(sys.argv[-1])
log = open(spec["log"], "a")
if spec["side"] == "broken":
    sys.exit("the last line")
for k in range(spec["repeats"]):
    if spec.get("paired"):
        print("{'loss': 'noise'}", flush=True)
        print("#ready", flush=True)
        sys.stdin.readline()
    log.write(spec["side"] + " "); log.flush()
    print("#done", flush=True)
print("#result", json.dumps({"units": [2] * spec["repeats"], "seconds": [0.5] * spec["repeats"], "peak GB": 1}))
"""


def test_sides_take_turns_and_a_failing_one_says_why(tmp_path, monkeypatch):
    plain, stub = subprocess.Popen, tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **k: plain([command[0], str(stub), command[-1]], **k))
    log = str(tmp_path / "log")
    got = speed.compare("dpo", "a", "b", repeats=3, device="cpu", log=log)
    assert (tmp_path / "log").read_text().split() == ["a", "b", "b", "a", "a", "b"] and got["peer"]["units"] == [
        2,
        2,
        2,
    ]
    assert speed.tune("dpo", "a", "micro", [2, 4], device="cpu", log=log) == (2, {2: 4.0, 4: 4.0})
    for fail in (
        lambda: speed.tune("dpo", "broken", "micro", [2], device="cpu", log=log),
        lambda: speed.compare("dpo", "a", "broken", repeats=1, device="cpu", log=log),
    ):
        with pytest.raises(RuntimeError, match="broken failed at dpo: the last line"):
            fail()


def test_a_fork_does_what_a_process_of_its_own_does():
    """Smoke asks for forks; what is measured comes from processes of their own, and only they say what memory is."""
    fresh, forked = (
        speed.compare("score", "ours", "transformers", **SAMPLE | {"forked": forked}) for forked in (False, True)
    )
    for side in ("ours", "peer"):
        assert fresh[side].keys() == forked[side].keys() and len(forked[side]["seconds"]) == 2
        assert fresh[side]["units"] == forked[side]["units"] == [6, 6]
        assert fresh[side]["mean"] == pytest.approx(forked[side]["mean"], rel=1e-3)
        assert fresh[side]["peak GB"] >= fresh[side]["loaded GB"] > 0
    with pytest.raises(RuntimeError, match="nobody failed at nap: .*ValueError: task is one of dpo"):
        speed.tune("nap", "nobody", "batch", [2], **SAMPLE | {"forked": True})


def test_the_gate_counts_all_but_the_first():
    gate = work.Gate({"device": "cpu"})
    for _ in range(3):
        gate.enter()
        gate.leave()
    assert len(gate.seconds) == 2 and all(s >= 0 for s in gate.seconds)


def test_operations_by_hand():
    model, _ = models.load("tiny-random", dtype=torch.float32)
    body, head = 4 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128), 258 * 64
    assert limits.train_flops(model, 2, 10, 5) == 2 * (20 * 6 * body + 10 * 4 * head)
    assert limits.trl_flops(model, 2, 10, 5, reference=False) == 2 * 30 * (6 * body + 4 * head)
    assert limits.trl_flops(model, 2, 10, 5, reference=True) == 2 * 30 * (8 * body + 6 * head)
    assert limits.decode_bytes(model, 3, 7) == 4 * (sum(p.numel() for p in model.parameters()) + 3 * 7 * 2 * 4 * 2 * 16)
    assert limits.step_profile(model, 2, 10, 5).sum() == pytest.approx(1)
    assert (
        limits.matmul_peak("cpu", torch.float32, size=64, repeats=2) > 1e6
        and limits.copy_bandwidth("cpu", gigabytes=0.001, repeats=2) > 1e6
    )


def test_pairs_and_prompts_are_the_same_for_both():
    model, tokenizer = models.load("tiny-random", dtype=torch.float32)
    a, b = (work.token_pairs(model, 3, 10, 5) for _ in range(2))
    assert a == b and {(len(p.prompt), len(p.chosen), len(p.rejected)) for p in a} == {(10, 5, 5)}
    assert len(work.text_prompts(tokenizer, 4)) == 4


def test_table_and_goals(sandbox):
    run = results.start(presets.resolve("speed", {"PRESET": "smoke", "SEED": 0}), notebook="95_speed")
    got = {
        "ours": {"units": [8] * 3, "seconds": [2.0, 2.0, 4.0], "peak GB": 2.0},
        "peer": {"units": [8] * 3, "seconds": [8.0, 4.0, 8.0], "peak GB": 4.0},
    }
    speed.record(run, "DPO step, pairs, 12:4", "trl", got)
    table = index.speed([run.record()]).set_index("metric")
    assert table.loc["per second", ["ours", "peer_value", "ratio", "low", "high", "n"]].tolist() == [4, 1, 2, 2, 4, 3]
    assert table.loc["peak GB", ["ours", "peer_value", "ratio", "low", "high"]].tolist() == [2, 4, 2, 2, 2]
    goals = speed.goals(index.speed([run.record()]))
    assert goals.verdict.tolist() == ["not reached", "reached"]
    assert "2.00 [2.00, 4.00]" in index.speed_markdown([run.record()])
    text = index.speed_text([run.record()])
    assert "2.00 times [2.00, 4.00]" in text and max(map(len, text.splitlines())) <= 80


def test_operations_of_scoring(tiny_model):
    body = sum(m.weight.numel() for m in block_linears(tiny_model).values())
    head = tiny_model.get_output_embeddings().weight.numel()
    ours, plain = limits.score_flops(tiny_model, 2, 10, 3, 4)
    assert ours == 2 * 2 * (22 * body + 12 * head) and plain == 2 * 2 * 3 * 14 * (body + head)


def test_bytes_of_a_step_by_hand(tiny_model):
    trained = sum(p.numel() for n, p in tiny_model.named_parameters() if "proj" in n)
    assert limits.state_bytes(tiny_model) == 4 * sum(p.numel() for p in tiny_model.parameters()) + 16 * trained


@pytest.mark.parametrize("model, caller, offline", [
    ("lmsys/vicuna-7b-v1.5", None, "0"), ("lmsys/vicuna-7b-v1.5", "1", "1"), ("embedded", None, "1"),
])  # fmt: skip
def test_a_model_of_the_hub_may_be_asked_for(monkeypatch, model, caller, offline):
    seen = {}
    compare = importlib.import_module("lib.speed.compare")  # the package offers its function of that name
    monkeypatch.setattr(compare.subprocess, "Popen", lambda *a, env, **k: seen.update(env) or mock.Mock())
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if caller is not None:
        monkeypatch.setenv("HF_HUB_OFFLINE", caller)
    compare._Child({"model": model})
    assert seen["HF_HUB_OFFLINE"] == offline
