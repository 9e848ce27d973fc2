import pytest

from lib.studies.lab import subsets


def test_arms_are_cut_at_random_to_the_poorest():
    keeps = {"a": [{"id": i} for i in range(50)], "b": [{"id": i} for i in range(20)]}
    cut = subsets.equally_many(keeps, 0)
    assert (
        {k: len(v) for k, v in cut.items()} == {"a": 20, "b": 20}
        and max(r["id"] for r in cut["a"]) > 25
        and cut != subsets.equally_many(keeps, 1)
    )
    assert subsets.equally_many({}, 0) == {}
    with pytest.raises(ValueError, match="b kept no row, so no student can be compared"):
        subsets.equally_many(keeps | {"b": []}, 0)


def test_at_most_so_many_rows_of_a_skill_and_all_of_knowledge():
    data = [
        {"leaf": leaf, "n": i}
        for i in range(9)
        for leaf in ("knowledge/a", "foundational_skills/b", "compositional_skills/c")
    ]
    some = subsets.at_most_per_skill(data, 4, 0)
    assert [
        sum(r["leaf"] == leaf for r in some)
        for leaf in ("knowledge/a", "foundational_skills/b", "compositional_skills/c")
    ] == [9, 4, 4]
    assert some == [r for r in data if r in some] and some != subsets.at_most_per_skill(data, 4, 1)
