"""Two processes against one, on the CPU through gloo: losses, gradients, weights after steps, whole checkpoints."""

import os
import socket
import sys
from functools import partial

import pytest
import torch
import torch.distributed as dist

from lib import losses
from lib.data import Pair
from lib.engine import checkpoint, latents, models, objectives, sharding, training
from lib.harness import workers
from lib.quantization import block_linears, rtn

KINDS = ("dpo", "sft", "latent", "lora")


def work(environment, kinds, out, begin):
    """One of the processes: steps of every kind, resumed in their middle, or from what other processes had there
    (`begin`); what the first has found goes to a file."""
    os.environ.update(environment)
    sys.stderr = open(f"{out}.{environment['RANK']}", "w")
    torch.set_num_threads(1)  # the others did not come along
    if int(environment["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo")
    if kinds == ["killed"] and sharding.ranks()[0] == 1:
        os._exit(9)
    found = {kind: steps(kind, out, begin) for kind in kinds}
    if sharding.ranks()[0] == 0:
        torch.save(found, out)
    if dist.is_initialized():
        dist.destroy_process_group()


def steps(kind, out, begin):
    quantizer = partial(rtn.fake_quant, bits=4, group=16, symmetric=False)
    pairs = [Pair(str(i), [5, 6, i], [7, 8, 9 + i], [3, 4], 0) for i in range(8)]
    ref = torch.full((8,), -9.0)
    model = models.load("tiny-random", dtype=torch.float32)[0]
    sharding.shard(model, list(block_linears(model)))
    adapter = dict(rank=2, alpha=4.0, generator=torch.Generator().manual_seed(0))
    make = {
        "lora": partial(latents.LoRA, quantizer=quantizer, **adapter),
        "latent": partial(latents.Full, quantizer=quantizer),
    }.get(kind, partial(latents.Full, quantizer=None))
    latent = latents.Latent(block_linears(model), make)
    if kind == "sft":
        objective = objectives.supervised(model, [p.prompt for p in pairs], [p.chosen for p in pairs])
    else:
        objective = objectives.preference(model, pairs, partial(losses.dpo, beta=0.5), ref_w=ref, ref_l=ref)
    batch = 3 if kind == "odd" else 4
    stepper = training.Stepper(latent, training.AdamW(1e-3, 1, 0.5))
    rows = []
    for k in range(4):
        if k == 2:
            half, whole = stepper.state(), stepper.gathered()
            assert (whole is None) == (sharding.ranks()[0] > 0)
            if whole:
                checkpoint.save(out.with_name(f"{out.stem}-{kind}.safetensors"), whole)
            if begin:
                stepper.restore(checkpoint.load(begin.with_name(f"{begin.stem}-{kind}.safetensors")))
        rows.append(stepper.step(range(4 * (k % 2), 4 * (k % 2) + batch), objective, micro=1))
    end = latent.gathered()
    stepper.restore(half)
    for k in (2, 3):
        stepper.step(range(4 * (k % 2), 4 * (k % 2) + batch), objective, micro=1)
    with torch.inference_mode():
        logits = model(torch.tensor([[5, 6, 7, 8]])).logits.clone()
    divided = sum(sharding.local(m.weight).numel() for m in block_linears(model).values())
    return {"rows": rows, "end": end, "again": latent.gathered(), "logits": logits, "divided": divided}


def run(kinds, processes, out, begin=None):
    """The processes' exit codes and last words. They are forks: four imports of torch would take longer than all."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = [workers.fork(work, shared | {"RANK": str(k)}, kinds, out, begin) for k in range(processes)]
    for p in started:
        p.join(timeout=240)
        if p.exitcode is None:
            p.kill()
            p.join()
    return [p.exitcode for p in started], [(out.parent / f"{out.name}.{k}").read_text() for k in range(processes)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process found, and what two did; then each from the checkpoint of the others in the middle."""
    folder, got = tmp_path_factory.mktemp("both"), []
    one, two = folder / "one.pt", folder / "two.pt"
    for out, processes, begin in (
        (one, 1, None),
        (two, 2, None),
        (folder / "12.pt", 1, two),
        (folder / "21.pt", 2, one),
    ):
        codes, ends = run(KINDS, processes, out, begin)
        assert codes == [0] * processes, ends[0][-800:]
        got.append(torch.load(out))
    return got, folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_as_one(both, kind):
    one, two, *_ = (found[kind] for found in both[0])
    assert two["divided"] * 2 == one["divided"]
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert a.keys() == b.keys()
        for k in a:
            assert a[k] == pytest.approx(b[k], rel=1e-5, abs=1e-6), k
    assert one["end"].keys() == two["end"].keys()
    for name, w in one["end"].items():
        torch.testing.assert_close(two["end"][name], w, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(two["again"][name], two["end"][name], rtol=0, atol=1e-7)  # resumed in its middle
    torch.testing.assert_close(two["logits"], one["logits"], rtol=1e-4, atol=1e-4)
    assert one["rows"][-1]["loss"] != one["rows"][0]["loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_processes_is_that_of_one_and_goes_on_in_any_number(both, kind):
    found, folder = both
    one, two = (checkpoint.load(folder / f"{n}-{kind}.safetensors") for n in ("one", "two"))
    assert two["done"] == 2 and two["processes"] == one["processes"] == 1
    for a, b in zip(one["latents"], two["latents"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)
    for i, moments in one["optimizer"]["state"].items():
        for k, x in moments.items():
            torch.testing.assert_close(two["optimizer"]["state"][i][k], x, rtol=1e-4, atol=1e-5)
    for other in found[2:]:  # from there on, the steps that would have come
        for a, b in zip(found[0][kind]["rows"][2:], other[kind]["rows"][2:], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        for name, w in found[0][kind]["end"].items():
            torch.testing.assert_close(other[kind]["end"][name], w, rtol=1e-5, atol=4e-6)


def test_a_part_of_another_division_is_refused(tiny_model):
    latent = latents.Latent(block_linears(tiny_model), partial(latents.Full, quantizer=None))
    stepper = training.Stepper(latent, training.AdamW(1e-3, 1, 0.5))
    before, state = latent.snapshot(), stepper.state()
    assert stepper.gathered()["done"] == 0
    with pytest.raises(ValueError, match="^this is a part of a state divided among 3 processes, and there are 1; what"):
        stepper.restore(state | {"processes": 3, "latents": [0 * x for x in before]})
    assert all(torch.equal(a, b) for a, b in zip(before, latent.snapshot()))
    with pytest.raises(ValueError, match=r"^3 processes do not divide the rows of .*self_attn.q_proj \(64 rows\)"):
        sharding.check(tiny_model, 3)


def test_a_batch_that_does_not_divide_is_refused_by_all(tmp_path):
    codes, ends = run(["odd"], 2, tmp_path / "x")
    assert all(codes) and all("a batch of 3 does not divide among 2 processes" in e for e in ends)


def test_a_process_that_dies_ends_the_others(tmp_path):
    codes, ends = run(["killed"], 2, tmp_path / "x")
    assert codes[1] == 9 and codes[0] not in (0, None) and "Connection" in ends[0]


def test_in_one_process_nothing_changes(tiny_model):
    assert sharding.ranks() == (0, 1) and sharding.share([3, 1, 2]) == [3, 1, 2]
    w = tiny_model.lm_head.weight
    assert sharding.local(w) is w and sharding.rows(w) == slice(0, len(w)) and sharding.whole(w, w) is w
    assert sharding.part(w, w) is w and sharding.full(w) is w
    sharding.join()  # no runner has begun others
    assert sharding.ranks() == (0, 1)
    assert sharding.shard(tiny_model, []) is tiny_model and sharding.summed(torch.ones(2)).tolist() == [1, 1]
