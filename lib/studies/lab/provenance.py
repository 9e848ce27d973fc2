"""What the generated rows are taken home with: where each comes from, what the judges said, why a row was dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.harness import take_home
from lib.synthesis.judges import Judge
from lib.synthesis.pipelines import Result, messages
from lib.synthesis.teachers import Teacher

KEPT = "a question and its answer as messages, with leaf, seed examples, teacher, judges' scores; taught_in: the part "
KEPT += "of the curriculum that teaches it, null for none"
DROPPED = "what was dropped, with leaf, seed examples, teacher, judges' scores as far as they went, fate and reason"


def keep(
    run,
    made: Mapping[str, Result],
    parts: Mapping[str, Sequence[dict]],
    *,
    system: str,
    teacher: Teacher,
    judges: Mapping[str, Judge],
) -> None:
    """Where KEEP names the data, write the rows kept and those dropped beside the run's tables.

    parts: what is taught, by part of the curriculum; rows that are in none were like an exam's question or one too many
    of their leaf.
    """
    if not take_home.wanted(run.manifest, take_home.DATA):
        return
    taught = {row["id"]: part for part, rows in parts.items() for row in rows}
    kept, lost = told(made, system=system, teacher=teacher, judges=judges)
    take_home.keep_rows(run, "rows", [row | {"taught_in": taught.get(row["id"])} for row in kept], KEPT)
    take_home.keep_rows(run, "dropped", lost, DROPPED)


def told(
    made: Mapping[str, Result], *, system: str, teacher: Teacher, judges: Mapping[str, Judge]
) -> tuple[list[dict], list[dict]]:
    """(rows kept, rows dropped) as they are taken home."""
    by = {"teacher": teacher.name, "judges": {stage: judge.name for stage, judge in judges.items()}}
    kept = [
        {"messages": messages(row, system)} | _told(row, name, result) | by
        for name, result in made.items()
        for row in result.rows
    ]
    lost = [
        {"fate": row["fate"], "reason": row["dropped"]}
        | {field: row[field] for field in ("question", "answer", "reply") if row.get(field)}
        | _told(row, name, result)
        | by
        for name, result in made.items()
        for row in result.dropped
    ]
    return kept, lost


def _told(row: dict, pipeline: str, result: Result) -> dict:
    """Where a row comes from, and what the judges said of it."""
    prompt = result.prompts[row["leaf"], row["call"]]
    return {
        "id": row["id"],
        "leaf": row["leaf"],
        "task": prompt.task,
        "pipeline": pipeline,
        "context": row.get("context") or None,
        "seed_examples": [x._asdict() for x in prompt.examples],
        "scores": row.get("scores", {}),
    }
