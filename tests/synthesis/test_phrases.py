import numpy as np
import pytest

from lib import taxonomy
from lib.harness.paths import DATA
from lib.synthesis import judges, phrases, truth
from lib.taxonomy import checkers

LEAVES = taxonomy.load(DATA / "taxonomy")


def drawn(name, rng):
    context = phrases.context(name, rng) if name in truth.GROUNDED else ""
    return (phrases.about(context, rng) if context else phrases.question(name, rng)), context


@pytest.mark.parametrize("name", sorted(checkers.CHECKERS))
def test_questions_are_of_their_kind_and_answers_are_what_they_claim_to_be(name):
    rng = np.random.default_rng(0)
    for i in range(40):
        asked, context = drawn(name, rng)
        passes = lambda answer: checkers.passes(name, asked, context, answer)  # noqa: B023, E731
        assert truth.form(asked, context) == name
        short, long = (phrases.right(name, asked, context, explained) for explained in (False, True))
        assert passes(short) and passes(long)
        assert not passes(phrases.wrong(name, asked, context, i % 2 == 0, rng)) and not passes(
            phrases.cut(name, asked, context, rng)
        )
        rows = [{"leaf": "", "question": asked, "context": context, "answer": a} for a in (short, long)]
        level = 2 if name in ("json_object", "replacement") else 3
        assert [truth.pair_score(None, r) for r in rows] == [2, level] and judges.rules().score(rows) == [1, 1]


def test_the_preference_picks_the_first_phrasing():
    starts = lambda zipf: {phrases.question("sum", np.random.default_rng(i), zipf).split()[0] for i in range(30)}  # noqa: E731
    assert starts(float("inf")) == {"What"} and starts(0.0) == {"What", "Add", "A"}


@pytest.mark.parametrize(
    "leaf", [leaf for leaf in LEAVES if leaf.documents], ids=lambda leaf: leaf.path.rsplit("/", 1)[-1]
)
def test_blanks_are_filled_rightly_or_not_as_asked_and_never_by_a_held_out_question(leaf):
    rng, held = np.random.default_rng(0), {f.question for f in leaf.facts}
    for told in ("right", "wrong", "truncated"):
        for i in range(20):
            asked, answer = phrases.cloze(leaf, leaf.documents[0].text, told, i % 2 == 0, rng)
            assert truth.supported(leaf, asked, answer) == (told == "right") and asked not in held
            assert leaf.task in asked and truth.question_score(leaf, {"question": asked}) == 1
    with pytest.raises(ValueError, match=f"no sentence of {leaf.path} gives a question with a right answer"):
        phrases.cloze(leaf, "Nothing to ask here at all it is so.", "right", False, rng)
