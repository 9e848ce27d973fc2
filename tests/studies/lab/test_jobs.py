"""Lessons begin where they say, whatever was taught before, and go on record."""

import numpy as np
import pytest
import torch

from lib.engine import models, phases
from lib.studies.lab import jobs as lessons
from lib.studies.lab import student as students
from lib.studies.lab.curricula import GROUPS, PARTS
from lib.studies.lab.questions import Question


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
    student = students.Student(
        tiny_model, byte_tokenizer, blocks=1, system="", stop_ids=models.stop_ids(tiny_model, byte_tokenizer), batch=4
    )
    sheets = {
        g: student.sheet(
            [Question(f"{g} {i}", "l", g, f"Say {i}.", "", (f"yes {i}",), (), (f"no {i}",)) for i in range(3)]
        )
        for g in (*GROUPS, "facts")
    }
    return lessons.Lessons(
        Kept(), student, sheets, student.pages(["some plain text", "more of it"]), pack=8, seed=0, clip=1.0, micro=4
    )


def rows(school, answer="yes"):
    return school.student.rows([{"leaf": "x", "question": f"Say {k}.", "answer": f"{answer} {k}"} for k in range(6)])


def phase(school, name="p", **kw):
    return phases.Phase(name, rows(school), 3, 4, 1e-3, **kw)


def test_the_start_is_on_record(school):
    there = school.run.there
    assert (
        np.allclose(there["text general", "start", "surprise"], school.student.surprise(school.pages))
        and len(school.first) == 3 * 5
    )
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
    assert (
        ("forgetting", "one", "forgotten") in there
        and ("forgetting", "other", "forgotten") not in there
        and school.run.curves == ["one", "two"]
    )


