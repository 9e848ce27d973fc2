"""A split model gives what the whole one gives, and training its top trains the whole one."""

from functools import partial

import pytest
import torch

from lib.engine import latents, logprobs, training, trunk
from lib.engine.generation import Sampling, generate, recorded
from lib.quantization import block_linears
from lib.quantization.blocks import decoder_blocks
from tests.engine.test_logprobs import ROWS, gpt_neox


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_top_of_trunk_is_the_whole(tiny_model, family):
    model = (tiny_model if family == "llama" else gpt_neox()).double()
    low, top = trunk.split(model, 1)
    packed = logprobs.pack(ROWS)
    want = logprobs.hidden_states(model, packed)
    pieces = trunk.states(low, ROWS, batch=2)
    assert [[len(x) for x in p] for p in pieces] == [[len(x), *map(len, b)] for x, b in ROWS]
    again, got = trunk.top_states(top, ROWS, pieces)
    assert torch.allclose(got, want, atol=1e-6 if family == "llama" else 1e-10) and torch.equal(
        again.target, packed.target
    )
    assert torch.allclose(logprobs.hidden_states(model, packed), want)  # the model itself is as it was


@pytest.mark.parametrize("blocks", [1, "all"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_what_is_recorded_while_sampling_is_what_a_second_pass_gives(tiny_model, family, blocks):
    model = (tiny_model if family == "llama" else gpt_neox()).double()
    blocks = len(decoder_blocks(model)) if blocks == "all" else blocks
    low, top = trunk.split(model, blocks)
    prompts = [[5, 6, 7], [8, 9], [3, 4, 5, 6, 7]]
    done = generate(
        model, prompts, sampling=Sampling(2.0, torch.Generator().manual_seed(0), n=3), max_new_tokens=6,
        stop_ids=range(0, model.config.vocab_size, 4),
        batch=2, watch=trunk.end(model, blocks),
    )  # fmt: skip
    each = [done[3 * i : 3 * i + 3] for i in range(3)]
    rows = [(p, [c.tokens for c in row]) for p, row in zip(prompts, each)]
    assert len({len(c.tokens) for c in done}) > 2  # some ended early
    pieces = [recorded(row) for row in each]
    _, got = trunk.top_states(top, rows, pieces)
    assert torch.allclose(got, trunk.top_states(top, rows, trunk.states(low, rows, batch=3))[1], atol=1e-6)
    again = generate(model, prompts, max_new_tokens=2, stop_ids=[], batch=3)
    assert again[0].states is None  # and nothing is watched any more


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

    latent = latents.Latent(block_linears(top), partial(latents.Full, quantizer=None))
    curve = training.fit(
        latent, training.epochs(3, 3, torch.Generator()), loss, training.AdamW(1e-3, 1, 1.0), steps=5, micro=2
    )
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert not torch.allclose(tiny_model(torch.tensor([[5, 6, 7, 8]])).logits, before)
    changed = {n.split(".")[2] for n, p in tiny_model.named_parameters() if not torch.equal(p, first[n])}
    assert changed == {"2", "3"}


def test_depth_is_checked(tiny_model):
    for blocks in (0, 5):
        with pytest.raises(ValueError, match=f"1 to 4, given {blocks}"):
            trunk.split(tiny_model, blocks)
