"""What a student of LAB is put through, each lesson a job of its own: begin at given weights, be taught, sit the exams, go on record.

Every lesson loads the weights it begins at, so that lessons can be given in any order, or side by side (`lib.harness.workers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lib import audit, curricula, exams, phases
from lib.exams import Question
from lib.judges import Judge
from lib.merging import Weights
from lib.phases import Phase, Row
from lib.students import Sheet, Student


class Lessons:
    """One student, its exams (`sheets`) and plain text (`pages`); the start model's own marks are taken and recorded at once.

    how: what `phases.run` takes besides: seed, clip, micro.
    """

    def __init__(self, run, student: Student, sheets: dict[str, Sheet], pages: Sheet, **how):
        self.run, self.student, self.sheets, self.pages, self.how = run, student, sheets, pages, how
        self.examine = curricula.examiner(student, sheets)
        student.load(None)
        self.first = self.examine()
        self._enter("start", [], [])

    def _enter(self, arm: str, order: Sequence[str], scores: Sequence[Sequence[float]]) -> None:
        """Record the exams after each phase of `order`, and what general text costs the student as it is."""
        curricula.record(self.run, arm, self.sheets, order, [self.first, *scores])
        self.run.items("text general", arm, "surprise", range(len(self.pages.rows)), self.student.surprise(self.pages))

    def curriculum(self, arm: str, plan: Sequence[Phase], journal: Path | None) -> Weights:
        """An arm of phases from the start: the weights it ends at. journal: see `phases.run`."""
        self.student.load(None)
        done = phases.run(self.student.latent, self.student.loss, plan, evaluate=self.examine, journal=journal, **self.how)
        self._enter(arm, [d.name for d in done], [d.scores for d in done])
        self.run.curve(arm, [row | {"step": i, "phase": at} for i, (at, row) in enumerate(((at, row) for at, d in enumerate(done) for row in d.curve), 1)])
        return self.student.weights()

    def unmarked(self, plan: Sequence[Phase], seed: int) -> Weights:
        """Phases from the start in another order, without an exam: the weights alone."""
        self.student.load(None)
        phases.run(self.student.latent, self.student.loss, plan, **(self.how | {"seed": seed}))
        return self.student.weights()

    def alone(self, dataset: str, arm: str, phase: Phase, sheet: Sheet) -> None:
        """One phase from the start, and one exam: what a sampler's or a judge's rows are worth."""
        self.student.load(None)
        phases.run(self.student.latent, self.student.loss, [phase], **self.how)
        audit.grades(self.run, dataset, arm, sheet, self.student.score(sheet))

    def merged(self, arm: str, weights: Weights) -> None:
        """No lesson, the exams only."""
        self.student.load(weights)
        self._enter(arm, ["merged"], [self.examine()])

    def contrasted(self, arm: str, weights: Weights, chosen: Sequence[Row], rejected: Sequence[Row], plan: Sequence[Sequence[int]], **how) -> None:
        """Contrastive post-training, see `curricula.contrast`."""
        self.student.load(weights)
        self.run.curve(arm, curricula.contrast(self.student, chosen, rejected, plan, clip=self.how["clip"], micro=self.how["micro"], desc=arm, **how))
        self._enter(arm, ["contrast"], [self.examine()])

    def further(self, arm: str, weights: Weights, phase: Phase) -> None:
        """One phase more."""
        self.student.load(weights)
        phases.run(self.student.latent, self.student.loss, [phase], **self.how)
        self._enter(arm, [phase.name], [self.examine()])

    def written(self, arm: str, weights: Weights | None, asked: Sequence[Question], leaves, *, tokens: int, batch: int, questions: Path, tasks: Sequence[str]) -> list[str]:
        """Greedy answers, judged by the checkers, and general questions without a chat template; the answers."""
        s = self.student
        s.load(weights)
        texts = s.write(asked, max_new_tokens=tokens, batch=batch)
        self.run.items("written", arm, "accuracy", [q.id for q in asked], exams.accepted(asked, texts, leaves))
        audit.benchmarked(self.run, arm, s.model, s.tokenizer, questions, tasks, batch=s.batch)
        return texts


def assessed(run, dataset: str, name: str, rows: Sequence[dict], make: Callable[[], Judge]) -> None:
    """A judge is calibrated, which takes a model some time, and gives its verdicts on rows with hidden truth."""
    judge = make()
    audit.judged(run, dataset, name, rows, judge.score(rows), least=judge.least)


def drawn(run, dataset: str, names: Sequence[str], leaves, writer, held_out: Sequence[Question], *, seed: int, calls: int, each: int, **many) -> dict[str, list[dict]]:
    """One repetition of every sampler with one teacher: {sampler: rows}, their coverage recorded. many: what `audit.asked` takes besides."""
    sets = {name: audit.asked(name, leaves, writer, seed=seed, calls=calls, each=each, **many) for name in names}
    audit.record(run, dataset, seed, audit.coverage(sets, leaves, generated=calls * each, held_out=held_out, seed=seed))
    return sets
