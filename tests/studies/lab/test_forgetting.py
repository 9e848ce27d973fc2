"""What is forgotten, by hand, and what goes on record."""

from types import SimpleNamespace

import numpy as np
import pytest

from lib.engine import phases
from lib.studies.lab import forgetting
from lib.studies.lab.curricula import GROUPS, PARTS
from lib.synthesis.exams import Question


def test_what_is_forgotten_by_hand():
    a = np.array
    start = dict(zip(GROUPS, (a([1.0, 0]), a([0.0]), a([0.0]), a([0.0]))))
    first = dict(zip(GROUPS, (a([1.0, 1]), a([1.0]), a([0.0]), a([0.0]))))
    second = dict(zip(GROUPS, (a([1.0, 1]), a([1.0]), a([1.0]), a([0.0]))))
    third = dict(zip(GROUPS, (a([0.0, 1]), a([0.0]), a([1.0]), a([1.0]))))
    got = forgetting.forgotten(PARTS, [start, first, second, third])
    assert {k: v.tolist() for k, v in got.items()} == {"general": [1.0, -1.0], PARTS[0]: [1.0], PARTS[1]: [0.0]}
    backwards = forgetting.forgotten(PARTS[::-1], [start, first, second, third])
    assert {k: v.tolist() for k, v in backwards.items()} == {"general": [1.0, -1.0], PARTS[2]: [-1.0], PARTS[1]: [0.0]}
    r = [[x[g].mean() for g in GROUPS] for x in (start, first, second, third)]
    assert -phases.memory(r).backward == pytest.approx(np.mean([v.mean() for v in got.values()]))


class Kept:
    def __init__(self):
        self.items_, self.metrics_ = [], []

    def items(self, *args):
        self.items_.append(args)

    def metric(self, *args):
        self.metrics_.append(args)


def test_groups_weigh_the_same_in_what_is_recorded():
    ask = lambda n: SimpleNamespace(questions=[Question(f"q{i}", "l", "p", "?", "", ("a",)) for i in range(n)])  # noqa: E731
    exams, run = dict(zip((*GROUPS, "facts"), map(ask, (2, 1, 4, 1, 1)))), Kept()
    scores = [[0] * 9, [1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0, 0, 1, 0]]
    forgetting.record(run, "arm", exams, PARTS, scores)
    by = {(d, m): (ids, values, w) for d, _, m, ids, values, w in (i for i in run.items_ if len(i) == 6)}
    ids, values, w = by["exam", "accuracy"]
    assert np.average(values, weights=w) == pytest.approx((0.5 + 0 + 0.5 + 1) / 4) and len(set(ids)) == 8
    _, values, w = by["forgetting", "forgotten"]
    assert np.average(values, weights=w) == pytest.approx((-0.5 + 1 - 0.25) / 3)
    assert ("exam facts", "arm", "accuracy", ["q0"]) in [i[:4] for i in run.items_] and len(run.metrics_) == 4 * 5
    assert forgetting.by_exam(exams, scores[3])["knowledge-long"].tolist() == [1, 1, 0, 0]
    run = Kept()
    forgetting.record(run, "merged", exams, ["merged"], scores[:2])
    assert "forgetting" not in {i[0] for i in run.items_}  # no order, nothing to forget
