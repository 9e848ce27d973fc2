import json
import logging
import socket
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from lib.harness import paths, presets
from lib.scoring import tasks

ROW = {"id": "a", "question": "Snow is", "choices": ["white", "black", "green", "blue"], "answer": 0}


@pytest.fixture
def task():
    return tasks.load_task(paths.DATA / "questions.yaml")


def test_the_questions(task):
    rows = task["rows"]
    assert [r["id"] for r in rows] == [f"q{n:03d}" for n in range(1, 241)] and all(set(r) == set(ROW) for r in rows)
    assert Counter(r["answer"] for r in rows) == {0: 60, 1: 60, 2: 60, 3: 60}
    assert len({r["question"].lower() for r in rows}) == 240
    for r in rows:
        texts = [r["question"], *r["choices"]]
        assert all(t and t == t.strip() and t.isascii() for t in texts), r
        assert len({c.lower() for c in r["choices"]}) == 4, r
        article = r["question"].split()[-1]
        if article in ("a", "an"):  # grammar must not give the answer away
            assert {c[0].lower() in "aeiou" for c in r["choices"]} == {article == "an"}, r


def test_length_does_not_give_the_answer_away(task):
    lengths = np.array([[len(c) for c in r["choices"]] for r in task["rows"]])
    answers = [r["answer"] for r in task["rows"]]
    assert (lengths.max(1) - lengths.min(1)).max() <= 8
    for extreme in (lengths.argmax(1), lengths.argmin(1)):
        assert (extreme == answers).mean() < 0.4


