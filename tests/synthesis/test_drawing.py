"""Questions drawn with a named sampler."""

from lib import taxonomy
from lib.harness.paths import DATA
from lib.synthesis import drawing, teachers, truth
from lib.taxonomy import checkers

LEAVES = [leaf for leaf in taxonomy.load(DATA / "taxonomy") if leaf.kind in ("foundational", "freeform")]
MANY = drawing.Draw(calls=24, size=3, each=4, seed=0, answers=False)


def clean(**knobs):
    return teachers.Templated(LEAVES, seed=0, knobs=teachers.CLEAN._replace(**knobs))


def test_kinds_are_the_leaves_whose_checker_knows_the_question():
    checker = {leaf.path: leaf.checker for leaf in LEAVES}
    made = drawing.questions("leaf", LEAVES, clean(), MANY)
    assert len(made) > 80 and all(
        truth.form(r["question"]) == checker[r["kind"]] and r["kind"] == r["truth"]["leaf"] for r in made
    )
    odd = drawing.questions("leaf", LEAVES, clean(unanswerable=0.5), MANY)
    assert {r["truth"]["asked"] for r in odd if not r["kind"]} == {"unanswerable"}
    assert {r["truth"]["asked"] for r in odd if r["kind"]} == {"right"}


def test_what_was_made_is_fed_back_to_self_instruct_with_its_answer():
    teacher, shown = clean(), []

    def spy(requests):
        shown.extend(x for r in requests for x in r.examples if r.ask == "questions")
        return teacher(requests)

    spy.name = "spy"
    drawing.questions("self-instruct", LEAVES, spy, MANY._replace(answers=True))
    fed = [x for x in shown if not x.leaf]
    assert len(fed) == 2 * (MANY.calls - 1) and all(x.answer for x in fed)


def test_quotas_say_whose_turn_it_is():
    quotas = {leaf.path: int(k == 1) * 7 + int(k == 3) * 5 for k, leaf in enumerate(LEAVES)}
    made = drawing.questions("leaf", LEAVES, clean(), MANY._replace(calls=12, size=2, each=3, quotas=quotas))
    assert {row["kind"] for row in made} == {LEAVES[1].path, LEAVES[3].path}


def test_answered_rows_are_valid_and_right():
    made, checker = drawing.questions("leaf", LEAVES, clean(), MANY), {leaf.path: leaf.checker for leaf in LEAVES}
    got = drawing.answered([*made, {"id": "n", "question": "Hm?", "kind": "", "leaf": "pool"}], LEAVES)
    assert len(got) == len(made)
    assert all(checkers.passes(checker[r["leaf"]], r["question"], "", r["answer"]) for r in got)
    assert any(len(r["answer"].split()) > 6 for r in got) and any(len(r["answer"].split()) == 1 for r in got)
