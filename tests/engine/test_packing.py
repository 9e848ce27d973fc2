"""Rows in sequences: everything once, each row by itself (what a model makes of them: test_phases.py)."""

import random

import pytest
import torch

from lib.engine import packing


def test_bins_hold_everything_once():
    rng = random.Random(0)
    lengths = [rng.randint(1, 20) for _ in range(50)]
    found = packing.bins(lengths, 32)
    assert sorted(i for b in found for i in b) == list(range(50)) and all(
        sum(lengths[i] for i in b) <= 32 for b in found
    )
    assert len(found) <= 1.25 * sum(lengths) / 32
    assert packing.bins([5, 3, 2, 4], 7) == [[0, 2], [3, 1]]
    with pytest.raises(ValueError, match="32 tokens cannot hold a row of 33"):
        packing.bins([33], 32)


def test_a_packed_row_starts_at_zero_and_sees_itself_alone():
    rows = [((1, 2), (3,)), ((4,), (5, 6, 7)), ((8, 9), (10,))]
    packed = packing.pack_rows([rows[:2], rows[2:]])
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 0, 0, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 0, 0, 0, 0]]
    assert packed.target.tolist() == [3, 5, 6, 7, 10] and packed.branch.tolist() == [0, 1, 1, 1, 2]
    mask = packed.attention_mask[0, 0]
    assert torch.equal(mask[3:], torch.tensor([[0] * 3 + [1] * k + [0] * (4 - k) for k in range(1, 5)]).bool())
    assert packed.attention_mask.any(-1).all()  # padding sees padding: no softmax is empty