def plain(model, tokenizer, row):
    """Sum of the float32 log-probs of " " + choice after the question, one forward a choice, one token at a time."""
    sums = []
    for c in row["choices"]:
        texts = row["question"], f"{row['question']} {c}"
        context, whole = (tokenizer.encode(t, add_special_tokens=False) for t in texts)
        with torch.no_grad():
            lp = model(torch.tensor([whole[:-1]])).logits[0].float().log_softmax(-1)
        sums.append(sum(lp[t - 1, whole[t]].item() for t in range(len(context), len(whole))))
    return np.array(sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # bfloat16 log-probs would tie and flip options
def test_predictions_equal_a_plain_forward(tiny_model, byte_tokenizer, task, dtype):
    model = tiny_model.to(dtype)
    got = tasks.multiple_choice(model, byte_tokenizer, task, batch_size=1, limit=40)
    rows = task["rows"][:40]
    sums = [plain(model, byte_tokenizer, r) for r in rows]
    predicted = [int(s.argmax()) for s in sums]
    per_character = [int((s / [len(c) for c in r["choices"]]).argmax()) for s, r in zip(sums, rows)]
    assert got.ids == [r["id"] for r in rows] and predicted != per_character
    assert got.predicted.tolist() == predicted
    assert got.correct.tolist() == [p == r["answer"] for p, r in zip(predicted, rows)]
    assert got.correct_norm.tolist() == [p == r["answer"] for p, r in zip(per_character, rows)]


def test_batch_size_changes_nothing(tiny_model, byte_tokenizer, task):
    one, many = (tasks.multiple_choice(tiny_model, byte_tokenizer, task, batch_size=b, limit=20) for b in (1, 7))
    assert tasks.answer_flips(one, many)["changed"] == 0 and one.ids == many.ids


def test_offline_quiet_and_without_traces(tiny_model, byte_tokenizer, task, monkeypatch, capfd):
    from lm_eval.api import task as lm_eval_task

    def refuse(*_):
        raise AssertionError("evaluation asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(lm_eval_task, "tqdm", partial(lm_eval_task.tqdm, disable=False))
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    text, state = json.dumps(task), torch.get_rng_state()
    got = tasks.multiple_choice(tiny_model, byte_tokenizer, task, batch_size=2, limit=2)
    assert capfd.readouterr() == ("", "")
    assert byte_tokenizer.pad_token is None and logging.getLogger("lm_eval").level == logging.WARNING
    assert json.dumps(task) == text and torch.equal(torch.get_rng_state(), state)
    assert got.version.startswith("lm-eval 0.4") and got.version.endswith("plumbline_common_knowledge 1.0")


def test_broken_model(tiny_model, byte_tokenizer, task):
    tiny_model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite, first at question q001"):
        tasks.multiple_choice(tiny_model, byte_tokenizer, task, batch_size=2, limit=2)


@pytest.mark.parametrize("bad", [dict(batch_size=0), dict(batch_size=1, limit=0)])
def test_bad_sizes(task, bad):
    with pytest.raises(ValueError, match="at least 1, given"):
        tasks.multiple_choice(None, None, task, **bad)


def result(predicted, gold):
    correct = np.array(predicted) == np.array(gold)
    return tasks.Accuracy([str(i) for i in range(len(gold))], np.array(predicted), correct, correct, "x")


def test_answer_flips_by_hand():
    gold = [0, 1, 2, 3, 0, 1, 2, 3]
    a = result([0, 1, 2, 3, 1, 2, 3, 0], gold)  # four right, four wrong
    b = result([0, 1, 0, 0, 0, 3, 3, 0], gold)  # two lost, one won, one wrong answer for another
    assert tasks.answer_flips(a, b) == {"changed": 4 / 8, "right to wrong": 2 / 8, "wrong to right": 1 / 8}
    assert tasks.answer_flips(b, a) == {"changed": 4 / 8, "right to wrong": 1 / 8, "wrong to right": 2 / 8}
    assert set(tasks.answer_flips(a, a).values()) == {0.0}
    with pytest.raises(ValueError, match="the same questions in the same order"):
        tasks.answer_flips(a, a._replace(ids=a.ids[::-1]))


def write(folder, text, config="task: t\ntest_split: test\n"):
    (folder / "t.yaml").write_text(config)
    (folder / "t.jsonl").write_text(text)
    return folder / "t.yaml"


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no task file at .*t.yaml"):
        tasks.load_task(tmp_path / "t.yaml")
    path = write(tmp_path, json.dumps(ROW))
    assert tasks.load_task(path)["rows"] == [ROW]
    write(tmp_path, "", "task: t\ntest_split: test\ndataset_kwargs: {data_files: {test: data/other.jsonl}}\n")
    with pytest.raises(FileNotFoundError, match="no task file at .*other.jsonl; t.yaml needs it"):
        tasks.load_task(path)
    with pytest.raises(ValueError, match="needs 'task' and 'test_split'"):
        tasks.load_task(write(tmp_path, json.dumps(ROW), "group: g\n"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"choices": ["a", "b", "c"]}, "line 2 needs four choices, all different"),
        ({"choices": ["a", "b", "c", "a"]}, "line 2 needs four choices, all different"),
        ({"choices": "abcd"}, "line 2 needs four choices, all different"),
        ({"answer": 4}, "line 2 needs an answer 0 to 3, it has 4"),
        ({"answer": -1}, "line 2 needs an answer 0 to 3, it has -1"),
        ({"answer": True}, "line 2 needs an answer 0 to 3, it has True"),
        ({"id": "a"}, "uses an id twice, 'a' at lines 1 and 2"),
        ({"id": ["b"]}, "line 2 needs an id that is a text or a whole number"),
        ({"id": None}, "line 2 lacks id"),
        ({"question": 5}, "line 2 needs a question that is a text"),
        ({"choices": ["a", "b", "c", None]}, "line 2 needs four choices, all different texts"),
        ({"choices": ["a", "b", "c", " "]}, "line 2 needs four choices, all different texts"),
        ({"answer": float("nan")}, "line 2 needs an answer 0 to 3, it has nan"),
    ],
)
def test_bad_rows(tmp_path, change, message):
    rows = [ROW, ROW | {"id": "b"} | change]
    with pytest.raises(ValueError, match=message):
        tasks.load_task(write(tmp_path, "\n".join(map(json.dumps, rows))))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no question"),
        ("{", "t.jsonl line 1 is no JSON"),
        ("null", "t.jsonl line 1 is null"),
        ('{"id": "a", "answer": 1}', "line 1 lacks choices, question"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        tasks.load_task(write(tmp_path, text))


def test_questions_in_other_files(tmp_path):
    text = json.dumps(ROW | {"question": "Snow\u2028is"}, ensure_ascii=False)
    path = write(tmp_path, "\ufeff" + text + "\r\n")
    assert tasks.load_task(path)["rows"] == [ROW | {"question": "Snow\u2028is"}]
    (tmp_path / "other.jsonl").write_text(json.dumps([ROW]))
    for named in ("data/other.jsonl", "{test: [data/other.jsonl]}"):
        write(tmp_path, "", f"task: t\ntest_split: test\ndataset_kwargs: {{data_files: {named}}}\n")
        assert tasks.load_task(path)["rows"] == [ROW]
    for config in ("task: [\n", "task: !function a.b\ntest_split: t\n"):
        with pytest.raises(ValueError, match="t.yaml line . is no YAML"):
            tasks.load_task(write(tmp_path, "", config))


@pytest.mark.slow
def test_tasks_of_lm_eval_by_name_and_shots(tiny_model, byte_tokenizer, task, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(r) for r in task["rows"][:12]))
    (tmp_path / "own.yaml").write_text(
        f"task: own_questions\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: "
        "test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\nmetric_list: '
        "[{metric: acc}]\n"
    )
    got = tasks.benchmarks(
        tiny_model, byte_tokenizer, ["own_questions:0", "own_questions:2"], batch_size=4, include=tmp_path
    )
    want = tasks.multiple_choice(tiny_model, byte_tokenizer, task, batch_size=1, limit=12)
    zero = tasks.benchmarks(tiny_model, byte_tokenizer, ["own_questions:0"], batch_size=4, include=tmp_path)
    assert zero["own_questions"]["acc"] == pytest.approx(want.correct.mean()) and 0 <= got["own_questions"]["acc"] <= 1
    assert tasks.benchmarks(tiny_model, byte_tokenizer, [], batch_size=4) == {}
    for bad in ("arc_challange:25", "arc_challenge", "arc_challenge:many"):
        with pytest.raises(ValueError, match="a name that lm-eval knows and its number of examples"):
            tasks.benchmarks(tiny_model, byte_tokenizer, [bad], batch_size=4)


def test_the_leaderboards_tasks_are_known():
    assert tasks.check_tasks(presets.resolve("mrpo", {"PRESET": "paper", "SEED": 0}).items_of("tasks"))
