"""Judges by truth: by hand, and where it is known."""

import numpy as np
import pytest

from lib import taxonomy
from lib.harness import paths
from lib.studies.lab import judging
from lib.synthesis import drawing, judges, teachers, truth

LEAVES = [leaf for leaf in taxonomy.load(paths.DATA / "taxonomy") if leaf.kind in ("foundational", "freeform")]
MANY = drawing.Draw(calls=24, size=3, each=4, seed=0, answers=True)


def drawn():
    return drawing.questions("leaf", LEAVES, teachers.Templated(LEAVES, seed=0), MANY)


def test_a_judge_against_truth_by_hand():
    scores, good = [3.0, 2.0, None, 1.0, 2.0], [True, False, True, False, True]
    got = judging.against_truth(scores, good, least=2)
    mean = {k: np.average(v, weights=w) for k, (v, w) in got.items()}
    assert (
        mean["yield"] == pytest.approx(3 / 5)
        and mean["purity"] == pytest.approx(2 / 3)
        and mean["recall"] == pytest.approx(2 / 3)
    )
    assert mean["wrong rejected"] == pytest.approx(1 / 2) and mean["auc"] == pytest.approx((1 + 0 + 0.75) / 3)
    want = judges.quality(scores, good, least=2)
    assert all(mean[k] == pytest.approx(want[k]) for k in ("yield", "purity", "recall", "auc"))
    nothing = judging.against_truth([0.0, 0.0], [True, True], least=1)
    assert set(nothing) == {"yield", "recall"}


def test_rivals_are_several_answers_to_each_question():
    made = drawn()[:5]
    got = judging.several_answers(teachers.Templated(LEAVES, seed=0), made, each=6)
    assert (
        len(got) == 30
        and len({r["id"] for r in got}) == 30
        and [r["question"] for r in got[::6]] == [r["question"] for r in made]
    )
    assert len({r["answer"] for r in got[:6]}) > 1


def test_what_is_recorded():
    kept, made = [], drawn()
    run = type("Run", (), {"items": lambda self, *args: kept.append(args)})()
    judging.record(run, "filters", "none", made, [1.0] * len(made), least=1)
    (purity,) = (np.average(v, weights=w) for d, a, m, i, v, w in kept if m == "purity")
    assert purity == pytest.approx(np.mean([truth.valid(r) for r in made])) and 0.3 < purity < 0.9


def test_the_teacher_judges_as_its_knobs_say():
    made, one = drawn(), judges.teacher_judges(teachers.Templated(LEAVES, seed=0, knobs=teachers.CLEAN))
    assert set(one) == {"question", "pair", "faithful"} and [j.least for j in one.values()] == [1, 2, 1]
    scores = judges.both(one["question"], one["pair"]).score(made)
    assert judging.passes(scores, 2).tolist() == [truth.valid(r) for r in made]
