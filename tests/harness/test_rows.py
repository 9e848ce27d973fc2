"""The rule by which rows are recorded once, joined or replaced."""

import gzip

import pandas as pd
import pytest

from lib.harness import rows

ITEMS = rows.KINDS["items"]


def put(groups, now, *found):
    return groups | rows.joined(ITEMS, groups, [("d", "a", "m", i, v, 1.0) for i, v in found], now)


def values(groups):
    return {row[3]: row[4] for row in rows.listed(groups)}


def test_draws_of_one_cell_join_and_the_cell_run_again_replaces_them_all():
    groups = put(put({}, 1, ("0", 0.1)), 1, ("1", 0.2), ("2", 0.3))
    assert values(groups) == {"0": 0.1, "1": 0.2, "2": 0.3}
    again = put(groups, 2, ("0", 0.5))
    assert values(again) == {"0": 0.5}, "a draw that is not made any more does not stay"
    assert values(put(again, 2, ("1", 0.6))) == {"0": 0.5, "1": 0.6}
    assert len(values(groups)) == 3, "what was there is untouched until it is put in place"


def test_names_that_are_new_join_from_a_later_cell_too():
    assert values(put(put({}, 1, ("0", 0.1)), 2, ("1", 0.2))) == {"0": 0.1, "1": 0.2}


def test_twice_in_one_execution_is_a_mistake():
    groups = put({}, 4, ("0", 0.1))
    for found in ([("0", 0.1)], [("1", 0.1), ("1", 0.2)], [("1", 0.1), ("0", 0.2)]):
        with pytest.raises(ValueError, match="already recorded: d, a, m"):
            put(groups, 4, *found)
    with pytest.raises(ValueError, match="already recorded"):
        put(groups, 5, ("0", 0.1), ("0", 0.1))


def test_a_group_keeps_its_place():
    groups = {}
    for now, arm in ((1, "a"), (1, "b"), (2, "a")):
        groups |= rows.joined(rows.KINDS["curves"], groups, [(arm, s, "loss", 0.1 * now) for s in (1, 2)], now)
    assert [row[0] for row in rows.listed(groups)] == ["a", "a", "b", "b"]
    assert rows.listed(groups)[0][3] == pytest.approx(0.2)


@pytest.mark.parametrize("kind", rows.KINDS)
def test_an_empty_table_has_columns_that_others_join(kind, tmp_path):
    empty = rows.table(rows.KINDS[kind], tmp_path / "none")
    assert list(empty.columns) == rows.KINDS[kind].columns and empty.empty
    values = {"float64": 0.5, "int64": 3}
    one = pd.DataFrame([{c: values.get(str(empty[c].dtype), "x") for c in empty.columns}])
    both = pd.concat([empty, one], ignore_index=True)
    assert both.equals(one) and both.dtypes.equals(one.dtypes)


def test_items_members_follow_each_other(tmp_path):
    content = rows.packed([rows.ITEM_COLUMNS]) + rows.packed([("d", "a", "m", "007", 0.5, 1.0)])
    assert gzip.decompress(content).startswith(b"dataset,arm,metric,prompt_id")
    (tmp_path / "items.csv.gz").write_bytes(content)
    assert rows.table(ITEMS, tmp_path / "items.csv.gz").prompt_id.tolist() == ["007"]


def test_words_stay_words(tmp_path):
    """pandas would take an arm called None, or a prompt NA, for a missing one."""
    (tmp_path / "items.csv.gz").write_bytes(
        rows.packed([rows.ITEM_COLUMNS, ("", "None", "m", "NA", 0.5, float("nan"))])
    )
    (row,) = rows.table(ITEMS, tmp_path / "items.csv.gz").itertuples(index=False)
    assert (row.dataset, row.arm, row.prompt_id, row.value) == ("", "None", "NA", 0.5) and row.weight != row.weight


def test_without_ipython_every_cell_is_one():
    assert rows.execution() == 0
