"""Two models, one set of block weights on the device."""

import copy
from functools import partial

import pytest
import torch

from lib.engine import latents, prepacked, twins
from lib.quantization import block_linears, rtn

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def pair(tiny_model):
    """(model, its twin with weights of 3 bits), and what both give as two models apart."""
    plain = copy.deepcopy(tiny_model)
    q = partial(rtn.fake_quant, bits=3, group=16, symmetric=False)
    quantized = copy.deepcopy(tiny_model)
    latents.Latent(block_linears(quantized), partial(latents.Full, quantizer=q))

    def make(host):
        student = twins.twin(tiny_model, host=host)
        twins.use(student)
        latents.Latent(block_linears(student), partial(latents.Full, quantizer=q), weights_of(tiny_model))
        return tiny_model, student

    return make, plain, quantized


def weights_of(model):
    return {name: m.weight for name, m in block_linears(model).items()}


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits.clone()


@pytest.mark.parametrize("host", [False, True])
def test_twins_give_what_two_models_give_in_any_order(pair, host):
    make, plain, quantized = pair
    full, student = make(host)
    want = {full: logits(plain), student: logits(quantized)}
    assert not torch.allclose(*want.values())
    for model in (full, student, student, full, full, student, full):
        assert torch.equal(logits(model), want[model])
    assert all(torch.equal(p, q) for p, q in zip(full.parameters(), plain.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(student.parameters(), quantized.parameters()))


@pytest.mark.parametrize("host", [False, True])
def test_only_block_weights_are_there_twice(tiny_model, host):
    student = twins.twin(tiny_model, host=host)
    mine, own = dict(tiny_model.named_parameters()), {f"{n}.weight" for n in block_linears(tiny_model)}
    assert {n for n, p in student.named_parameters() if p is not mine[n]} == own
    device = {p.data_ptr() for p in mine.values()}
    assert {p.data_ptr() for n, p in student.named_parameters() if n in own}.isdisjoint(device)
    twins.use(student)
    there = {p.data_ptr() for n, p in student.named_parameters()}
    assert (there == device) == host  # where a switch is made, it is made in place


def test_a_copy_is_a_model_of_its_own(pair):
    make, plain, _ = pair
    full, student = make(True)
    other = copy.deepcopy(full)
    want = logits(student)
    assert torch.equal(logits(other), logits(plain)) and torch.equal(logits(student), want)
    with torch.no_grad():
        for m in block_linears(other).values():
            m.weight.zero_()
    assert torch.equal(logits(full), logits(plain))
    twins.use(other), twins.use(plain)  # no twins: nothing to do


def test_what_lays_weights_out_brings_them_first(pair):
    full, student = pair[0](True)
    logits(full)
    there = {p.data_ptr() for p in full.parameters()}
    with prepacked.prepacked(student, 4, products=1000):
        assert {p.data_ptr() for p in student.parameters()} == there


def test_weights_in_training_stay_where_they_are(pair):
    full, student = pair[0](True)
    latent = latents.Latent(block_linears(student), partial(latents.Full, quantizer=None))
    with (
        latent.training(),
        pytest.raises(RuntimeError, match="in training: the other model can be used after the step"),
    ):
        full(IDS)
    logits(full)
