"""Jobs begin where they say, whatever was taught before, and go on record."""

import numpy as np
import pytest
import torch

from lib import taxonomy
from lib.engine import models, phases
from lib.harness import paths
from lib.studies.lab import coverage, jobs
from lib.studies.lab.contrast import Contrast
from lib.studies.lab.curricula import GROUPS, PARTS
from lib.studies.lab.student import Student
from lib.synthesis import drawing, exams, judges, teachers, truth
from lib.synthesis.exams import Question


class Kept:
    manifest = {"settings": {}}  # nothing is kept to be taken home

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
def bench(tiny_model, byte_tokenizer):
    student = Student(
        tiny_model, byte_tokenizer, blocks=1, system="", stop_ids=models.stop_ids(tiny_model, byte_tokenizer), batch=4
    )
    exams = {
        g: student.exam(
            [Question(f"{g} {i}", "l", g, f"Say {i}.", "", (f"yes {i}",), (), (f"no {i}",)) for i in range(3)]
        )
        for g in (*GROUPS, "facts")
    }
    text = student.plain(["some plain text", "more of it"])
    return jobs.bench(Kept(), student, exams, text, phases.Tuning(seed=0, clip=1.0, micro=4, capacity=8))


def rows(bench, answer="yes"):
    return bench.student.rows([{"leaf": "x", "question": f"Say {k}.", "answer": f"{answer} {k}"} for k in range(6)])


def phase(bench, name="p", **kw):
    return phases.Phase(name, rows(bench), 3, 4, 1e-3, **kw)


def test_the_start_is_on_record(bench):
    there = bench.run.there
    assert (
        np.allclose(there["text general", "start", "surprise"], bench.student.text_loss(bench.text))
        and len(bench.start) == 3 * 5
    )
    assert there["exam skills", "start", "accuracy"].tolist() == bench.start[9:12]


def test_a_curriculum_begins_at_the_start_whatever_was_taught_before(bench, tmp_path):
    plan = [phase(bench, part, replay="all" if i else 0) for i, part in enumerate(PARTS)]
    first = jobs.curriculum(bench, "one", plan, None)
    moved = sum((first[n] - w).abs().sum().item() for n, w in bench.student.begin.items())
    jobs.examined(bench, "other", {n: w + 0.1 for n, w in first.items()})
    again = jobs.curriculum(bench, "two", plan, tmp_path)
    assert moved > 0 and all(torch.equal(first[n], again[n]) for n in first)
    there = bench.run.there
    assert np.array_equal(there["text general", "one", "surprise"], there["text general", "two", "surprise"])
    assert not np.array_equal(there["text general", "one", "surprise"], there["text general", "other", "surprise"])
    assert (
        ("forgetting", "one", "forgotten") in there
        and ("forgetting", "other", "forgotten") not in there
        and bench.run.curves == ["one", "two"]
    )


