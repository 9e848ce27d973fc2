"""Arms as phases."""

import pytest

from lib.engine import phases
from lib.studies.lab import curricula
from lib.studies.lab.curricula import ARMS, PARTS

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
