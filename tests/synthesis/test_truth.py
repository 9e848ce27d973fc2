import pytest

from lib import taxonomy
from lib.harness.paths import DATA
from lib.synthesis import truth

LEAVES = taxonomy.load(DATA / "taxonomy")


def test_hidden_labels():
    assert truth.valid({"truth": {"leaf": "a", "asked": "right", "told": "right", "explained": False}})
    assert not truth.valid({"truth": {"asked": "right", "told": "wrong"}}) and not truth.valid(
        {"truth": {"given": "off-leaf"}}
    )
    with pytest.raises(ValueError, match="only a templated teacher's rows carry their truth, given 'a#0'"):
        truth.valid({"id": "a#0", "truth": {}})


def test_every_seed_and_fact_is_right_by_its_leaf_and_another_leafs_question_is_not():
    for leaf in LEAVES:
        for s in leaf.seeds:
            row = {"question": s.question, "context": s.context, "answer": s.answer}
            assert truth.question_score(leaf, row) == 1 and truth.pair_score(leaf, row) >= 2
            others = [x for x in LEAVES if x.checker and x.checker != leaf.checker]
            assert not any(truth.question_score(x, row) for x in others)
        assert all(truth.supported(leaf, f.question, f.answer) for f in leaf.facts)
        assert not any(truth.supported(leaf, f.question, wrong) for f in leaf.facts for wrong in f.distractors)


def test_an_explained_answer_is_worth_more_and_an_unsafe_one_nothing():
    ask = {"question": "What is 17 + 25?"}
    score = lambda answer: truth.pair_score(None, ask | {"answer": answer})  # noqa: E731
    assert score("42") == 2 and score("First add 17 and 25 together: 42") == 3
    assert score("43") == score(f"42 {truth.UNSAFE}") == 1


def test_answers_are_borne_out_in_scripts_without_spaces():
    seed = taxonomy.Seed("首都是哪里?", "北京", "", 1)
    leaf = taxonomy.Leaf("a", "knowledge", "首都", (seed,))
    assert truth.supported(leaf, "首都是哪里?", "答案是北京。") and not truth.supported(leaf, "首都是哪里?", "北海")
    spaced = leaf._replace(seeds=(seed._replace(answer="Рим"),))
    assert truth.supported(spaced, "首都是哪里?", "Это Рим.") and not truth.supported(spaced, "首都是哪里?", "Римляне")
