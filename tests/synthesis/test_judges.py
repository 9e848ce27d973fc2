import numpy as np
import pytest

from lib import taxonomy
from lib.harness.paths import DATA
from lib.scoring.likelihood import completion_logprobs
from lib.synthesis import judges, truth

LEAVES = taxonomy.load(DATA / "taxonomy")
BY = {leaf.path.rsplit("/", 1)[-1]: leaf for leaf in LEAVES}


def row(leaf, question, answer, context=""):
    return {"leaf": BY[leaf].path if leaf in BY else leaf, "question": question, "answer": answer, "context": context}


def seeds(leaf):
    return [{"leaf": leaf.path, "question": s.question, "answer": s.answer, "context": s.context} for s in leaf.seeds]


def test_the_oracle_accepts_every_seed_and_fact_and_no_other_seeds_answer():
    oracle = judges.oracle(LEAVES)
    for leaf in LEAVES:
        rows = seeds(leaf)
        facts = [{"leaf": leaf.path, "question": f.question, "answer": f.answer} for f in leaf.facts]
        assert set(oracle["question"].score(rows + facts)) == {1} and min(oracle["pair"].score(rows + facts)) >= 2
        assert not judges.rules().score(rows).count(0.0)
        wrong = [f | {"answer": fact.distractors[0]} for f, fact in zip(facts, leaf.facts)]
        assert not any(oracle["faithful"].score(wrong))
        if leaf.checker:
            assert {truth.form(r["question"], r["context"]) for r in rows} == {leaf.checker}
            others = [r for other in LEAVES if other.checker and other != leaf for r in seeds(other)]
            assert not any(oracle["question"].score([r | {"leaf": leaf.path} for r in others]))


@pytest.mark.parametrize(
    "given, question, pair",
    [
        (row("addition", "What is 17 + 25?", "42"), 1, 2),
        (row("addition", "What is 17 + 25?", "Seven and five are twelve, so it is 42."), 1, 3),
        (row("addition", "What is 17 + 25?", "41"), 1, 1),
        (row("addition", 'Spell "stone" backwards.', "enots"), 0, 1),  # of another leaf
        (row("pool", 'Spell "stone" backwards.', "enots"), 1, 2),  # of an unknown leaf: any form will do
        (row("pool", "What does the picture show?", "I cannot see that."), 0, 1),
        (row("addition", f"What is 17 + 25? {truth.UNSAFE}", "42"), 0, 1),
        (row("cell", "What is the price of the tea?", "3", "drink | price\nTea | 3\nCocoa | 5"), 1, 2),
        (row("cell", "Which is larger, 4 or 9?", "9", "drink | price\nTea | 3\nCocoa | 5"), 0, 1),
        (
            row(
                "orrin_line",
                'Complete: "There are ____: Millgate, Pask" (The Orrin Line, a valley railway)',
                "six stations",
            ),
            1,
            2,
        ),
        (
            row(
                "orrin_line",
                'Complete: "There are ____: Millgate, Pask" (The Orrin Line, a valley railway)',
                "five stations",
            ),
            1,
            1,
        ),
        (
            row(
                "orrin_line",
                'Complete: "There are ____: Aske, Pask" (The Orrin Line, a valley railway)',
                "six stations",
            ),
            1,
            1,
        ),
        (row("orrin_line", "Who founded Rome?", "Romulus"), 0, 1),
    ],
)
def test_the_oracle_on_both_scales(given, question, pair):
    oracle = judges.oracle(LEAVES)
    assert oracle["question"].score([given]) == [question] and oracle["pair"].score([given]) == [pair]


@pytest.mark.parametrize(
    "question, answer, fault",
    [
        ("What is 17 + 25?", "42", None),
        ("As JSON: name = Lina, age = 34.", '{"name": "Lina", "age": 34}', None),
        ("As JSON: name = Lina, age = 34.", '{"name": "Li', "the answer breaks off"),
        ("What is 17 + 25?", "Adding the numbers place by place gives the", "the answer breaks off"),
        ("What is 17 + 25?", "The sum is:", "the answer breaks off"),
        ("What is 17 + 25?", "", "the answer has 0 words"),
        ("What is 17 + 25?", "42 " * 251, "the answer has 251 words"),
        ("What?", "42", "the question has 1 words"),
        ("- and so on and on", "42", "the question is no sentence"),
        ("What does the picture show?", "42", "the question needs eyes"),
        ("What is 17 + 25?", f"42 {truth.UNSAFE}", "unsafe"),
        ("What is 17 + 25?", None, None),
    ],
)
def test_rules(question, answer, fault):
    given = {"leaf": "", "question": question, "answer": answer}
    assert judges.faults(given) == [fault] * (fault is not None)
    judge = judges.rules()
    assert judge.score([given]) == [float(fault is None)] and judge.why(given) == (fault or "")