def test_another_seed_is_another_order(school):
    plan = [phase(school)]
    a, b, c = (school.unmarked(plan, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a) and any(not torch.equal(a[n], c[n]) for n in a)


def test_further_lessons_begin_at_the_weights_given(school):
    taught = school.unmarked([phase(school)], 0)
    school.merged("before", taught)
    school.further("nothing new", taught, phase(school)._replace(lr=1e-12))
    school.contrasted(
        "nothing learnt", taught, rows(school), rows(school, "no"), [[0, 1], [2, 3]], beta=0.1, lr=1e-12, warmup=0
    )
    there, last = school.run.there, ("text general", "before", "surprise")
    assert not np.allclose(there[last], there["text general", "start", "surprise"], atol=1e-4)
    for arm in ("nothing new", "nothing learnt"):
        assert np.allclose(there["text general", arm, "surprise"], there[last], atol=1e-5)


def test_alone_is_graded_on_its_sheet(school):
    sheet = school.sheets["skills"]
    weights = school.alone("students", "a", phase(school), sheet)
    assert np.array_equal(school.run.there["students", "a", "accuracy"], school.student.score(sheet))
    again = school.alone("students", "b", phase(school)._replace(lr=1e-12), sheet, weights)
    assert all(torch.allclose(weights[n], again[n], atol=1e-6) for n in weights) and any(
        not torch.equal(weights[n], w) for n, w in school.student.begin.items()
    )


def test_rows_are_packed_without_changing_what_is_learnt(school):
    """Two rows of a sequence or one: the same weights but for rounding, whatever is asked for, as long as the longest
    row fits."""
    alone, packed = (setattr(school, "pack", n) or school.unmarked([phase(school)], 0) for n in (1, 400))
    assert all(torch.allclose(alone[n], packed[n], atol=1e-5) for n in alone) and any(
        not torch.equal(alone[n], packed[n]) for n in alone
    )


def test_failures_are_shares_wrong_by_leaf_of_the_weights_given(school, monkeypatch):
    asked = [Question(str(i), leaf, "skills", f"Say {i}.", "", ("yes",)) for i, leaf in enumerate("aabab")]
    sheet, taught, seen = school.student.sheet(asked), school.unmarked([phase(school)], 0), []
    school.student.load(None)
    monkeypatch.setattr(
        school.student, "score", lambda s: seen.append(school.student.weights()) or np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    )
    assert school.failures(taught, sheet) == pytest.approx({"a": 1 / 3, "b": 1.0})
    assert all(torch.equal(seen[0][n], taught[n]) for n in taught)


def checked(school, journal, monkeypatch, general, own):
    """`checkpoints` over looks whose scores are given: (plan, weights at each look, weights that sat the exams, steps
    that were kept)."""
    sheets = [school.student.sheet(school.sheets["skills"].questions) for _ in range(2)]
    given, real, merged, states, seen = (
        {id(s): iter(x) for s, x in zip(sheets, (general, own))},
        school.student.score,
        school.merged,
        {},
        [],
    )
    plan = [phase(school, "first"), phase(school, "last")._replace(steps=7, replay=0.5)]

    def score(sheet):
        if id(sheet) == id(sheets[1]):
            seen.append(school.student.weights())
        return np.array([next(given[id(sheet)])]) if id(sheet) in given else real(sheet)

    with monkeypatch.context() as patch:
        patch.setattr(school.student, "score", score)
        patch.setattr(school, "merged", lambda arm, w: (states.update({arm: w}), merged(arm, w)))
        school.checkpoints("x", plan, journal, general=sheets[0], own=sheets[1], every=2, slack=0.1)
    rules = ("best general", "best own", "early")
    return (
        plan,
        seen,
        [states[f"x, {rule}"] for rule in rules],
        [school.run.there["checkpoints", "kept", f"x, {rule}", "step"] for rule in rules],
    )


@pytest.mark.parametrize(
    ("general", "own", "kept"),
    [
        ([0.5, 0.4, 0.3, 0.2], [0.1, 0.35, 0.2, 0.4], [2, 7, 4]),  # steps 2, 4, 6 and 7
        ([0.5, 0.4, 0.5, 0.3], [0.4, 0.1, 0.4, 0.2], [6, 6, 2]),  # ties go to the last, but early is the first
        ([0.1, 0.2, 0.3, 0.4], [0.9, 0.2, 0.3, 0.4], [7, 2, 2]),
    ],
)
def test_each_rule_keeps_its_checkpoint(school, monkeypatch, general, own, kept):
    plan, seen, states, steps = checked(school, None, monkeypatch, general, own)
    assert steps == kept and len(seen) == 4
    for state, step in zip(states, kept):
        assert all(torch.equal(state[n], seen[[2, 4, 6, 7].index(step)][n]) for n in state)
    assert (
        school.run.there["checkpoints", "step 4", "x", "general"] == general[1]
        and school.run.there["checkpoints", "step 7", "x", "own"] == own[3]
    )
    last = school.curriculum("x", plan, None)
    assert all(torch.equal(last[n], seen[-1][n]) for n in last) and any(
        not torch.equal(last[n], seen[0][n]) for n in last
    )  # looking changes nothing


def test_looks_are_taken_again_where_a_journal_knows_the_end(school, tmp_path, monkeypatch):
    looks = [0.5, 0.4, 0.3, 0.1], [0.2, 0.3, 0.3, 0.1]
    first, again = (checked(school, tmp_path, monkeypatch, *looks) for _ in range(2))
    assert first[3] == again[3] == [2, 6, 2] and len(again[1]) == 4


def test_teacher_and_judge_are_the_start_model_whatever_was_taught_before(school, monkeypatch):
    from lib.studies.lab import coverage as audit
    from lib.synthesis import judges

    data = [
        {"id": str(k), "leaf": "x", "question": f"Say {k}.", "answer": f"yes {k}", "truth": {"told": "right"}}
        for k in range(4)
    ]
    student, said = school.student, []
    likely = judges.likelihood(student.model, student.tokenizer, batch=2)

    def make():
        said.append(likely(data))  # a judge is calibrated when it is made
        return judges.Judge("likelihood", lambda rows: said.append(likely(rows)) or said[-1], -9.0)

    taught = school.unmarked([phase(school)], 0)
    first = school.judged("filters", "likelihood", data, make)
    student.load(taught)
    assert school.judged("filters", "likelihood", data, make) == first and said[0] == said[1] == said[2] == said[3]
    student.load(taught)
    assert likely(data) != said[0]

    def asked(name, *_, **__):
        said.append(student.weights())
        return []

    monkeypatch.setattr(audit, "asked", asked)
    monkeypatch.setattr(audit, "coverage", lambda *_, **__: {})
    school.drawn("coverage", ["pool"], [], None, [], seed=0, calls=1, each=1)
    assert all(torch.equal(said[-1][n], student.begin[n]) for n in taught)


def test_written_answers_are_those_of_the_weights_given(school, monkeypatch):
    from lib.studies.lab import coverage as audit

    taught, seen = school.unmarked([phase(school)], 0), []
    monkeypatch.setattr(school.student, "write", lambda asked, **_: seen.append(school.student.weights()) or [])
    monkeypatch.setattr(audit, "benchmarked", lambda run, arm, *_, **__: seen.append(school.student.weights()))
    for weights in (taught, None):
        school.written("x", weights, [], [], tokens=1, batch=1, questions=None, tasks=[])
    assert (
        all(
            torch.equal(s[n], (taught if k < 2 else school.student.begin)[n])
            for k, s in enumerate(seen)
            for n in taught
        )
        and len(seen) == 4
    )


def test_what_a_teacher_draws_and_a_judge_says_goes_on_record(school):
    from lib import taxonomy
    from lib.harness import paths
    from lib.studies.lab import coverage as audit
    from lib.studies.lab import questions as exams
    from lib.synthesis import judges, teachers

    leaves = [x for x in taxonomy.load(paths.DATA / "taxonomy") if x.kind == "freeform"]
    run, writer = school.run, lambda: teachers.Templated(leaves, seed=0)
    before = set(run.there)
    sets = school.drawn(
        "coverage",
        ["pool", "leaf"],
        leaves,
        writer(),
        exams.skills(leaves, each=3),
        seed=0,
        calls=12,
        each=8,
        size=3,
        answers=True,
    )
    first = audit.asked("pool", leaves, writer(), calls=12, each=8, size=3, seed=0, answers=True)
    assert sets["pool"] == first and {k[1] for k in set(run.there) - before} == {"pool", "leaf"}
    knows = judges.oracle(leaves)
    kept = school.judged("filters", "oracle", sets["leaf"], lambda: audit.both(knows["question"], knows["pair"]))
    purity = "filters", "oracle", "purity"
    assert np.average(run.there[purity], weights=run.weights[purity]) == pytest.approx(1.0)
    assert 0 < len(kept) < len(sets["leaf"]) and all(judges.valid(row) for row in kept)
