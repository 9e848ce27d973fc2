"""Shapes of the papers' models: their numbers of weights are the published ones."""

import pytest
import torch

from lib.engine import known, memory


@pytest.mark.parametrize("spec, weights", [
    ("lmsys/vicuna-7b-v1.5", 6738415616), ("mistralai/Mistral-7B-v0.1", 7241732096),
    ("trl-lib/pythia-1b-deduped-tldr-sft", 1011781632), ("embedded", 134515008),
])  # fmt: skip
def test_weights_are_counted(spec, weights):
    with memory.shapes():
        assert sum(p.numel() for p in memory.model_of(known.config_of(spec), torch.bfloat16).parameters()) == weights