def test_a_calibrated_threshold_keeps_its_share_of_held_out_seeds():
    """Threshold from the first half of each leaf's seeds, kept share on the second; two leaves of different level."""
    rng = np.random.default_rng(0)
    leaf = BY["addition"]
    kept = []
    for _ in range(100):
        values = {(k, seed.question): 10 * k + rng.normal() for k in range(2) for seed in leaf.seeds}
        halves = [[leaf._replace(path=f"{k}", seeds=leaf.seeds[at::2]) for k in range(2)] for at in range(2)]
        score = lambda rows: [values[int(r["leaf"]), r["question"]] for r in rows]  # noqa: B023, E731
        judge = judges.calibrated("toy", score, halves[0], q=0.1)
        held = [{"leaf": x.path, "question": s.question} for x in halves[1] for s in x.seeds]
        kept += [s >= judge.least for s in judge.score(held)]
        own = [{"leaf": x.path, "question": s.question} for x in halves[0] for s in x.seeds]
        assert np.mean([s >= judge.least for s in judge.score(own)]) >= 0.9
    assert 0.88 < np.mean(kept) < 0.94


def test_calibration_of_unknown_leaves_and_bad_input():
    score = lambda rows: [None if r["question"] == "?" else 3.0 for r in rows]  # noqa: E731
    judge = judges.calibrated("toy", score, LEAVES, q=0.0)
    assert judge.score([{"leaf": "pool", "question": "x"}, {"leaf": "pool", "question": "?"}]) == [0.0, None]
    for q, leaves in ((1.0, LEAVES), (-0.1, LEAVES), (0.1, [])):
        with pytest.raises(ValueError, match=r"q lies in \[0, 1\) and there is at least one leaf"):
            judges.calibrated("toy", score, leaves, q=q)
    with pytest.raises(
        ValueError, match="toy gives no finite score to a seed of compositional_skills/formats/json_record"
    ):
        judges.calibrated("toy", lambda rows: [float("nan")] * len(rows), LEAVES, q=0.1)


def test_likelihood_is_the_mean_log_probability_of_the_answer(tiny_model, byte_tokenizer):
    rows = [row("x", "Why?", "So."), row("x", "Who?", "Ann, of course.", "Ann did it.")]
    encode = lambda t: byte_tokenizer.encode(t, add_special_tokens=False)  # noqa: E731
    prompts = [encode("Question: Why?\nAnswer:"), encode("Ann did it.\n\nQuestion: Who?\nAnswer:")]
    wanted = completion_logprobs(tiny_model, prompts, [encode(" So."), encode(" Ann, of course.")], batch=1, mean=True)[
        :, 0
    ]
    assert judges.likelihood(tiny_model, byte_tokenizer, batch=2)(rows) == pytest.approx(wanted.tolist(), abs=1e-5)
    pmi = judges.likelihood(tiny_model, byte_tokenizer, batch=2, pmi=True)(rows)
    closed = judges.likelihood(tiny_model, byte_tokenizer, batch=2)([rows[1] | {"context": ""}])
    assert pmi[0] == pytest.approx(0, abs=1e-5) and pmi[1] == pytest.approx(wanted[1].item() - closed[0], abs=1e-5)
    judge = judges.calibrated(
        "likelihood", judges.likelihood(tiny_model, byte_tokenizer, batch=8), [BY["reversing"]], q=0.2
    )
    assert sum(s >= 0 for s in judge.score(seeds(BY["reversing"]))) >= 4
    with pytest.raises(ValueError, match=r"this question of x has none: 'Why\?'"):
        judges.likelihood(tiny_model, byte_tokenizer, batch=2)([row("x", "Why?", "")])


