"""What is learned from is kept apart from what made the references."""

from lib import data
from lib.studies.mrpo import candidates, tasks


def test_a_scarce_task_keeps_topics_apart(world):
    import collections

    kinds = sorted({p.category for p in world.splits["train"].prompts})
    Cfg = collections.namedtuple("Cfg", "n_scarce n_abundant n_reference n_heldout seed")
    world.splits["train"] = world.splits["train"]._replace(
        prompts=[p._replace(category="ab"[i % 2]) for i, p in enumerate(world.splits["train"].prompts)]
    )
    world.splits["validation"] = world.splits["test"]
    t = tasks.of_reward(world.splits, "plain", Cfg(2, 2, 2, 2, 0), scarce=True)
    assert kinds and {c.row % 2 for c in t.train} == {1} and {c.row % 2 for c in t.reference} == {0}


def test_a_task_of_given_pairs_keeps_the_reference_apart(byte_tokenizer):
    import collections

    Cfg = collections.namedtuple("Cfg", "n_scarce n_abundant n_reference seed")
    ask = lambda text: data.Comparison(({"role": "user", "content": text},), "yes", "no")  # noqa: E731
    sets = {name: [ask(f"{name}{i}") for i in range(12)] for name in "ab"}
    splits = candidates.of_pairs(sets, byte_tokenizer, sizes={"train": 8, "validation": 2, "test": 2}, stop_ids=[257])
    few, many = (tasks.of_people(splits, "b", Cfg(3, 5, 3, 0), scarce=s) for s in (True, False))
    assert (
        [len(x) for x in few[1:5]] == [3, 3, 2, 2]
        and len(many.train) == 5
        and few.name != many.name
        and few.category == "b"
    )
    assert not {c.row for c in many.train} & {c.row for c in many.reference}
    assert {splits["train"].prompts[c.row].category for c in (*many.train, *many.reference)} == {"b"} and {
        c[1:3] for c in few.test
    } == {(0, 1)}
    other = tasks.of_people(splits, "b", Cfg(3, 5, 3, 1), scarce=True)
    assert {c.row for c in other.train} != {c.row for c in few.train} and other.test == few.test
