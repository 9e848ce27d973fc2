"""Rows that a model cannot read are named before any work."""

import pytest

from lib.engine import rows


def test_rows_that_do_not_fit_are_named(tiny_model):
    check = rows.check_rows
    check(tiny_model, [[1], [2]], [[3], [4]], [[5], [6]], new_tokens=3)
    with pytest.raises(ValueError, match="row 1 has an empty completion"):
        check(tiny_model, [[1], [2]], [[3], [4]], [[5], []])
    with pytest.raises(ValueError, match="row 0 has an empty prompt"):
        check(tiny_model, [[], [2]])
    with pytest.raises(ValueError, match="row 1 holds token id 400 and the model's vocabulary is 0 .. 257"):
        check(tiny_model, [[1], [1]], [[2], [400]])
    with pytest.raises(ValueError, match="row 0 holds token id -1"):
        check(tiny_model, [[-1]])
    with pytest.raises(ValueError, match="row 1 needs 1025 tokens.*holds 1024"):
        check(tiny_model, [[1], [1] * 1020], [[2], [2] * 5])