def test_the_two_order_margin_changes_sign_under_a_swap_and_ignores_the_place(tiny_model, byte_tokenizer):
    rng = np.random.default_rng(0)
    worth = {str(i): rng.normal() for i in range(60)}
    first, second = [str(i) for i in range(30)], [str(i) for i in range(30, 60)]
    biased = lambda bias: lambda p, a, b: [worth[x] - worth[y] + bias for x, y in zip(a, b)]  # noqa: E731
    for bias in (0.0, 0.5, 99.0):
        one, other = (
            judges.two_order(biased(bias), first, first, second),
            judges.two_order(biased(bias), first, second, first),
        )
        assert one == pytest.approx([-x for x in other])
        gaps = [worth[a] - worth[b] for a, b in zip(first, second)]
        assert one == pytest.approx([g if abs(g) > bias else 0.0 for g in gaps])
    margin = judges.letter_margin(tiny_model, byte_tokenizer, batch=4)
    texts = ["yes", "no", "perhaps"], ["never", "ever", "soon"]
    assert margin(["?"] * 3, *texts) != margin(["?"] * 3, *texts[::-1])
    assert judges.two_order(margin, ["?"] * 3, *texts) == pytest.approx(
        [-x for x in judges.two_order(margin, ["?"] * 3, *texts[::-1])]
    )
    right = lambda prompts, a, b: [(1 if "42" in p else -1) * (1 if "right" in x else -1) for p, x in zip(prompts, a)]  # noqa: E731
    judge = judges.two_order_judge(right)
    assert judge.score(
        [row("x", "Sum?", "42"), row("x", "Sum?", "41", "a context"), {"leaf": "x", "question": "Sum?", "answer": "42"}]
    ) == [1.0, -1.0, 1.0]
    first = judges.two_order_judge(
        lambda prompts, a, b: [5.0] * len(a)
    )  # always the first: it has seen nothing, and keeps nothing
    assert [s >= first.least for s in first.score([row("x", "Sum?", "42")])] == [False] and first.least < 0.01


def test_quality_by_hand():
    """Scores 4 3 2 1 - of rows T F T F T: three kept of which two are valid; the pairs won are 2 of 2, 1 of 2 and 0 of
    2."""
    found = judges.quality([4, 3, 2, 1, None], [True, False, True, False, True], least=2)
    assert found == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "auc": 3 / 6, "purity before": 3 / 5, "purity": 2 / 3, "yield": 3 / 5}
    )
    assert judges.quality([1, 1], [True, False], least=0)["auc"] == 0.5
    none = judges.quality([1, 1], [True, True], least=2)
    assert np.isnan(none["precision"]) and np.isnan(none["auc"]) and none["recall"] == none["yield"] == 0
    rng = np.random.default_rng(0)
    truth = rng.random(4000) < 0.5
    assert judges.quality(rng.normal(size=4000) + truth, truth, least=0.5)["auc"] == pytest.approx(
        0.760, abs=0.02
    )  # Phi(1/sqrt 2)
    for scores, labels in (([], []), ([1], [True, False])):
        with pytest.raises(ValueError, match="a score and a truth for each of at least one row"):
            judges.quality(scores, labels, least=0)


def test_both_judges_are_one():
    q = judges.Judge("q", lambda rows: [r["q"] for r in rows], 1)
    p = judges.Judge("p", lambda rows: [r["p"] for r in rows], 2)
    one = judges.both(q, p)
    scores = one.score([{"q": a, "p": b} for a, b in ((1, 3), (0, 3), (1, 1), (None, 3), (1, None))])
    assert scores == [3, 0.0, 1, None, None] and one.least == 2
    everything = judges.keep_all()
    assert all(score >= everything.least for score in everything.score([{}, {}]))


@pytest.mark.parametrize(
    "question",
    ["¿Qué río pasa por aquí?", "Где находится станция?", "这条河叫什么？", "أين تقع المحطة؟", "7 plus 5 makes what?"],
)
def test_the_rules_know_sentences_of_other_scripts(question):
    assert judges.faults({"question": question, "answer": "It is here."}) == []
    assert judges.faults({"question": question[:-1] + ",", "answer": "It is here."}) == ["the question is no sentence"]
