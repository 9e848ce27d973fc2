"""Pairs shown in an order."""

import math

import pytest
import torch

from lib.engine import models
from lib.studies.lab import contrast
from lib.studies.lab.contrast import Contrast
from lib.studies.lab.student import Student


def test_contrast_begins_at_log_two_and_widens_the_gap(tiny_model, byte_tokenizer):
    student = Student(
        tiny_model, byte_tokenizer, blocks=1, system="", stop_ids=models.stop_ids(tiny_model, byte_tokenizer), batch=4
    )
    data = lambda answer: [{"leaf": "x", "question": f"Say {k}.", "answer": f"{answer} {k}"} for k in range(6)]  # noqa: E731
    good, bad = student.rows(data("yes")), student.rows(data("no"))
    gap = lambda: (student.logp(good) - student.logp(bad)).mean().item()  # noqa: E731
    with torch.no_grad():
        before = gap()
    curve = contrast.tune(
        student,
        good,
        bad,
        [[0, 1, 2], [3, 4, 5], [0, 3, 5], [1, 2, 4]],
        Contrast(beta=0.5, lr=1e-3, warmup=1, clip=1.0, micro=2),
        desc="pairs",
    )
    with torch.no_grad():
        assert gap() > before + 0.1
    assert (
        curve[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
        and curve[-1]["loss"] < curve[0]["loss"]
        and curve[-1]["margin"] > 0
    )
    student.load(None)
    with torch.no_grad():
        before = [(student.logp(good[k : k + 1]) - student.logp(bad[k : k + 1])).item() for k in range(6)]
    still = Contrast(beta=0.5, lr=1e-12, warmup=0, clip=1.0, micro=2)
    few = contrast.tune(student, good, bad, [[5, 2], [2, 0]], still, desc="some pairs")
    assert len({round(x, 3) for x in before}) > 3 and all(
        abs(row["margin"]) < 1e-4 for row in few
    )  # each pair against its own reference, whichever are shown
