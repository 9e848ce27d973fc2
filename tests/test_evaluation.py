import json
from collections import Counter

import numpy as np
import pytest
import torch

from lib import evaluation
from lib.harness import paths


def test_the_questions():
    task = evaluation.load_task(paths.DATA / "questions.yaml")
    rows = task["rows"]
    assert len(rows) >= 200 and len({r["question"] for r in rows}) == len({r["id"] for r in rows}) == len(rows)
    assert set(Counter(r["answer"] for r in rows).values()) == {len(rows) // 4}
    assert all(len(set(r["choices"])) == 4 for r in rows)


def test_predictions_equal_a_plain_forward(tiny_model, byte_tokenizer):
    task = evaluation.load_task(paths.DATA / "questions.yaml")
    got = evaluation.multiple_choice(tiny_model, byte_tokenizer, task, batch_size=4, limit=6)
    for r, predicted, correct in zip(task["rows"], got.predicted, got.correct):
        scores = []
        for c in r["choices"]:
            context, whole = (byte_tokenizer.encode(t, add_special_tokens=False) for t in (r["question"], f"{r['question']} {c}"))
            with torch.no_grad():
                lp = tiny_model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
            scores.append(sum(lp[t - 1, whole[t]].item() for t in range(len(context), len(whole))))
        assert predicted == int(np.argmax(scores)) and correct == (predicted == r["answer"])
    assert got.ids == [r["id"] for r in task["rows"][:6]]


def result(predicted, correct):
    n = len(predicted)
    return evaluation.Accuracy([str(i) for i in range(n)], np.array(predicted), np.array(correct), np.array(correct), "x")


def test_answer_flips_by_hand():
    a, b = result([0, 1, 2, 3], [True, True, False, False]), result([0, 2, 3, 1], [True, False, True, False])
    assert evaluation.answer_flips(a, b) == {"changed": 0.75, "right to wrong": 0.25, "wrong to right": 0.25}
    assert evaluation.answer_flips(a, a) == {"changed": 0, "right to wrong": 0, "wrong to right": 0}


def test_bad_tasks(tmp_path):
    with pytest.raises(FileNotFoundError, match="no task file"):
        evaluation.load_task(tmp_path / "t.yaml")
    (tmp_path / "t.yaml").write_text("task: t\n")
    for row, message in [({"choices": ["a"] * 3, "answer": 0}, "four choices"), ({"choices": ["a"] * 4, "answer": 4}, "answer 0 to 3")]:
        (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(ValueError, match=message):
            evaluation.load_task(tmp_path / "t.yaml")
    (tmp_path / "t.jsonl").write_text("")
    with pytest.raises(ValueError, match="no question"):
        evaluation.load_task(tmp_path / "t.yaml")
