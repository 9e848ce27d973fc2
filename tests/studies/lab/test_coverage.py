"""Samplers by coverage and judges by truth: by hand, and where the answer is known."""

import numpy as np
import pytest

from lib import taxonomy
from lib.harness import paths, presets
from lib.studies.lab import coverage as audit
from lib.studies.lab import questions as exams
from lib.synthesis import judges, teachers
from lib.taxonomy import checkers

LEAVES = [leaf for leaf in taxonomy.load(paths.DATA / "taxonomy") if leaf.kind in ("foundational", "freeform")]
MANY = dict(calls=24, size=3, each=4, seed=0, answers=False)


def rows(name, **knobs):
    return audit.asked(
        name,
        LEAVES,
        teachers.Templated(LEAVES, seed=0, knobs=teachers.CLEAN._replace(**knobs)),
        **(MANY | {"answers": name == "self-instruct"}),
    )


def test_kinds_are_the_leaves_whose_checker_knows_the_question():
    checker = {leaf.path: leaf.checker for leaf in LEAVES}
    made = rows("leaf")
    assert len(made) > 80 and all(
        judges.form(r["question"]) == checker[r["kind"]] and r["kind"] == r["truth"]["leaf"] for r in made
    )
    odd = audit.asked(
        "leaf", LEAVES, teachers.Templated(LEAVES, seed=0, knobs=teachers.CLEAN._replace(unanswerable=0.5)), **MANY
    )
    assert {r["truth"]["asked"] for r in odd if not r["kind"]} == {"unanswerable"} and {
        r["truth"]["asked"] for r in odd if r["kind"]
    } == {"right"}
    with pytest.raises(
        ValueError, match="a sampler is one of pool, self-instruct, leaf, fake-leaf, quota, given 'tree'"
    ):
        audit.sampler("tree", LEAVES, calls=12, size=1, seed=0)


def test_an_assumed_preference_narrows_all_but_the_leaf_samplers():
    sets = {
        name: rows(name, b=1.0, zipf=float("inf")) for name in ("pool", "fake-leaf", "leaf", "quota", "self-instruct")
    }
    kinds = {name: len({r["kind"] for r in made}) for name, made in sets.items()}
    assert (
        kinds["leaf"] == kinds["quota"] == 12
        and kinds["self-instruct"] == 1
        and max(kinds["pool"], kinds["fake-leaf"]) <= 3
    )  # three seeds may be of one leaf
    found = audit.coverage(sets, LEAVES, generated=96, held_out=exams.skills(LEAVES, each=3), seed=0)
    assert found["pool"]["effective leaves"] < 1.5 and found["leaf"]["effective leaves"] > 10
    assert found["pool"]["nearest leaves"] < 2 and found["leaf"]["nearest leaves"] > 9
    assert (
        found["pool"]["worst leaf"] == 0
        and 0 < found["leaf"]["worst leaf"] <= 1
        and found["leaf"]["reach"] > found["pool"]["reach"]
    )
    assert len({m["questions compared"] for m in found.values()}) == 1 and found["leaf"]["questions compared"] == min(
        map(len, sets.values())
    )
    assert found["leaf"]["valid"] == pytest.approx(len(sets["leaf"]) / 96) and all(
        m["Vendi"] >= 1 for m in found.values()
    )


def test_without_preference_all_samplers_reach_the_tree():
    found = audit.coverage(
        {n: rows(n, b=0.0) for n in ("pool", "fake-leaf", "leaf")},
        LEAVES,
        generated=96,
        held_out=exams.skills(LEAVES, each=3),
        seed=0,
    )
    assert all(m["effective leaves"] > 5 for m in found.values())


def test_where_nothing_is_valid_only_that_is_said():
    found = audit.coverage(
        {"a": [{"question": "Hm?", "kind": ""}], "b": rows("leaf")}, LEAVES, generated=96, held_out=[], seed=0
    )
    assert {a: list(m) for a, m in found.items()} == {"a": ["valid"], "b": ["valid"]} and found["a"][
        "valid"
    ] == 0 < found["b"]["valid"]


