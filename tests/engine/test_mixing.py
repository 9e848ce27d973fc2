from functools import partial

import pytest
import torch

from lib.engine import mixing


def test_mixing_by_counts_and_by_shares():
    sources = {"a": [("a", i) for i in range(20)], "b": [("b", i) for i in range(9)], "c": [("c", i) for i in range(9)]}
    g = lambda seed=0: torch.Generator().manual_seed(seed)  # noqa: E731
    of = lambda rows: [sum(r[0] == n for r in rows) for n in "abc"]  # noqa: E731
    rows = mixing.mix(sources, {"a": 7, "b": 9, "c": 0}, generator=g())
    assert (
        of(rows) == [7, 9, 0]
        and len(set(rows)) == 16
        and rows != sorted(rows)
        and rows == mixing.mix(sources, {"a": 7, "b": 9, "c": 0}, generator=g())
    )
    assert rows != mixing.mix(sources, {"a": 7, "b": 9, "c": 0}, generator=g(1))
    assert of(mixing.mix(sources, {"a": 0.5, "b": 0.3, "c": 0.2}, total=20, generator=g())) == [10, 6, 4]
    assert of(mixing.mix(sources, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, total=20, generator=g())) == [7, 7, 6]
    assert of(mixing.mix(sources, {"a": 0.54, "b": 0.25, "c": 0.21}, total=10, generator=g())) == [
        5,
        3,
        2,
    ]  # 5.4, 2.5, 2.1
    many = mixing.mix(sources, {"b": 30}, generator=g(), replacement=True)
    assert len(many) == 30 and len(set(many)) < 9 + 1


def test_mixtures_that_cannot_be():
    mix = partial(mixing.mix, {"a": [1, 2, 2], "b": [2], "none": []}, generator=torch.Generator())
    with pytest.raises(ValueError, match="a has 3 rows, 4 are asked for"):
        mix({"a": 4})
    with pytest.raises(ValueError, match="none has 0 rows"):
        mix({"none": 1}, replacement=True)
    with pytest.raises(ValueError, match="2 of 4 rows are repeats"):
        mix({"a": 3, "b": 1})
    with pytest.raises(ValueError, match="amounts are of a, b, none, given 'c'"):
        mix({"c": 1})
    with pytest.raises(ValueError, match="without a total, amounts are whole numbers of at least 0, given 0.5 of a"):
        mix({"a": 0.5})
    with pytest.raises(ValueError, match="sum to 1"):
        mix({"a": 0.5, "b": 0.4}, total=2)
