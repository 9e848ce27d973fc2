"""The world of references on the tiny model."""

import numpy as np
import pytest
import torch

from lib import losses
from lib.harness import presets
from lib.studies.mrpo import scores, training
from lib.studies.mrpo.world import build


def test_an_adapter_on_two_layers_of_every_block(world, tiny_model, byte_tokenizer, picks):
    """How the paper trains: LoRA on the attention's queries and values, all blocks."""
    cfg = presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 0, "BLOCKS": 4, "RANK": 2, "TARGETS": "q_proj,v_proj"})
    study = build(cfg, world.run, tiny_model, byte_tokenizer, world.splits, stop_ids=[257])
    assert len(study.linears) == 16 and {n.split(".")[-3] for n in study.linears} == {"q_proj", "v_proj"}
    assert torch.allclose(scores.score(study, "test"), scores.score(world, "test"), atol=1e-4)
    chosen = picks()
    before = {n: p.clone() for n, p in tiny_model.named_parameters()}
    table = scores.table(study, ["base"], "train", chosen)
    loss = lambda w, l, i: losses.dpo(w, l, *(x[0, i] for x in table[:2]), beta=0.1)  # noqa: E731
    curve = training.fit(study, chosen, loss, lr=1e-2, steps=3, desc="x")
    assert curve[0]["loss"] == pytest.approx(np.log(2), abs=1e-4) and curve[-1]["loss"] < curve[0]["loss"]
    changed = {n for n, p in tiny_model.named_parameters() if not torch.equal(p, before[n])}
    assert len(changed) == 16 and all("lora_" in n for n in changed)
    assert all(p.grad is None for p in tiny_model.parameters())
    training.load(study, study.weights["base"])  # every arm begins at adapters that do nothing
    assert torch.allclose(scores.score(study, "test"), scores.score(world, "test"), atol=1e-4)
    with pytest.raises(ValueError, match="no linear layer of the last 1 blocks is called query"):
        build(
            presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 0, "TARGETS": "query"}),
            world.run,
            tiny_model,
            byte_tokenizer,
            world.splits,
            stop_ids=[257],
        )