def test_another_seed_is_another_order(bench):
    plan = [phase(bench)]
    a, b, c = (jobs.unexamined(bench, plan, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a) and any(not torch.equal(a[n], c[n]) for n in a)


def test_further_jobs_begin_at_the_weights_given(bench):
    taught = jobs.unexamined(bench, [phase(bench)], 0)
    jobs.examined(bench, "before", taught)
    jobs.one_more_phase(bench, "nothing new", taught, phase(bench)._replace(lr=1e-12))
    how = Contrast(beta=0.1, lr=1e-12, warmup=0, clip=1.0, micro=4)
    jobs.contrasted(bench, "nothing learnt", taught, rows(bench), rows(bench, "no"), [[0, 1], [2, 3]], how)
    there, last = bench.run.there, ("text general", "before", "surprise")
    assert not np.allclose(there[last], there["text general", "start", "surprise"], atol=1e-4)
    for arm in ("nothing new", "nothing learnt"):
        assert np.allclose(there["text general", arm, "surprise"], there[last], atol=1e-5)


def test_one_phase_is_scored_on_its_exam(bench):
    exam = bench.exams["skills"]
    weights = jobs.one_phase(bench, "students", "a", phase(bench), exam)
    assert np.array_equal(bench.run.there["students", "a", "accuracy"], bench.student.score(exam))
    again = jobs.one_phase(bench, "students", "b", phase(bench)._replace(lr=1e-12), exam, weights)
    assert all(torch.allclose(weights[n], again[n], atol=1e-6) for n in weights) and any(
        not torch.equal(weights[n], w) for n, w in bench.student.begin.items()
    )


def test_rows_are_packed_without_changing_what_is_learnt(bench, monkeypatch):
    """Two rows of a sequence or one: the same weights but for rounding, whatever is asked for, as long as the longest
    row fits."""
    sequences, bins = [], phases.bins
    monkeypatch.setattr(phases, "bins", lambda *a: sequences.append(bins(*a)) or sequences[-1])

    def taught(capacity):
        sequences.clear()
        b = bench._replace(tuning=bench.tuning._replace(capacity=capacity))
        weights, (_, *steps) = jobs.unexamined(b, [phase(b)], 0), sequences  # the first asks whether all rows fit
        return weights, max(len(s) for s in steps)

    (alone, most), (packed, fewest) = taught(1), taught(400)
    assert fewest == 1 < most and all(torch.allclose(alone[n], packed[n], atol=1e-5) for n in alone)


def test_failures_are_shares_wrong_by_leaf_of_the_weights_given(bench, monkeypatch):
    asked = [Question(str(i), leaf, "skills", f"Say {i}.", "", ("yes",)) for i, leaf in enumerate("aabab")]
    exam, taught, seen = bench.student.exam(asked), jobs.unexamined(bench, [phase(bench)], 0), []
    bench.student.load(None)
    monkeypatch.setattr(
        bench.student, "score", lambda s: seen.append(bench.student.weights()) or np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    )
    assert jobs.failure_rates(bench, taught, exam) == pytest.approx({"a": 1 / 3, "b": 1.0})
    assert all(torch.equal(seen[0][n], taught[n]) for n in taught)


def checked(bench, journal, monkeypatch, general, own):
    """`checkpoints` over looks whose scores are given: (plan, weights at each look, weights that sat the exams, steps
    that were kept)."""
    looked = [bench.student.exam(bench.exams["skills"].questions) for _ in range(2)]
    given = {id(exam): iter(x) for exam, x in zip(looked, (general, own))}
    real, examined, states, seen = bench.student.score, jobs.examined, {}, []
    plan = [phase(bench, "first"), phase(bench, "last")._replace(steps=7, replay=0.5)]

    def score(exam):
        if exam is looked[1]:
            seen.append(bench.student.weights())
        return np.array([next(given[id(exam)])]) if id(exam) in given else real(exam)

    def keep(b, arm, weights):
        states[arm] = weights
        examined(b, arm, weights)

    with monkeypatch.context() as patch:
        patch.setattr(bench.student, "score", score)
        patch.setattr(jobs, "examined", keep)
        jobs.checkpoints(bench, "x", plan, journal, general=looked[0], own=looked[1], every=2, slack=0.1)
    rules = ("best general", "best own", "early")
    return (
        plan,
        seen,
        [states[f"x, {rule}"] for rule in rules],
        [bench.run.there["checkpoints", "kept", f"x, {rule}", "step"] for rule in rules],
    )


@pytest.mark.parametrize(
    ("general", "own", "kept"),
    [
        ([0.5, 0.4, 0.3, 0.2], [0.1, 0.35, 0.2, 0.4], [2, 7, 4]),  # steps 2, 4, 6 and 7
        ([0.5, 0.4, 0.5, 0.3], [0.4, 0.1, 0.4, 0.2], [6, 6, 2]),  # ties go to the last, but early is the first
        ([0.1, 0.2, 0.3, 0.4], [0.9, 0.2, 0.3, 0.4], [7, 2, 2]),
    ],
)
def test_each_rule_keeps_its_checkpoint(bench, monkeypatch, general, own, kept):
    plan, seen, states, steps = checked(bench, None, monkeypatch, general, own)
    assert steps == kept and len(seen) == 4
    for state, step in zip(states, kept):
        assert all(torch.equal(state[n], seen[[2, 4, 6, 7].index(step)][n]) for n in state)
    assert (
        bench.run.there["checkpoints", "step 4", "x", "general"] == general[1]
        and bench.run.there["checkpoints", "step 7", "x", "own"] == own[3]
    )
    last = jobs.curriculum(bench, "x", plan, None)
    assert all(torch.equal(last[n], seen[-1][n]) for n in last) and any(
        not torch.equal(last[n], seen[0][n]) for n in last
    )  # looking changes nothing


def test_looks_are_taken_again_where_a_journal_knows_the_end(bench, tmp_path, monkeypatch):
    looks = [0.5, 0.4, 0.3, 0.1], [0.2, 0.3, 0.3, 0.1]
    first, again = (checked(bench, tmp_path, monkeypatch, *looks) for _ in range(2))
    assert first[3] == again[3] == [2, 6, 2] and len(again[1]) == 4


def test_teacher_and_judge_are_the_start_model_whatever_was_taught_before(bench, monkeypatch):
    data = [
        {"id": str(k), "leaf": "x", "question": f"Say {k}.", "answer": f"yes {k}", "truth": {"told": "right"}}
        for k in range(4)
    ]
    student, said = bench.student, []
    likely = judges.likelihood(student.model, student.tokenizer, batch=2)

    def make():
        said.append(likely(data))  # a judge is calibrated when it is made
        return judges.Judge("likelihood", lambda rows: said.append(likely(rows)) or said[-1], -9.0)

    taught = jobs.unexamined(bench, [phase(bench)], 0)
    first = jobs.judge(bench, "filters", "likelihood", data, make)
    student.load(taught)
    assert jobs.judge(bench, "filters", "likelihood", data, make) == first and said[0] == said[1] == said[2] == said[3]
    student.load(taught)
    assert likely(data) != said[0]

    def asked(name, *_, **__):
        said.append(student.weights())
        return []

    monkeypatch.setattr(drawing, "questions", asked)
    monkeypatch.setattr(coverage, "measure", lambda *_, **__: {})
    how = drawing.Draw(calls=1, size=1, each=1, seed=0, answers=False)
    jobs.draw(bench, "coverage", ["pool"], [], None, [], how)
    assert all(torch.equal(said[-1][n], student.begin[n]) for n in taught)


def test_written_answers_are_those_of_the_weights_given(bench, monkeypatch):
    taught, seen = jobs.unexamined(bench, [phase(bench)], 0), []
    monkeypatch.setattr(bench.student, "write", lambda asked, **_: seen.append(bench.student.weights()) or [])
    monkeypatch.setattr(jobs, "record_benchmarks", lambda run, arm, *_: seen.append(bench.student.weights()))
    for weights in (taught, None):
        jobs.written(bench, "x", weights, [], [], jobs.Writing(tokens=1, batch=1, questions=None, tasks=[]))
    assert (
        all(
            torch.equal(s[n], (taught if k < 2 else bench.student.begin)[n]) for k, s in enumerate(seen) for n in taught
        )
        and len(seen) == 4
    )


def test_what_a_teacher_draws_and_a_judge_says_goes_on_record(bench):
    leaves = [x for x in taxonomy.load(paths.DATA / "taxonomy") if x.kind == "freeform"]
    run, writer = bench.run, lambda: teachers.Templated(leaves, seed=0)
    before = set(run.there)
    how = drawing.Draw(calls=12, size=3, each=8, seed=0, answers=True)
    sets = jobs.draw(bench, "coverage", ["pool", "leaf"], leaves, writer(), exams.skills(leaves, each=3), how)
    first = drawing.questions("pool", leaves, writer(), how)
    assert sets["pool"] == first and {k[1] for k in set(run.there) - before} == {"pool", "leaf"}
    knows = judges.oracle(leaves)
    kept = jobs.judge(bench, "filters", "oracle", sets["leaf"], lambda: judges.both(knows["question"], knows["pair"]))
    purity = "filters", "oracle", "purity"
    assert np.average(run.there[purity], weights=run.weights[purity]) == pytest.approx(1.0)
    assert 0 < len(kept) < len(sets["leaf"]) and all(truth.valid(row) for row in kept)


def test_scores_go_on_record_with_the_worst_leaf(bench):
    asked = [Question(str(i), "ab"[i % 2], "skills", "?", "", ("x",)) for i in range(4)]
    jobs.record_scores(bench.run, "students", "arm", bench.student.exam(asked), np.array([1.0, 0, 1, 1]))
    there = bench.run.there
    assert there["students", "arm", "accuracy"].tolist() == [1, 0, 1, 1]
    assert there["students", "skills", "arm", "worst leaf"] == 0.5
