"""A split model gives what the whole one gives, and training its top trains the whole one."""

from functools import partial

import pytest
import torch

from lib import logprobs, training, trunk
from lib.quantization import block_linears
from tests.test_logprobs import ROWS, gpt_neox


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_top_of_trunk_is_the_whole(tiny_model, family):
    model = (tiny_model if family == "llama" else gpt_neox()).double()
    low, top = trunk.split(model, 1)
    packed = logprobs.pack(ROWS)
    want = logprobs.hidden_states(model, packed)
    pieces = trunk.states(low, ROWS, batch=2)
    assert [[len(x) for x in p] for p in pieces] == [[len(x), *map(len, b)] for x, b in ROWS]
    again, got = trunk.top_states(top, ROWS, pieces)
    assert torch.allclose(got, want, atol=1e-6 if family == "llama" else 1e-10) and torch.equal(again.target, packed.target)
    assert torch.allclose(logprobs.hidden_states(model, packed), want)  # the model itself is as it was


def test_weights_are_shared_not_copied(tiny_model):
    low, top = trunk.split(tiny_model, 1)
    mine = {id(p) for p in tiny_model.parameters()}
    assert {id(p) for m in (low, top) for p in m.parameters()} <= mine
    assert len(block_linears(low)) == 21 and len(block_linears(top)) == 7 and len(block_linears(tiny_model)) == 28


def test_training_the_top_trains_the_whole(tiny_model):
    low, top = trunk.split(tiny_model, 2)
    pieces, head = trunk.states(low, ROWS, batch=3), top.get_output_embeddings().weight
    before = tiny_model(torch.tensor([[5, 6, 7, 8]])).logits.clone()
    first = {n: p.clone() for n, p in tiny_model.named_parameters()}

    def loss(indices):
        packed, hidden = trunk.top_states(top, [ROWS[i] for i in indices], [pieces[i] for i in indices])
        return -logprobs.token_logprobs(hidden, head, packed.target).sum(), {}

    latent = training.Latent(block_linears(top), partial(training.Full, quantizer=None))
    curve = training.fit(latent, training.epochs(3, 3, torch.Generator()), loss, steps=5, lr=1e-3, warmup=1, clip=1.0, micro=2)
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert not torch.allclose(tiny_model(torch.tensor([[5, 6, 7, 8]])).logits, before)
    changed = {n.split(".")[2] for n, p in tiny_model.named_parameters() if not torch.equal(p, first[n])}
    assert changed == {"2", "3"}


def test_depth_is_checked(tiny_model):
    for blocks in (0, 5):
        with pytest.raises(ValueError, match=f"1 to 4, given {blocks}"):
            trunk.split(tiny_model, blocks)
