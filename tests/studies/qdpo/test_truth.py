"""Skills that full precision is taught: what was taught is known, what was kept is found again, answers are checked."""

import pytest
import torch

from lib import taxonomy
from lib.engine.models import load
from lib.harness import paths
from lib.studies.qdpo import truth
from lib.synthesis import exams

LEAVES = [leaf for leaf in taxonomy.load(paths.DATA / "taxonomy") if leaf.path.endswith(("addition", "sorting"))]
HOW = truth.Teaching(epochs=30, batch=4, micro=4, lr=3e-3)


def weights(model):
    return [p.clone() for p in model.parameters()]


def test_what_is_taught_is_known_and_kept_for_the_next_time(sandbox, tiny_model, byte_tokenizer):
    questions = exams.skills(LEAVES, each=2)
    how = dict(stop_ids=[257], seed=0)
    exam = truth.exam(byte_tokenizer, LEAVES, questions, max_new_tokens=48, stop_ids=[257], batch=4)
    before = weights(tiny_model)
    assert truth.right(exam, truth.answers(exam, tiny_model)).tolist() == [False] * 4
    name = truth.teach(tiny_model, byte_tokenizer, questions, HOW, **how)
    assert truth.right(exam, truth.answers(exam, tiny_model)).mean() >= 0.75
    taught = weights(tiny_model)
    for p, b in zip(tiny_model.parameters(), before):
        p.data.copy_(b)
    assert truth.teach(tiny_model, byte_tokenizer, questions, HOW, **how) == name  # read, not trained again
    assert all(torch.equal(a, b) for a, b in zip(weights(tiny_model), taught))
    assert len(list((paths.CACHE / "taught").iterdir())) == 1


def test_other_rows_or_other_teaching_are_kept_apart(sandbox, tiny_model, byte_tokenizer):
    some, more = exams.skills(LEAVES, each=1), exams.skills(LEAVES, each=2)
    quick = HOW._replace(epochs=1)
    names = set()
    for questions, how, seed in (
        (some, quick, 0),
        (more, quick, 0),
        (some, quick._replace(lr=1e-3), 0),
        (some, quick, 1),
    ):
        model, tokenizer = load("tiny-random", dtype=torch.float32)
        names.add(truth.teach(model, tokenizer, questions, how, stop_ids=[257], seed=seed))
    assert len(names) == 4


def test_nothing_is_taught_without_questions(sandbox, tiny_model, byte_tokenizer):
    before = weights(tiny_model)
    assert truth.teach(tiny_model, byte_tokenizer, [], HOW, stop_ids=[257], seed=0) == ""
    assert all(torch.equal(a, b) for a, b in zip(weights(tiny_model), before))


def test_answers_count_word_for_word_or_by_the_checker(byte_tokenizer):
    questions = exams.skills(LEAVES, each=1)
    exam = truth.exam(byte_tokenizer, LEAVES, questions, max_new_tokens=4, stop_ids=[257], batch=4)

    def right(*texts):
        return truth.right(exam, [byte_tokenizer.encode(t, add_special_tokens=False) for t in texts]).tolist()

    assert right(f"So it makes: {questions[0].right[0]}", f" {questions[1].right[1]}\n") == [True, True]
    assert right("no", "no") == [False, False]


def test_the_world_keeps_its_parts_apart_and_changes_only_the_repair_with_the_seed():
    leaves, count = taxonomy.load(paths.DATA / "taxonomy"), dict(taught=5, test=4, validation=3, repair=6)
    one, other = (truth.world(leaves, ["addition", "json_record"], seed=s, **count) for s in (0, 1))
    assert [len(part) for part in one[1:]] == [10, 8, 6, 12] and len(one.leaves) == 2
    parts = [q for part in one[1:] for q in part]
    assert len({exams.key(q.question, q.context) for q in parts}) == len({q.id for q in parts}) == 36
    assert one[:4] == other[:4] and one.repair != other.repair
    none = truth.world(leaves, ["addition"], seed=0, taught=0, test=1, validation=0, repair=0)
    assert (none.taught, none.validation, none.repair) == ([], [], [])
    with pytest.raises(ValueError, match="a skill is one of addition, .*, given juggling$"):
        truth.world(leaves, ["addition", "juggling"], seed=0, **count)


def test_the_share_of_the_damage_by_hand():
    assert truth.recovered(0.75, 0.5, 0.9) == pytest.approx(0.625)
    assert truth.recovered(0.4, 0.5, 0.9) == pytest.approx(-0.25) and truth.recovered(0.9, 0.5, 0.9) == 1
    with pytest.raises(ValueError, match="nothing was lost that could come back: full precision 0.500"):
        truth.recovered(0.6, 0.5, 0.5)


def test_a_question_is_asked_after_its_context(byte_tokenizer):
    leaf = next(x for x in taxonomy.load(paths.DATA / "taxonomy") if x.kind == "grounded")
    q = exams.skills([leaf], each=1)[0]
    assert f"{q.context}\n\n{q.question}" in byte_tokenizer.decode(truth.ask(byte_tokenizer, [q])[0])
