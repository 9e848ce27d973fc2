"""Coverage by sampler: by hand, and where the answer is known."""

import numpy as np
import pytest

from lib import taxonomy
from lib.harness import paths
from lib.studies.lab import coverage
from lib.synthesis import drawing, exams, teachers

LEAVES = [leaf for leaf in taxonomy.load(paths.DATA / "taxonomy") if leaf.kind in ("foundational", "freeform")]


def rows(name, **knobs):
    teacher = teachers.Templated(LEAVES, seed=0, knobs=teachers.CLEAN._replace(**knobs))
    how = drawing.Draw(calls=24, size=3, each=4, seed=0, answers=name == "self-instruct")
    return drawing.questions(name, LEAVES, teacher, how)


def test_an_assumed_preference_narrows_all_but_the_leaf_samplers():
    sets = {
        name: rows(name, b=1.0, zipf=float("inf")) for name in ("pool", "fake-leaf", "leaf", "quota", "self-instruct")
    }
    kinds = {name: len({r["kind"] for r in made}) for name, made in sets.items()}
    assert (
        kinds["leaf"] == kinds["quota"] == 12
        and kinds["self-instruct"] == 1
        and max(kinds["pool"], kinds["fake-leaf"]) <= 3
    )  # three seeds may be of one leaf
    found = coverage.measure(sets, LEAVES, generated=96, held_out=exams.skills(LEAVES, each=3), seed=0)
    assert found["pool"]["effective leaves"] < 1.5 and found["leaf"]["effective leaves"] > 10
    assert found["pool"]["nearest leaves"] < 2 and found["leaf"]["nearest leaves"] > 9
    assert (
        found["pool"]["worst leaf"] == 0
        and 0 < found["leaf"]["worst leaf"] <= 1
        and found["leaf"]["reach"] > found["pool"]["reach"]
    )
    assert len({m["questions compared"] for m in found.values()}) == 1 and found["leaf"]["questions compared"] == min(
        map(len, sets.values())
    )
    assert found["leaf"]["valid"] == pytest.approx(len(sets["leaf"]) / 96) and all(
        m["Vendi"] >= 1 for m in found.values()
    )


def test_without_preference_all_samplers_reach_the_tree():
    found = coverage.measure(
        {n: rows(n, b=0.0) for n in ("pool", "fake-leaf", "leaf")},
        LEAVES,
        generated=96,
        held_out=exams.skills(LEAVES, each=3),
        seed=0,
    )
    assert all(m["effective leaves"] > 5 for m in found.values())


def test_where_nothing_is_valid_only_that_is_said():
    found = coverage.measure(
        {"a": [{"question": "Hm?", "kind": ""}], "b": rows("leaf")}, LEAVES, generated=96, held_out=[], seed=0
    )
    assert {a: list(m) for a, m in found.items()} == {"a": ["valid"], "b": ["valid"]} and found["a"][
        "valid"
    ] == 0 < found["b"]["valid"]


def test_the_nearest_seed_names_the_leaf():
    seeds = [s.question for leaf in LEAVES for s in leaf.seeds]
    assert coverage.nearest_leaf(seeds, LEAVES) == [leaf.path for leaf in LEAVES for _ in leaf.seeds]
    held_out = exams.skills(LEAVES, each=20)
    right = [a == q.leaf for a, q in zip(coverage.nearest_leaf([q.question for q in held_out], LEAVES), held_out)]
    assert np.mean(right) > 0.9


def test_what_is_recorded():
    kept = []
    run = type("Run", (), {"items": lambda self, *args: kept.append(args)})()
    coverage.record(run, "coverage", 3, {"leaf": {"valid": 0.5}})
    assert kept == [("coverage", "leaf", "valid", [3], [0.5])]
