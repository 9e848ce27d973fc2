"""Questions of skills: new, answerable, with right answers that the checkers accept."""

import pytest

from lib import taxonomy
from lib.harness import paths
from lib.synthesis import exams, phrases
from lib.taxonomy import checkers

LEAVES = taxonomy.load(paths.DATA / "taxonomy")
SKILLS = [leaf for leaf in LEAVES if leaf.kind != "knowledge"]


def test_every_skill_gets_new_questions_whose_right_answers_the_checker_accepts():
    made = exams.skills(LEAVES, each=20)
    by = {leaf.path: leaf for leaf in SKILLS}
    assert len(made) == 20 * len(SKILLS) == len({q.id for q in made}) and {q.leaf for q in made} == set(by)
    assert len({exams.key(q.question, q.context) for q in made}) == len(made)
    seeds = {exams.key(s.question, s.context) for leaf in SKILLS for s in leaf.seeds}
    assert not seeds & {exams.key(q.question, q.context) for q in made}
    for q in made:
        assert q.right and not q.begins + q.wrong and (q.context != "") == (by[q.leaf].kind == "grounded")
        assert all(checkers.passes(by[q.leaf].checker, q.question, q.context, answer) for answer in q.right)
        assert q.part == ("knowledge-long" if by[q.leaf].kind == "foundational" else "skills")
    assert sum(len(q.right) == 2 for q in made) > len(made) / 2  # bare and explained
    assert made == exams.skills(LEAVES, each=20) != exams.skills(LEAVES, each=20, seed=1)


def test_questions_for_choices_are_none_of_the_exam():
    leaves = taxonomy.load(paths.DATA / "taxonomy")
    exam = exams.skills(leaves, each=5)
    again = exams.skills(leaves, each=5, others=exam)  # the same draws, but for what the exam asks
    asked = {exams.key(q.question, q.context) for q in exam}
    assert len(again) == len(exam) and not asked & {exams.key(q.question, q.context) for q in again}


def test_written_answers_are_accepted_by_the_checkers():
    made = [q for q in exams.skills(LEAVES, each=2) if q.leaf.endswith(("addition", "sorting"))]
    assert exams.accepted(made, [q.right[0] for q in made], LEAVES) == [True] * 4
    assert exams.accepted(
        made, ["So it is: " + made[0].right[0], made[0].right[0], made[2].right[0], "no"], LEAVES
    ) == [True, False, True, False]


def test_bad_input_is_refused(monkeypatch):
    with pytest.raises(
        ValueError,
        match="made of skills with a checker, at least 1 each, given compositional_skills/formats/json_record and 0",
    ):
        exams.skills(SKILLS, each=0)
    with pytest.raises(ValueError, match="with a checker, .* given compositional_skills/formats/json_record"):
        exams.skills([SKILLS[0]._replace(checker=None)], each=1)
    monkeypatch.setattr(phrases, "question", lambda *a: SKILLS[0].seeds[0].question)  # nothing but a seed comes out
    with pytest.raises(ValueError, match="json_record has fewer than 1 different questions: ask for fewer"):
        exams.skills(SKILLS[:1], each=1)
