"""What is done with the student of LAB, each piece a job of its own: begin at given weights, train, be examined, go on
record.

Every job loads the weights it begins at, so that jobs can be done in any order, or side by side
(`lib.harness.workers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib import scoring
from lib.engine import keeping, phases
from lib.engine.merging import Weights
from lib.engine.packing import Row
from lib.engine.phases import Done, Phase, Tuning
from lib.studies.lab import contrast, coverage, forgetting, judging
from lib.studies.lab.contrast import Contrast
from lib.studies.lab.student import Exam, Student
from lib.synthesis import drawing
from lib.synthesis.drawing import Draw
from lib.synthesis.exams import Question, accepted
from lib.synthesis.judges import Judge
from lib.synthesis.teachers import Teacher
from lib.taxonomy.tree import Leaf


class Bench(NamedTuple):
    """What all jobs of a run share: where they record, the student, its exams and plain text, how it is trained, and
    the start model's scores on every exam.

    tuning: its capacity is that of a packed sequence, or the longest row where that is longer.
    """

    run: Any
    student: Student
    exams: Mapping[str, Exam]
    text: Exam
    tuning: Tuning
    start: list[float]


def bench(run, student: Student, exams: Mapping[str, Exam], text: Exam, tuning: Tuning) -> Bench:
    """A bench; the start model's own scores are taken and recorded at once."""
    student.load(None)
    made = Bench(run, student, exams, text, tuning, forgetting.examine(student, exams))
    _record(made, "start", [], [])
    return made


def _record(b: Bench, arm: str, order: Sequence[str], scores: Sequence[Sequence[float]]) -> None:
    """The exams after each phase of `order`, and what general text costs the student as it is."""
    forgetting.record(b.run, arm, b.exams, order, [b.start, *scores])
    b.run.items("text general", arm, "surprise", range(len(b.text.rows)), b.student.text_loss(b.text))


def _examine(b: Bench) -> list[float]:
    return forgetting.examine(b.student, b.exams)


def _train(b: Bench, plan: Sequence[Phase], begin: Weights | None, seed: int | None = None, **more) -> list[Done]:
    b.student.load(begin)
    longest = max(len(p) + len(a) for phase in plan for p, a in phase.rows)
    how = b.tuning._replace(capacity=max(b.tuning.capacity or 0, longest))
    if seed is not None:
        how = how._replace(seed=seed)
    return phases.run(b.student.latent, b.student.loss, plan, how, **more)


# ---- the start model as teacher and as judge


def draw(
    b: Bench,
    dataset: str,
    names: Sequence[str],
    leaves: Sequence[Leaf],
    teacher: Teacher,
    held_out: Sequence[Question],
    how: Draw,
) -> dict[str, list[dict]]:
    """One repetition of every sampler with one teacher: {sampler: rows}, their coverage recorded."""
    b.student.load(None)
    sets = {name: drawing.questions(name, leaves, teacher, how) for name in names}
    found = coverage.measure(sets, leaves, generated=how.calls * how.each, held_out=held_out, seed=how.seed)
    coverage.record(b.run, dataset, how.seed, found)
    return sets


def judge(b: Bench, dataset: str, name: str, rows: Sequence[dict], make: Callable[[], Judge]) -> list[dict]:
    """A judge is calibrated, which takes a model some time, and gives its verdicts on rows with hidden truth: the rows
    it keeps."""
    b.student.load(None)
    made = make()
    scores = made.score(rows)
    judging.record(b.run, dataset, name, rows, scores, least=made.least)
    return [row for row, keep in zip(rows, judging.passes(scores, made.least)) if keep]


# ---- training


def curriculum(b: Bench, arm: str, plan: Sequence[Phase], journal: Path | None) -> Weights:
    """An arm of phases from the start: the weights it ends at. journal: see `phases.run`."""
    done = _train(b, plan, None, evaluate=lambda: _examine(b), journal=journal)
    _record(b, arm, [d.name for d in done], [d.scores for d in done])
    steps = [row | {"phase": at} for at, d in enumerate(done) for row in d.curve]
    b.run.curve(arm, [row | {"step": i} for i, row in enumerate(steps, 1)])
    keeping.keep(b.run, arm, b.student.model, b.student.latent.linears)
    return b.student.weights()


def unexamined(b: Bench, plan: Sequence[Phase], seed: int) -> Weights:
    """Phases from the start in another order, without an exam: the weights alone."""
    _train(b, plan, None, seed)
    return b.student.weights()


def one_phase(b: Bench, dataset: str, arm: str, phase: Phase, exam: Exam, begin: Weights | None = None) -> Weights:
    """One phase, from the start if nothing else is said, and one exam: what a sampler's or a judge's rows are worth;
    the weights it ends at."""
    _train(b, [phase], begin)
    record_scores(b.run, dataset, arm, exam, b.student.score(exam))
    return b.student.weights()


def one_more_phase(b: Bench, arm: str, weights: Weights, phase: Phase) -> None:
    """A phase after the last, and all exams."""
    _train(b, [phase], weights)
    _record(b, arm, [phase.name], [_examine(b)])


