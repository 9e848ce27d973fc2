"""Questions drawn with a named sampler: what samplers are compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lib.synthesis import phrases, samplers, truth
from lib.synthesis.blocks import Block, Generate, Unique
from lib.synthesis.pipelines import run, seeded
from lib.synthesis.teachers import Teacher
from lib.taxonomy.tree import Leaf


class Draw(NamedTuple):
    """`calls` prompts of `size` examples, each for `each` questions.

    answers: with the teacher's answers, which self-instruct needs to feed them back. quotas: calls of each leaf, for
    the sampler "leaf" alone.
    """

    calls: int
    size: int
    each: int
    seed: int
    answers: bool
    quotas: Mapping[str, int] | None = None


def questions(name: str, leaves: Sequence[Leaf], teacher: Teacher, how: Draw) -> list[dict]:
    """What the calls gave, without duplicates and copied seeds; `kind` is the leaf of whose form a question is, "" for
    none.

    A question is valid if it has a kind: only then can it be answered.
    """
    of = {leaf.checker: leaf.path for leaf in leaves}
    sampler = samplers.named(name, leaves, calls=how.calls, size=how.size, seed=how.seed, quotas=how.quotas)
    blocks: list[Block] = [Generate("questions", teacher, "questions", how.each), Unique("unique questions")]
    if how.answers:
        blocks.append(Generate("answers", teacher, "answer"))
    together = how.calls if name != "self-instruct" else 1  # what is fed back has to be there
    made = run(sampler, blocks, journal=None, desc=name, seen=seeded(leaves), batch=together)
    return [row | {"kind": of.get(truth.form(row["question"]), "")} for row in made.rows]


def answered(rows: Sequence[dict], leaves: Sequence[Leaf]) -> list[dict]:
    """The valid rows, each of the leaf of its kind and with a right answer, explained in every second row."""
    checker = {leaf.path: leaf.checker or "" for leaf in leaves}
    valid = [row | {"leaf": row["kind"], "context": ""} for row in rows if row["kind"]]
    return [
        row | {"answer": phrases.right(checker[row["leaf"]], row["question"], "", i % 2 == 1)}
        for i, row in enumerate(valid)
    ]