def test_the_nearest_seed_names_the_leaf():
    seeds = [s.question for leaf in LEAVES for s in leaf.seeds]
    assert audit.nearest_leaf(seeds, LEAVES) == [leaf.path for leaf in LEAVES for _ in leaf.seeds]
    held_out = exams.skills(LEAVES, each=20)
    right = [a == q.leaf for a, q in zip(audit.nearest_leaf([q.question for q in held_out], LEAVES), held_out)]
    assert np.mean(right) > 0.9


def test_a_judge_against_truth_by_hand():
    scores, good = [3.0, 2.0, None, 1.0, 2.0], [True, False, True, False, True]
    got = audit.against_truth(scores, good, least=2)
    mean = {k: np.average(v, weights=w) for k, (v, w) in got.items()}
    assert (
        mean["yield"] == pytest.approx(3 / 5)
        and mean["purity"] == pytest.approx(2 / 3)
        and mean["recall"] == pytest.approx(2 / 3)
    )
    assert mean["wrong rejected"] == pytest.approx(1 / 2) and mean["auc"] == pytest.approx((1 + 0 + 0.75) / 3)
    want = judges.quality(scores, good, least=2)
    assert all(mean[k] == pytest.approx(want[k]) for k in ("yield", "purity", "recall", "auc"))
    nothing = audit.against_truth([0.0, 0.0], [True, True], least=1)
    assert set(nothing) == {"yield", "recall"}


def test_arms_are_cut_at_random_to_the_poorest():
    keeps = {"a": [{"id": i} for i in range(50)], "b": [{"id": i} for i in range(20)]}
    cut = audit.equally(keeps, 0)
    assert (
        {k: len(v) for k, v in cut.items()} == {"a": 20, "b": 20}
        and max(r["id"] for r in cut["a"]) > 25
        and cut != audit.equally(keeps, 1)
    )
    assert audit.equally({}, 0) == {}
    with pytest.raises(ValueError, match="b kept no row, so no student can be compared"):
        audit.equally(keeps | {"b": []}, 0)


def test_quotas_say_whose_turn_it_is():
    quotas = {leaf.path: int(k == 1) * 7 + int(k == 3) * 5 for k, leaf in enumerate(LEAVES)}
    made = audit.sampler("leaf", LEAVES, calls=12, size=2, seed=0, quotas=quotas)
    turns = [made.draw(i, []).leaf for i in range(12)]
    assert {leaf: turns.count(leaf) for leaf in quotas} == quotas
    rows = audit.asked(
        "leaf",
        LEAVES,
        teachers.Templated(LEAVES, seed=0, knobs=teachers.CLEAN),
        calls=12,
        size=2,
        each=3,
        seed=0,
        answers=False,
        quotas=quotas,
    )
    assert {row["kind"] for row in rows} == {LEAVES[1].path, LEAVES[3].path}


def test_no_prompt_tells_its_task():
    for name in audit.SAMPLERS:
        made = audit.sampler(name, LEAVES, calls=12, size=2, seed=0)
        assert {made.draw(i, []).task for i in range(12)} == {""}, name


