"""Held-out questions: new, answerable, right answers that the checkers accept, and nothing that was taught."""

import numpy as np
import pytest

from lib import scoring, taxonomy
from lib.harness import paths, presets
from lib.studies.lab import questions
from lib.synthesis import exams, phrases, truth

LEAVES = taxonomy.load(paths.DATA / "taxonomy")
SKILLS = [leaf for leaf in LEAVES if leaf.kind != "knowledge"]
KNOWN = next(leaf for leaf in LEAVES if leaf.path.endswith("grubbet"))


def test_general_questions_are_divided_evenly():
    pool = questions.general(paths.DATA / "questions.yaml")
    for asked, checks in ((80, 160), (8, 8), (1, 1), (200, 40)):
        a, b = questions.split(pool, asked, checks)
        assert (
            len(a) == len({q.id for q in a}) == asked
            and len(b) == len({q.id for q in b}) == checks
            and not {q.id for q in a} & {q.id for q in b}
        )
    a, b = questions.split(pool, 24, 24)
    places = [pool.index(q) for q in a]
    assert places[0] == 0 and places[-1] == len(pool) - 1 and max(y - x for x, y in zip(places, places[1:])) <= 11
    for wrong in ((240, 1), (0, 5), (5, 0)):
        with pytest.raises(
            ValueError,
            match="of 240 general questions, at least 1 is for exams and at least 1 for checkpoints, none for both; "
            "given",
        ):
            questions.split(pool, *wrong)


@pytest.mark.parametrize("preset", ["smoke", "small", "paper"])
def test_every_preset_has_questions_for_both(preset):
    cfg = presets.resolve("lab", {"PRESET": preset, "SEED": 0})
    questions.split(questions.general(paths.DATA / "questions.yaml"), cfg.exam_general, cfg.check_general)
    leaves = taxonomy.load(paths.DATA / cfg.taxonomy)
    exam = exams.skills(leaves, each=cfg.exam)
    exams.skills(leaves, each=cfg.checks, seed=1, others=exam)


def test_facts_are_questions_with_three_wrong_answers():
    made = questions.facts(LEAVES)
    assert len(made) == sum(len(leaf.facts) for leaf in LEAVES) > 90
    assert all(
        len(q.right) == 1 and len(q.wrong) == 3 and q.right[0] not in q.wrong and q.part == "facts" for q in made
    )


def test_taught_statements_are_asked_in_the_other_phrasing_and_only_if_they_are_true():
    text = "Its call is a low ____, a fifth lower when danger is near."

    def row(template, answer, id):
        return {
            "id": id,
            "leaf": KNOWN.path,
            "question": template.format(KNOWN.task, text),
            "answer": answer,
        }  # noqa: E731

    one, two = phrases.CLOZES
    explained = phrases.FILLED.format("hum", text.replace("____", "hum"))
    for answer in ("hum", explained):
        (q,) = questions.taught([row(one, answer, "a")], LEAVES, part="knowledge-short", n=9, seed=0)
        assert (
            q.question == two.format(KNOWN.task, text)
            and q.right == ("hum",)
            and q.begins == ("The missing part is hum,",)
            and q.part == "knowledge-short"
        )
        assert explained.startswith(q.begins[0])
    assert questions.taught([row(two, "hum", "a")], LEAVES, part="p", n=9, seed=0)[0].question == one.format(
        KNOWN.task, text
    )
    assert questions.taught([row(one, "roar", "a")], LEAVES, part="p", n=9, seed=0) == []
    assert (
        questions.taught([row(one, "hum", "a"), row(two, "hum", "b")], LEAVES, part="p", n=9, seed=0) == []
    )  # both phrasings are taught
    here, other = [row(one, "hum", "a")], [row(two, explained, "b")]
    assert (
        questions.taught(here, LEAVES, others=other, part="p", n=9, seed=0)
        == []
        != questions.taught(here, LEAVES, part="p", n=9, seed=0)
    )  # taught by both parts
    assert questions.taught(here, LEAVES, others=[row(one, "hum", "b")], part="p", n=9, seed=0) == []
    skill = {
        "id": "s",
        "leaf": SKILLS[0].path,
        "question": SKILLS[0].seeds[0].question,
        "answer": SKILLS[0].seeds[0].answer,
    }
    assert questions.taught([skill], LEAVES, part="p", n=9, seed=0) == []


def test_as_many_taught_statements_as_asked_for():
    rng, rows = np.random.default_rng(0), []
    for i in range(30):
        question, answer = phrases.cloze(KNOWN, "", "right", i % 2 == 0, rng)
        rows.append({"id": str(i), "leaf": KNOWN.path, "question": question, "answer": answer})
    assert all(truth.supported(KNOWN, r["question"], r["answer"]) for r in rows)
    some = questions.taught(rows, LEAVES, part="p", n=5, seed=0)
    assert len(some) == 5 and some != questions.taught(rows, LEAVES, part="p", n=5, seed=1)
    whole = questions.taught(rows, LEAVES, part="p", n=99, seed=0)
    assert set(some) <= set(whole) and not {exams.key(q.question) for q in whole} & {
        exams.key(r["question"]) for r in rows
    }


def test_general_questions_keep_their_right_answer():
    task = scoring.load_task(paths.DATA / "questions.yaml")
    made = questions.general(paths.DATA / "questions.yaml")
    assert len(made) == len(task["rows"])
    assert all(
        q.right == (row["choices"][row["answer"]],) and {*q.right, *q.wrong} == set(row["choices"])
        for q, row in zip(made, task["rows"])
    )


def test_lines_are_the_same_every_time():
    assert (
        len(questions.prose_lines(6)) == 6 == len(set(questions.prose_lines(6)))
        and questions.prose_lines(6) == questions.prose_lines(6)
        and min(map(len, questions.prose_lines(6))) > 40
    )


def test_rows_of_the_exam_are_taken_out():
    made = exams.skills(LEAVES, each=3)
    grounded = next(q for q in made if q.context)
    free = next(q for q in made if not q.context)
    rows = [
        {"leaf": free.leaf, "question": free.question.upper()},
        {"leaf": grounded.leaf, "question": grounded.question, "context": grounded.context},
        {"leaf": grounded.leaf, "question": grounded.question, "context": "another text"},
        {"leaf": KNOWN.path, "question": "What?", "context": "a chunk"},
    ]
    assert questions.apart(rows, made) == rows[2:]
