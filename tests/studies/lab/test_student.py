"""A student against the whole model in one forward, against generation, and against its own start."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lib.engine import models, phases
from lib.engine.generation import generate
from lib.studies.lab import student as module
from lib.studies.lab.student import Student
from lib.synthesis.exams import Question

DATA = [
    {"leaf": "compositional_skills/units", "question": "Convert 2 metres to centimetres.", "answer": "200 centimetres"},
    {"leaf": "compositional_skills/grounded/x", "question": "Who?", "answer": "Bo", "context": "Bo: 3"},
    {
        "leaf": "knowledge/y",
        "question": "How many toes?",
        "answer": "six, of course",
        "context": "a chunk that is not shown",
    },
]


@pytest.fixture
def student(tiny_model, byte_tokenizer):
    return Student(
        tiny_model,
        byte_tokenizer,
        blocks=2,
        system="Be brief.",
        stop_ids=models.stop_ids(tiny_model, byte_tokenizer),
        batch=2,
    )


def whole(model, prompt, answer):
    """(log p of each answer token, whether each is the likeliest) by one plain forward."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
    target = torch.tensor(answer)
    return -cross_entropy(logits, target, reduction="none"), logits.argmax(-1) == target


def test_questions_are_asked_in_the_chat_template_and_knowledge_without_its_document(student, byte_tokenizer):
    rows = student.rows(DATA)
    text = [byte_tokenizer.decode(p) for p, _ in rows]
    assert (
        all("Be brief." in t for t in text)
        and "Bo: 3\n\nWho?" in text[1]
        and "a chunk" not in text[2]
        and "How many toes?" in text[2]
    )
    assert (
        all(a[-1] == student.stop[0] for _, a in rows) and byte_tokenizer.decode(rows[0][1][:-1]) == "200 centimetres"
    )


def test_rows_read_side_by_side_are_those_read_at_once(student, monkeypatch):
    data = [d | {"question": d["question"] * k} for k in range(1, 5) for d in DATA]
    want = dict(zip(student.rows(data), map(student.known.get, student.rows(data))))
    threads = torch.get_num_threads()
    monkeypatch.setattr(module, "PART", 5)
    monkeypatch.setenv("PLUMBLINE_PROCESSES", "2")
    student.known.clear()
    got = student.rows(data)
    assert got == list(want) and all(
        torch.allclose(student.known[r], want[r], atol=1e-5) and len(want[r]) == len(r[0]) + len(r[1]) for r in got
    )
    assert torch.get_num_threads() == threads and student.rows([]) == [] and student.exam([]).states == []


def test_the_loss_is_that_of_the_whole_model_packed_or_not(student, tiny_model):
    rows = student.rows(DATA)
    want = -sum(whole(tiny_model, p, a)[0].sum() for p, a in rows)
    assert torch.allclose(student.loss([[r] for r in rows]), want, atol=1e-4) and torch.allclose(
        student.loss([rows[:2], rows[2:]]), want, atol=1e-4
    )
    assert torch.allclose(
        student.logp(rows), torch.stack([whole(tiny_model, p, a)[0].sum() for p, a in rows]), atol=1e-4
    )
    assert len(student.known) == 3 and student.rows(DATA) == rows


def test_marks_are_those_of_the_whole_model_and_of_greedy_decoding(student, tiny_model):
    ask = Question("a", "l", "skills", "Say it.", "", ("x",))
    (text,) = student.write([ask], max_new_tokens=4, batch=2)
    (done,) = generate(tiny_model, [student.prompt("Say it.")], max_new_tokens=4, stop_ids=student.stop, batch=1)
    assert text == student.tokenizer.decode(done.tokens, skip_special_tokens=True).strip()
    begun = student.tokenizer.decode(done.tokens[:2])
    exam = [
        ask._replace(right=("nothing like it",)), ask._replace(right=("nothing like it",), begins=(begun,)),
        ask._replace(right=(begun,)), ask._replace(right=(begun + "??", begun + "!")),
        Question("b", "l", "general", "Which?", "", ("one",), (), ("two", "three is long", "4")),
    ]  # fmt: skip
    read = student.exam(exam)
    logp = student.likelihoods(read)
    for (prompt, answers), lp, greedy in zip(read.rows, logp, student.greedy(read)):
        assert len(answers) == len(lp) == len(greedy)
        for k, answer in enumerate(answers):
            logps, best = whole(tiny_model, prompt, answer)
            assert lp[k] == pytest.approx(logps.sum().item(), abs=1e-4) and greedy[k] == bool(best.all())
    likeliest = logp[4].argmax()
    assert student.score(read).tolist() == [0.0, 1.0, 0.0, 0.0, float(likeliest == 0)]
    swapped = exam[4]._replace(
        right=(("one", "two", "three is long", "4")[likeliest],),
        wrong=tuple(x for i, x in enumerate(("one", "two", "three is long", "4")) if i != likeliest),
    )
    assert student.score(student.exam([swapped])).tolist() == [1.0]


def test_a_greedy_answer_to_its_end_is_right(student):
    """Trained until it says just one thing, the student gives that answer and its end, by marks and by decoding."""
    rows = student.rows(DATA[:1])
    phases.run(student.latent, student.loss, [phases.Phase("one", rows, 60, 1, 1e-2, warmup=0)], phases.Tuning(0))
    ask = Question("a", "l", "skills", DATA[0]["question"], "", (DATA[0]["answer"],))
    assert student.score(student.exam([ask])).tolist() == [1.0] and student.write(
        [ask], max_new_tokens=30, batch=1
    ) == [DATA[0]["answer"]]
    assert student.score(student.exam([ask._replace(right=(DATA[0]["answer"][:-1],))])).tolist() == [0.0]  # it goes on
    assert student.score(student.exam([ask._replace(right=("no",), begins=(DATA[0]["answer"][:-1],))])).tolist() == [
        1.0
    ]


def test_only_the_last_blocks_learn_and_the_start_comes_back(student, tiny_model):
    before = {n: p.detach().clone() for n, p in tiny_model.named_parameters()}
    rows, weights = student.rows(DATA), student.weights()
    phases.run(student.latent, student.loss, [phases.Phase("x", rows, 2, 2, 1e-2)], phases.Tuning(0))
    changed = {n for n, p in tiny_model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all(n.startswith(("model.layers.2.", "model.layers.3.")) for n in changed)
    tuned = student.weights()
    student.load(None)
    assert all(torch.equal(p, before[n]) for n, p in tiny_model.named_parameters())
    student.load(tuned)
    assert {n for n, p in tiny_model.named_parameters() if not torch.equal(p, before[n])} == changed
    assert weights.keys() == tuned.keys() and any(not torch.equal(weights[n], tuned[n]) for n in weights)


def test_surprise_is_the_mean_over_all_tokens_but_the_first(student, tiny_model):
    texts = ["Plain text.", "Another line, longer."]
    want = []
    for text in texts:
        ids = torch.tensor([student.tokenizer(text).input_ids])
        with torch.no_grad():
            want.append(tiny_model(ids, labels=ids).loss.item())
    assert np.allclose(student.text_loss(student.plain(texts)), want, atol=1e-4)


def test_answers_end_as_the_template_ends_a_turn_and_generation_at_every_stop_token(tiny_model, byte_tokenizer):
    taught = Student(tiny_model, byte_tokenizer, blocks=1, system="", batch=2, stop_ids=[3, 257])
    assert taught.answer("Yes.")[-1] == 257 and taught.stop == [3, 257]
