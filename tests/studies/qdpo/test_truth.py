"""Skills that full precision is taught: what was taught is known, what was kept is found again, answers are checked."""

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
    assert truth.right(exam, tiny_model).tolist() == [False] * 4
    name = truth.teach(tiny_model, byte_tokenizer, questions, HOW, **how)
    assert truth.right(exam, tiny_model).mean() >= 0.75
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


def test_answers_count_word_for_word_or_by_the_checker(tiny_model, byte_tokenizer, monkeypatch):
    questions = exams.skills(LEAVES, each=1)
    exam = truth.exam(byte_tokenizer, LEAVES, questions, max_new_tokens=4, stop_ids=[257], batch=4)
    said = [f"So it makes: {questions[0].right[0]}", f" {questions[1].right[1]}\n"]

    class Done:
        def __init__(self, text):
            self.tokens = byte_tokenizer.encode(text, add_special_tokens=False)

    monkeypatch.setattr(truth, "generate", lambda *a, **k: [Done(t) for t in said])
    assert truth.right(exam, tiny_model).tolist() == [True, True]
    said[:] = ["no", "no"]
    assert truth.right(exam, tiny_model).tolist() == [False, False]


def test_a_question_is_asked_after_its_context(byte_tokenizer):
    leaf = next(x for x in taxonomy.load(paths.DATA / "taxonomy") if x.kind == "grounded")
    q = exams.skills([leaf], each=1)[0]
    assert f"{q.context}\n\n{q.question}" in byte_tokenizer.decode(truth.ask(byte_tokenizer, [q])[0])