def contrasted(
    b: Bench,
    arm: str,
    weights: Weights,
    chosen: Sequence[Row],
    rejected: Sequence[Row],
    batches: Sequence[Sequence[int]],
    how: Contrast,
) -> None:
    """Contrastive post-training, see `contrast.tune`, and all exams."""
    b.student.load(weights)
    b.run.curve(arm, contrast.tune(b.student, chosen, rejected, batches, how, desc=arm))
    _record(b, arm, ["contrast"], [_examine(b)])


def checkpoints(
    b: Bench,
    arm: str,
    plan: Sequence[Phase],
    journal: Path | None,
    *,
    general: Exam,
    own: Exam,
    every: int,
    slack: float,
) -> None:
    """The last phase looked at every few steps; what each rule would have kept of it is examined.

    best general: by questions of which nothing is taught; best own: by questions of the last phase's kind; early: the
    first within `slack` of that. Of equally good looks the best is the last: choosing shall not gain by a tie. Both
    exams hold other questions than the bench's. The earlier phases are found in the journal, if they were taught
    before.
    """
    looks, states = {"general": [], "own": []}, {}

    def best(name: str) -> int:
        return len(looks[name]) - 1 - phases.pick(looks[name][::-1])

    def look() -> float:
        for name, exam in (("general", general), ("own", own)):
            looks[name].append(float(b.student.score(exam).mean()))
        states[len(looks["own"]) - 1] = b.student.weights()
        near = (k for k, x in enumerate(looks["own"]) if x >= max(looks["own"]) - slack)
        for k in states.keys() - {best("general"), best("own"), *near}:
            del states[k]  # no rule can choose it any more
        return len(looks["own"])  # the last is best: so the phase ends as it would without looks

    watched = [*plan[:-1], plan[-1]._replace(keep="best", score=look, every=every)]
    _train(b, watched, None, evaluate=lambda: _examine(b), journal=journal)
    if not states:  # a run that was stopped had come to the end of it, and the journal holds no looks
        _train(b, watched, None)
    steps = [min((k + 1) * every, plan[-1].steps) for k in range(len(looks["own"]))]
    for name, values in looks.items():
        for step, value in zip(steps, values):
            b.run.metric("checkpoints", f"step {step}", arm, name, value)
    chosen = {"best general": best("general"), "best own": best("own"), "early": phases.pick(looks["own"], slack)}
    for rule, k in chosen.items():
        b.run.metric("checkpoints", "kept", f"{arm}, {rule}", "step", steps[k])
        examined(b, f"{arm}, {rule}", states[k])


# ---- without training


def examined(b: Bench, arm: str, weights: Weights) -> None:
    """Merged weights, or those of a checkpoint: the exams only."""
    b.student.load(weights)
    _record(b, arm, ["merged"], [_examine(b)])


def failure_rates(b: Bench, weights: Weights, exam: Exam) -> dict[str, float]:
    """{leaf: share wrong} of an exam: what `samplers.weighted_quotas` shares out the next calls by."""
    b.student.load(weights)
    score, leaves = b.student.score(exam), [q.leaf for q in exam.questions]
    return {leaf: 1 - float(score[[x == leaf for x in leaves]].mean()) for leaf in dict.fromkeys(leaves)}


class Writing(NamedTuple):
    """Tokens of an answer at most, and answers written together; the file of our own multiple-choice task, and tasks of
    lm-eval besides ("name:shots")."""

    tokens: int
    batch: int
    questions: Path
    tasks: Sequence[str]


def written(
    b: Bench, arm: str, weights: Weights | None, asked: Sequence[Question], leaves: Sequence[Leaf], how: Writing
) -> list[str]:
    """Greedy answers, judged by the checkers, and general questions without a chat template; the answers."""
    b.student.load(weights)
    texts = b.student.write(asked, max_new_tokens=how.tokens, batch=how.batch)
    b.run.items("written", arm, "accuracy", [q.id for q in asked], accepted(asked, texts, leaves))
    record_benchmarks(b.run, arm, b.student, how.questions, how.tasks)
    return texts


# ---- into the results


def record_scores(run, dataset: str, arm: str, exam: Exam, score: np.ndarray) -> None:
    """A student's score on every question of an exam, and the mean of its worst leaf."""
    leaves = [q.leaf for q in exam.questions]
    run.items(dataset, arm, "accuracy", [q.id for q in exam.questions], score)
    means = [float(score[[x == leaf for x in leaves]].mean()) for leaf in set(leaves)]
    run.metric(dataset, "skills", arm, "worst leaf", min(means))


def record_benchmarks(run, arm: str, student: Student, questions: Path, tasks: Sequence[str]) -> None:
    """The student as it is, through lm-evaluation-harness and without a chat template: our questions, and tasks of its
    own."""
    model, tokenizer, batch = student.model, student.tokenizer, student.batch
    got = scoring.multiple_choice(model, tokenizer, scoring.load_task(questions), batch_size=batch)
    run.items("questions", arm, "accuracy", got.ids, got.correct)
    for name, found in scoring.benchmarks(model, tokenizer, tasks, batch_size=batch).items():
        for metric, value in found.items():
            run.metric("benchmarks", name, arm, metric, value)
