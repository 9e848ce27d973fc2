"""The exams after each phase: what they gave, what was forgotten since, and how that goes on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lib.studies.lab.curricula import GROUPS, PARTS
from lib.studies.lab.student import Exam, Student


def examine(student: Student, exams: Mapping[str, Exam]) -> list[float]:
    """What `phases.run` asks after each phase: every question's score, exam after exam."""
    return [float(x) for exam in exams.values() for x in student.score(exam)]


def by_exam(exams: Mapping[str, Exam], scores: Sequence[float]) -> dict[str, np.ndarray]:
    """What `examine` gave, {exam: (N,)}."""
    ends = np.cumsum([len(exam.questions) for exam in exams.values()])
    return dict(zip(exams, np.split(np.asarray(scores, float), ends[:-1])))


def forgotten(order: Sequence[str], scores: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of every question, the score right after the phase that teaches its group, less the one at the end.

    scores: row 0 of the start model, then one after each phase of `order`. The general group counts from the start; the
    last phase's own is left out.
    """
    out = {GROUPS[0]: scores[0][GROUPS[0]] - scores[-1][GROUPS[0]]}
    for part in (p for p in order[:-1] if p in PARTS):
        out[part] = scores[order.index(part) + 1][part] - scores[-1][part]
    return out


def record(run, arm: str, exams: Mapping[str, Exam], order: Sequence[str], scores: Sequence[Sequence[float]]) -> None:
    """An arm's exams: each question's last score ("exam", where every group weighs the same), what was forgotten, and
    the matrix R of means."""
    rows = [by_exam(exams, s) for s in scores]
    for name, values in rows[-1].items():
        run.items(f"exam {name}", arm, "accuracy", [q.id for q in exams[name].questions], values)
    _record_groups(run, "exam", arm, "accuracy", exams, {g: rows[-1][g] for g in GROUPS})
    if len(order) > 1:
        _record_groups(run, "forgetting", arm, "forgotten", exams, forgotten(order, rows))
    for i, row in enumerate(rows):
        for name, values in row.items():
            run.metric("after phase", f"{i} {(order[i - 1] if i else 'start')}", arm, name, float(values.mean()))


def _record_groups(
    run, dataset: str, arm: str, metric: str, exams: Mapping[str, Exam], groups: Mapping[str, np.ndarray]
) -> None:
    """Every question of the groups, so weighted that each group weighs the same."""
    ids = [f"{group} {q.id}" for group in groups for q in exams[group].questions]
    weights = [1 / len(values) for values in groups.values() for _ in values]
    run.items(dataset, arm, metric, ids, np.concatenate(list(groups.values())), weights)
