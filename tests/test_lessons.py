"""Lessons begin where they say, whatever was taught before, and go on record."""

import numpy as np
import pytest
import torch

from lib import lessons, models, phases, students
from lib.curricula import GROUPS, PARTS
from lib.exams import Question


class Kept:
    def __init__(self):
        self.there, self.curves, self.weights = {}, [], {}

    def items(self, dataset, arm, metric, ids, values, weights=None):
        self.weights[dataset, arm, metric] = weights
        self.there[dataset, arm, metric] = np.asarray(values, float)

    def metric(self, exhibit, dataset, arm, metric, value, **_):
        self.there[exhibit, dataset, arm, metric] = value

    def curve(self, arm, rows):
        self.curves.append(arm)


@pytest.fixture
def school(tiny_model, byte_tokenizer):
    student = students.Student(tiny_model, byte_tokenizer, blocks=1, system="", stop_ids=models.stop_ids(tiny_model, byte_tokenizer), batch=4)
    sheets = {g: student.sheet([Question(f"{g} {i}", "l", g, f"Say {i}.", "", (f"yes {i}",), (), (f"no {i}",)) for i in range(3)]) for g in (*GROUPS, "facts")}
    return lessons.Lessons(Kept(), student, sheets, student.pages(["some plain text", "more of it"]), seed=0, clip=1.0, micro=4)


def rows(school, answer="yes"):
    return school.student.rows([{"leaf": "x", "question": f"Say {k}.", "answer": f"{answer} {k}"} for k in range(6)])


def phase(school, name="p", **kw):
    return phases.Phase(name, rows(school), 3, 4, 1e-3, **kw)


def test_the_start_is_on_record(school):
    there = school.run.there
    assert np.allclose(there["text general", "start", "surprise"], school.student.surprise(school.pages)) and len(school.first) == 3 * 5
    assert there["exam skills", "start", "accuracy"].tolist() == school.first[9:12]


def test_a_curriculum_begins_at_the_start_whatever_was_taught_before(school, tmp_path):
    plan = [phase(school, part, replay="all" if i else 0) for i, part in enumerate(PARTS)]
    first = school.curriculum("one", plan, None)
    moved = sum((first[n] - w).abs().sum().item() for n, w in school.student.begin.items())
    school.merged("other", {n: w + 0.1 for n, w in first.items()})
    again = school.curriculum("two", plan, tmp_path)
    assert moved > 0 and all(torch.equal(first[n], again[n]) for n in first)
    there = school.run.there
    assert np.array_equal(there["text general", "one", "surprise"], there["text general", "two", "surprise"])
    assert not np.array_equal(there["text general", "one", "surprise"], there["text general", "other", "surprise"])
    assert ("forgetting", "one", "forgotten") in there and ("forgetting", "other", "forgotten") not in there and school.run.curves == ["one", "two"]


def test_another_seed_is_another_order(school):
    plan = [phase(school)]
    a, b, c = (school.unmarked(plan, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a) and any(not torch.equal(a[n], c[n]) for n in a)


def test_further_lessons_begin_at_the_weights_given(school):
    taught = school.unmarked([phase(school)], 0)
    school.merged("before", taught)
    school.further("nothing new", taught, phase(school)._replace(lr=1e-12))
    school.contrasted("nothing learnt", taught, rows(school), rows(school, "no"), [[0, 1], [2, 3]], beta=0.1, lr=1e-12, warmup=0)
    there, last = school.run.there, ("text general", "before", "surprise")
    assert not np.allclose(there[last], there["text general", "start", "surprise"], atol=1e-4)
    for arm in ("nothing new", "nothing learnt"):
        assert np.allclose(there["text general", arm, "surprise"], there[last], atol=1e-5)


def test_alone_is_graded_on_its_sheet(school):
    sheet = school.sheets["skills"]
    school.alone("students", "a", phase(school), sheet)
    assert np.array_equal(school.run.there["students", "a", "accuracy"], school.student.score(sheet))


def test_what_a_teacher_draws_and_a_judge_says_goes_on_record():
    from lib import audit, exams, judges, taxonomy, teachers
    from lib.harness import paths

    leaves = [x for x in taxonomy.load(paths.DATA / "taxonomy") if x.kind == "freeform"]
    run, writer = Kept(), lambda: teachers.Templated(leaves, seed=0)
    sets = lessons.drawn(run, "coverage", ["pool", "leaf"], leaves, writer(), exams.skills(leaves, each=3), seed=0, calls=12, each=8, size=3, answers=True)
    first = audit.asked("pool", leaves, writer(), calls=12, each=8, size=3, seed=0, answers=True)
    assert sets["pool"] == first and {k[1] for k in run.there} == {"pool", "leaf"}
    knows = judges.oracle(leaves)
    lessons.assessed(run, "filters", "oracle", sets["leaf"], lambda: audit.both(knows["question"], knows["pair"]))
    purity = "filters", "oracle", "purity"
    assert np.average(run.there[purity], weights=run.weights[purity]) == pytest.approx(1.0)
