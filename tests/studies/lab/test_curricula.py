"""Arms as phases, what they forget, and pairs shown in an order."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.engine import models, phases
from lib.harness import presets
from lib.studies.lab import curricula
from lib.studies.lab import student as students
from lib.studies.lab.curricula import ARMS, GROUPS, PARTS
from lib.studies.lab.questions import Question

ROWS = {part: [((1, 2), (10 * i + j,)) for j in range(6)] for i, part in enumerate(PARTS)}
STEPS = dict(zip(PARTS, (4, 5, 6)))
HOW = dict(steps=STEPS, batch=4, lr=1e-3, warmup=0.5)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_takes_the_same_steps_of_all_parts(arm):
    made = curricula.phases(arm, ROWS, **HOW)
    phases.check(made)
    assert sorted(r for p in made for r in p.rows) == sorted(r for part in PARTS for r in ROWS[part])
    assert (sum(p.steps for p in made) == 15) == (arm != "replay-epochs")
    names = {"stacked": ("stacked",), "reversed": PARTS[::-1]}.get(arm, PARTS)
    assert tuple(p.name for p in made) == names and made[0].replay == 0
    assert {p.decay for p in made} == {"cosine" if arm == "cosine" else "constant"} and {p.optimizer for p in made} == {
        "carry" if arm == "carried" else "restart"
    }
    assert [p.replay for p in made[1:]] == [ARMS[arm].replay] * (len(made) - 1)
    made = curricula.phases(arm, ROWS, **HOW | {"steps": dict.fromkeys(PARTS, 100)})
    shares = [sum(old for _, old in phases.batches(made, at, 0)) / (p.steps * 4) for at, p in enumerate(made)][1:]
    wanted = {"phased": 0, "stacked": 0, **{f"replay-{p}%": p / 100 for p in (1, 3, 10, 30)}}
    if arm in wanted:
        assert all(abs(s - wanted[arm]) < 0.003 for s in shares)
    else:  # all that came before, each row once an epoch
        assert [pytest.approx(s, abs=0.01) for s in shares] == [1 / 2, 2 / 3]


def test_equal_epochs_pass_over_replayed_rows_as_often():
    made = curricula.phases("replay-epochs", ROWS, **HOW)
    assert [p.steps for p in made] == [4, 10, 18]  # 6 of 6, 12 of 6, 18 of 6 rows


def test_parts_follow_branch_and_length():
    row = lambda leaf, answer: {"leaf": leaf, "answer": answer}  # noqa: E731
    data = [
        row("knowledge/a/b", "two words"),
        row("knowledge/a/b", "now these are four"),
        row("foundational_skills/x/y", "1"),
        row("compositional_skills/x", "z"),
    ]
    assert curricula.parts(data, words=3) == {PARTS[0]: data[:1], PARTS[1]: data[1:3], PARTS[2]: data[3:]}
    with pytest.raises(ValueError, match="knowledge-long has none"):
        curricula.phases("phased", ROWS | {"knowledge-long": []}, **HOW)
    with pytest.raises(ValueError, match="an arm is one of stacked, .* given 'lab'"):
        curricula.phases("lab", ROWS, **HOW)


def test_at_most_so_many_rows_of_a_skill_and_all_of_knowledge():
    data = [
        {"leaf": leaf, "n": i}
        for i in range(9)
        for leaf in ("knowledge/a", "foundational_skills/b", "compositional_skills/c")
    ]
    some = curricula.at_most(data, 4, 0)
    assert [
        sum(r["leaf"] == leaf for r in some)
        for leaf in ("knowledge/a", "foundational_skills/b", "compositional_skills/c")
    ] == [9, 4, 4]
    assert some == [r for r in data if r in some] and some != curricula.at_most(data, 4, 1)


def test_what_is_forgotten_by_hand():
    a = np.array
    start = dict(zip(GROUPS, (a([1.0, 0]), a([0.0]), a([0.0]), a([0.0]))))
    first = dict(zip(GROUPS, (a([1.0, 1]), a([1.0]), a([0.0]), a([0.0]))))
    second = dict(zip(GROUPS, (a([1.0, 1]), a([1.0]), a([1.0]), a([0.0]))))
    third = dict(zip(GROUPS, (a([0.0, 1]), a([0.0]), a([1.0]), a([1.0]))))
    got = curricula.forgotten(PARTS, [start, first, second, third])
    assert {k: v.tolist() for k, v in got.items()} == {"general": [1.0, -1.0], PARTS[0]: [1.0], PARTS[1]: [0.0]}
    backwards = curricula.forgotten(PARTS[::-1], [start, first, second, third])
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
    sheets, run = dict(zip((*GROUPS, "facts"), map(ask, (2, 1, 4, 1, 1)))), Kept()
    scores = [[0] * 9, [1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0, 0, 1, 0]]
    curricula.record(run, "arm", sheets, PARTS, scores)
    by = {(d, m): (ids, values, w) for d, _, m, ids, values, w in (i for i in run.items_ if len(i) == 6)}
    ids, values, w = by["exam", "accuracy"]
    assert np.average(values, weights=w) == pytest.approx((0.5 + 0 + 0.5 + 1) / 4) and len(set(ids)) == 8
    _, values, w = by["forgetting", "forgotten"]
    assert np.average(values, weights=w) == pytest.approx((-0.5 + 1 - 0.25) / 3)
    assert ("exam facts", "arm", "accuracy", ["q0"]) in [i[:4] for i in run.items_] and len(run.metrics_) == 4 * 5
    assert curricula.by_sheet(sheets, scores[3])["knowledge-long"].tolist() == [1, 1, 0, 0]
    run = Kept()
    curricula.record(run, "merged", sheets, ["merged"], scores[:2])
    assert "forgetting" not in {i[0] for i in run.items_}  # no order, nothing to forget


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"STEPS": "²,3,3"}, "given '²,3,3'"), ({"STEPS": "3,3"}, "3 whole numbers of at least 1, one for each of "
            "knowledge-short, knowledge-long, skills, given '3,3'"),
        ({"STEPS": "3,0,3"}, "given '3,0,3'"), ({"NOISES": "0.2,much"}, "noises are numbers from 0 to 1, given "
            "'much'"), ({"SHARES": "1.5"}, "shares are .* given '1.5'"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        curricula.steps(presets.resolve("lab", {"PRESET": "smoke", "SEED": 0} | given))


def test_contrast_begins_at_log_two_and_widens_the_gap(tiny_model, byte_tokenizer):
    student = students.Student(
        tiny_model, byte_tokenizer, blocks=1, system="", stop_ids=models.stop_ids(tiny_model, byte_tokenizer), batch=4
    )
    data = lambda answer: [{"leaf": "x", "question": f"Say {k}.", "answer": f"{answer} {k}"} for k in range(6)]  # noqa: E731
    good, bad = student.rows(data("yes")), student.rows(data("no"))
    gap = lambda: (student.logp(good) - student.logp(bad)).mean().item()  # noqa: E731
    with torch.no_grad():
        before = gap()
    curve = curricula.contrast(
        student,
        good,
        bad,
        [[0, 1, 2], [3, 4, 5], [0, 3, 5], [1, 2, 4]],
        beta=0.5,
        lr=1e-3,
        warmup=1,
        clip=1.0,
        micro=2,
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
    few = curricula.contrast(
        student, good, bad, [[5, 2], [2, 0]], beta=0.5, lr=1e-12, warmup=0, clip=1.0, micro=2, desc="some pairs"
    )
    assert len({round(x, 3) for x in before}) > 3 and all(
        abs(row["margin"]) < 1e-4 for row in few
    )  # each pair against its own reference, whichever are shown
