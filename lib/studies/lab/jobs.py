"""What a student of LAB is put through, each lesson a job of its own: begin at given weights, be taught, sit the exams,
go on record.

Every lesson loads the weights it begins at, so that lessons can be given in any order, or side by side
(`lib.harness.workers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lib.engine import phases
from lib.engine.merging import Weights
from lib.engine.phases import Done, Phase, Row
from lib.studies.lab import coverage as audit
from lib.studies.lab import curricula
from lib.studies.lab import questions as exams
from lib.studies.lab.questions import Question
from lib.studies.lab.student import Sheet, Student
from lib.synthesis.judges import Judge


class Lessons:
    """One student, its exams (`sheets`) and plain text (`pages`); the start model's own marks are taken and recorded at
    once.

    pack: tokens of a sequence in which several rows are trained together; as long as the longest row where that is
    longer.
    how: what `phases.run` takes besides: seed, clip, micro.
    """

    def __init__(self, run, student: Student, sheets: dict[str, Sheet], pages: Sheet, *, pack: int, **how):
        self.run, self.student, self.sheets, self.pages, self.pack, self.how = run, student, sheets, pages, pack, how
        self.examine = curricula.examiner(student, sheets)
        student.load(None)
        self.first = self.examine()
        self._enter("start", [], [])

    def _enter(self, arm: str, order: Sequence[str], scores: Sequence[Sequence[float]]) -> None:
        """Record the exams after each phase of `order`, and what general text costs the student as it is."""
        curricula.record(self.run, arm, self.sheets, order, [self.first, *scores])
        self.run.items("text general", arm, "surprise", range(len(self.pages.rows)), self.student.surprise(self.pages))

    # ---- the start model as teacher and as judge

    def drawn(
        self,
        dataset: str,
        names: Sequence[str],
        leaves,
        writer,
        held_out: Sequence[Question],
        *,
        seed: int,
        calls: int,
        each: int,
        **many,
    ) -> dict[str, list[dict]]:
        """One repetition of every sampler with one teacher: {sampler: rows}, their coverage recorded. many: what
        `audit.asked` takes besides."""
        self.student.load(None)
        sets = {name: audit.asked(name, leaves, writer, seed=seed, calls=calls, each=each, **many) for name in names}
        audit.record(
            self.run, dataset, seed, audit.coverage(sets, leaves, generated=calls * each, held_out=held_out, seed=seed)
        )
        return sets

    def judged(self, dataset: str, name: str, rows: Sequence[dict], make: Callable[[], Judge]) -> list[dict]:
        """A judge is calibrated, which takes a model some time, and gives its verdicts on rows with hidden truth: the
        rows it keeps."""
        self.student.load(None)
        judge = make()
        scores = judge.score(rows)
        audit.judged(self.run, dataset, name, rows, scores, least=judge.least)
        return [row for row, keep in zip(rows, audit.verdicts(scores, judge.least)) if keep]

    # ---- lessons

    def _teach(self, plan: Sequence[Phase], begin: Weights | None, **more) -> list[Done]:
        self.student.load(begin)
        longest = max(len(p) + len(a) for phase in plan for p, a in phase.rows)
        return phases.run(
            self.student.latent, self.student.loss, plan, capacity=max(self.pack, longest), **(self.how | more)
        )

    def curriculum(self, arm: str, plan: Sequence[Phase], journal: Path | None) -> Weights:
        """An arm of phases from the start: the weights it ends at. journal: see `phases.run`."""
        done = self._teach(plan, None, evaluate=self.examine, journal=journal)
        self._enter(arm, [d.name for d in done], [d.scores for d in done])
        self.run.curve(
            arm,
            [
                row | {"step": i, "phase": at}
                for i, (at, row) in enumerate(((at, row) for at, d in enumerate(done) for row in d.curve), 1)
            ],
        )
        return self.student.weights()

    def unmarked(self, plan: Sequence[Phase], seed: int) -> Weights:
        """Phases from the start in another order, without an exam: the weights alone."""
        self._teach(plan, None, seed=seed)
        return self.student.weights()

    def alone(self, dataset: str, arm: str, phase: Phase, sheet: Sheet, begin: Weights | None = None) -> Weights:
        """One phase, from the start if nothing else is said, and one exam: what a sampler's or a judge's rows are
        worth; the weights it ends at."""
        self._teach([phase], begin)
        audit.grades(self.run, dataset, arm, sheet, self.student.score(sheet))
        return self.student.weights()

    def failures(self, weights: Weights, sheet: Sheet) -> dict[str, float]:
        """{leaf: share wrong} of a sheet: what `samplers.weighted_quotas` shares out the next calls by."""
        self.student.load(weights)
        score, leaves = self.student.score(sheet), [q.leaf for q in sheet.questions]
        return {leaf: 1 - float(score[[x == leaf for x in leaves]].mean()) for leaf in dict.fromkeys(leaves)}

    def checkpoints(
        self,
        arm: str,
        plan: Sequence[Phase],
        journal: Path | None,
        *,
        general: Sheet,
        own: Sheet,
        every: int,
        slack: float,
    ) -> None:
        """The last phase looked at every few steps; what each rule would have kept of it sits the exams.

        best general: by questions of which nothing is taught; best own: by questions of the last phase's kind; early:
        the first within `slack` of that. Of equally good looks the best is the last: choosing shall not gain by a tie.
        Both sheets hold other questions than the exams. The earlier phases are found in the journal, if they were
        taught before.
        """
        looks, states = {"general": [], "own": []}, {}
        best = lambda name: len(looks[name]) - 1 - phases.pick(looks[name][::-1])  # noqa: E731

        def look() -> float:
            for name, sheet in (("general", general), ("own", own)):
                looks[name].append(float(self.student.score(sheet).mean()))
            states[len(looks["own"]) - 1] = self.student.weights()
            near = (k for k, x in enumerate(looks["own"]) if x >= max(looks["own"]) - slack)
            for k in states.keys() - {best("general"), best("own"), *near}:
                del states[k]  # no rule can choose it any more
            return len(looks["own"])  # the last is best: so the phase ends as it would without looks

        watched = [*plan[:-1], plan[-1]._replace(keep="best", score=look, every=every)]
        self._teach(watched, None, evaluate=self.examine, journal=journal)
        if not states:  # a run that was stopped had come to the end of it, and the journal holds no looks
            self._teach(watched, None)
        step = lambda k: min((k + 1) * every, plan[-1].steps)  # noqa: E731
        for name, values in looks.items():
            for k, value in enumerate(values):
                self.run.metric("checkpoints", f"step {step(k)}", arm, name, value)
        for rule, k in (
            ("best general", best("general")),
            ("best own", best("own")),
            ("early", phases.pick(looks["own"], slack)),
        ):
            self.run.metric("checkpoints", "kept", f"{arm}, {rule}", "step", step(k))
            self.merged(f"{arm}, {rule}", states[k])

    def merged(self, arm: str, weights: Weights) -> None:
        """No lesson, the exams only."""
        self.student.load(weights)
        self._enter(arm, ["merged"], [self.examine()])

    def contrasted(
        self,
        arm: str,
        weights: Weights,
        chosen: Sequence[Row],
        rejected: Sequence[Row],
        plan: Sequence[Sequence[int]],
        **how,
    ) -> None:
        """Contrastive post-training, see `curricula.contrast`."""
        self.student.load(weights)
        self.run.curve(
            arm,
            curricula.contrast(
                self.student, chosen, rejected, plan, clip=self.how["clip"], micro=self.how["micro"], desc=arm, **how
            ),
        )
        self._enter(arm, ["contrast"], [self.examine()])

    def further(self, arm: str, weights: Weights, phase: Phase) -> None:
        """One phase more."""
        self._teach([phase], weights)
        self._enter(arm, [phase.name], [self.examine()])

    def written(
        self,
        arm: str,
        weights: Weights | None,
        asked: Sequence[Question],
        leaves,
        *,
        tokens: int,
        batch: int,
        questions: Path,
        tasks: Sequence[str],
    ) -> list[str]:
        """Greedy answers, judged by the checkers, and general questions without a chat template; the answers."""
        s = self.student
        s.load(weights)
        texts = s.write(asked, max_new_tokens=tokens, batch=batch)
        self.run.items("written", arm, "accuracy", [q.id for q in asked], exams.accepted(asked, texts, leaves))
        audit.benchmarked(self.run, arm, s.model, s.tokenizer, questions, tasks, batch=s.batch)
        return texts