@pytest.mark.parametrize(
    ("given", "tree", "message"),
    [
        ({}, lambda leaves: [x for x in leaves if x.kind != "knowledge"], "needs a knowledge leaf with facts.jsonl, "
            "and taxonomy has none; it has leaves of kind foundational, "
            "freeform, grounded"),
        ({}, lambda leaves: [x for x in leaves if x.kind != "freeform"], "needs a freeform skill"),
        ({"DRAW_CALLS": 11}, list, "12 skills "
            "is called at least once, so .* given 11 and 12"),
        ({"ARMS": "phased,phased"}, list, "arms names 'phased' twice"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_is_refused_before_any_work(given, tree, message):
    leaves = taxonomy.load(paths.DATA / "taxonomy")
    audit.check(presets.resolve("lab", {"PRESET": "smoke", "SEED": 0}), leaves)
    with pytest.raises(ValueError, match=message):
        audit.check(presets.resolve("lab", {"PRESET": "smoke", "SEED": 0} | given), tree(leaves))


def test_both_judges_are_one():
    q, p = (
        judges.Judge("q", lambda rows: [r["q"] for r in rows], 1),
        judges.Judge("p", lambda rows: [r["p"] for r in rows], 2),
    )
    one = audit.both(q, p)
    assert (
        one.score([{"q": 1, "p": 3}, {"q": 0, "p": 3}, {"q": 1, "p": 1}, {"q": None, "p": 3}, {"q": 1, "p": None}])
        == [3, 0.0, 1, None, None]
        and one.least == 2
    )
    assert audit.verdicts(one.score([{"q": 1, "p": 3}, {"q": 0, "p": 3}]), one.least).tolist() == [True, False]
    assert audit.verdicts(audit.anything().score([{}, {}]), 1).all()


def test_the_teacher_judges_as_its_knobs_say():
    right = teachers.Templated(LEAVES, seed=0, knobs=teachers.CLEAN)
    made = audit.asked("leaf", LEAVES, teachers.Templated(LEAVES, seed=0), **(MANY | {"answers": True}))
    one = audit.teacher_judges(right)
    assert set(one) == {"question", "pair", "faithful"} and [j.least for j in one.values()] == [1, 2, 1]
    assert audit.verdicts(audit.both(one["question"], one["pair"]).score(made), 2).tolist() == [
        judges.valid(r) for r in made
    ]


def test_answered_rows_are_valid_right_and_not_of_the_exam():
    made, checker = rows("leaf"), {leaf.path: leaf.checker for leaf in LEAVES}
    exam = [exams.Question("a", made[0]["kind"], "skills", made[0]["question"], "", ("x",))]
    got = audit.answered([*made, {"id": "n", "question": "Hm?", "kind": "", "leaf": "pool"}], LEAVES, exam)
    assert len(got) == len(made) - 1 and all(
        checkers.passes(checker[r["leaf"]], r["question"], "", r["answer"]) for r in got
    )
    assert any(len(r["answer"].split()) > 6 for r in got) and any(len(r["answer"].split()) == 1 for r in got)


def test_rivals_are_several_answers_to_each_question():
    made = rows("leaf")[:5]
    got = audit.rivals(teachers.Templated(LEAVES, seed=0), made, each=6)
    assert (
        len(got) == 30
        and len({r["id"] for r in got}) == 30
        and [r["question"] for r in got[::6]] == [r["question"] for r in made]
    )
    assert len({r["answer"] for r in got[:6]}) > 1


class Kept(list):
    def items(self, *args):
        self.append(args)

    def metric(self, *args):
        self.append(args)


def test_what_is_recorded():
    run, made = Kept(), audit.asked("leaf", LEAVES, teachers.Templated(LEAVES, seed=0), **(MANY | {"answers": True}))
    audit.judged(run, "filters", "none", made, [1.0] * len(made), least=1)
    (purity,) = (np.average(v, weights=w) for d, a, m, i, v, w in run if m == "purity")
    assert purity == pytest.approx(np.mean([judges.valid(r) for r in made])) and 0.3 < purity < 0.9
    run = Kept()
    sheet = type(
        "Sheet", (), {"questions": [exams.Question(str(i), "ab"[i % 2], "skills", "?", "", ("x",)) for i in range(4)]}
    )
    audit.grades(run, "students", "arm", sheet, np.array([1.0, 0, 1, 1]))
    assert run[0][3] == ["0", "1", "2", "3"] and run[1] == ("students", "skills", "arm", "worst leaf", 0.5)
    run = Kept()
    audit.record(run, "coverage", 3, {"leaf": {"valid": 0.5}})
    assert run == [("coverage", "leaf", "valid", [3], [0.5])]
