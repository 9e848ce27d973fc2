import pytest

from lib import taxonomy
from lib.harness.paths import DATA
from lib.taxonomy import checkers


def test_every_seed_passes_its_checker_and_another_seeds_answer_does_not():
    for leaf in taxonomy.load(DATA / "taxonomy"):
        for seed in leaf.seeds if leaf.checker else ():
            passes = lambda answer: checkers.passes(leaf.checker, seed.question, seed.context, answer)  # noqa: B023, E731
            assert (
                passes(seed.answer) and not passes("") and not passes("I do not know.") and not passes(seed.question)
            ), seed
            result = checkers.solve(leaf.checker, seed.question, seed.context)
            assert result is None or passes(result), seed
            for other in leaf.seeds:
                right = checkers.solve(leaf.checker, other.question, other.context)
                assert passes(other.answer) == (other == seed or (result is not None and right == result)), (
                    seed,
                    other,
                )


CHECKED = [  # checker, question, context, right answers, wrong ones
    ("sum", "What is 17 + 25?", "", ["42", "17 + 25 = 42.", "**42**", "The sum is: 42"],
        ["142", "-42", "41 or 42", "42 or 43", "not 42", "17, 42", "4 2", "4.42"]),
    ("sum", "Add 900 and 150.", "", ["1050", "1,050"], ["1.050", "900150"]),
    ("sum", "What is 17 minus 25?", "", [], ["42", "-8"]),
    ("sum", "What is the sum of 1.5 and 2?", "", [], ["3.5", "3", "8"]),
    ("comparison", "Which is larger, 23 or 41?", "", ["41", "The larger one is 41."],
        ["23", "41 is larger than 23", "23 is larger than 41", "23 or 41", "23, 41"]),
    ("comparison", "Which is lowest: -7, 3 or 0?", "", ["-7"], ["7", "0"]),
    ("comparison", "Which is larger or smaller, 1 or 2?", "", [], ["1", "2"]),
    ("date_order", "Which is later, 1 May 2001 or 30 April "
        "2001?", "", ["1 May 2001"], ["30 April 2001", "11 May 2001", "30 April 2001 is before 1 "
            "May 2001", "May 2001"]),
    ("date_order", "Which is later, 31 June 2001 or 30 April 2001?", "", [], ["30 April 2001"]),
    ("letter_count", 'How often does "p" occur in "Pepper"?', "", ["3", "There are 3."], ["2", "13", "three p"]),
    ("reversal", 'Spell "stone" backwards.', "", ["enots", "Backwards: enots.", '"enots"'],
        ["stone", "enot", "kenots", "enots or stone"]),
    ("alphabetical", "Sort alphabetically: pear, "
        "Apple, fig.", "", ["Apple, fig, pear", "Here: apple, fig, pear."],
        ["fig, pear, apple", "kiwi, apple, fig, pear", "apple fig pear", "pear, fig"]),
    ("conversion", "Convert 3.5 kilometres to "
        "metres.", "", ["3500 m", "3,500 metres", "It is 3500.0 metres."],
        ["35 m", "3500", "3500 km", "-3500 m", "13500 metre s"]),
    ("conversion", "How many seconds are in 2 hours?", "", ["7200 seconds"], ["120 seconds", "7200 hours"]),
    ("conversion", "Convert 3 kilograms to metres.", "", [], ["3000 metres"]),
    ("conversion", "Convert 1 second to days.", "", [], ["0.00001157 days"]),
    ("date_in_context", "On which date? YYYY-MM-DD.", "Sold in 1990; opened 4 May 2001 at "
        "9:00.", ["2001-05-04", "It was 2001-05-04."], ["2001-04-05", "4 May 2001", "1990"]),
    ("date_in_context", "On which date? YYYY-MM-DD.", "From 4 May 2001 to 5 May 2001.", [], ["2001-05-04"]),
    ("table_cell", "What is the price of the tea?", "drink | price | size\nTea | 3 | big\nCocoa | 5 | "
        "small", ["3", "It costs 3."], ["5", "big", "33"]),
    ("table_cell", "What is the price of the milk?", "drink | price\nTea | 3\nCocoa | 5", [], ["3", "5"]),
    ("record_holder", "Who has the most?", "Al: 3\nBo: 12", ["Bo", "That is Bo."],
        ["Al", "12", "Al and Bo", "Not Bo or Al"]),
    ("record_holder", "Who has the most?", "Al: 3\nBo: 3", [], ["Al", "Bo"]),
    ("replacement", 'Replace "red" with "blue".', "A red door and reddish wood.", ["A blue door and reddish wood."],
        ["A red door and reddish wood.", "A blue door and blueish wood.", "a blue door and reddish wood."]),
    ("replacement", 'Replace "green" with "blue".', "A red door.", [], ["A red door."]),
    ("three_bullets", "Exactly three bullet points: tea, rope and a "
        "lamp.", "", ["- tea\n- rope\n- a lamp", "* Tea\n\n* Rope\n* A "
            "lamp, lit"], ["- tea\n- rope", "- rope\n- tea\n- a lamp", "tea\nrope\na lamp", "- tea\n- rope\n- a "
                "lamp\n- oil", "Here:\n- tea\n- rope\n- a lamp"]),
    ("question", "Make it a question: The ferry leaves at "
        "nine.", "", ["When does the ferry leave, and from "
            "where?", "Does the ferry leave at nine?"],
            ["The ferry leaves at nine.", "The ferry leaves at nine?", "Who are you?", "Does the "
                "ferry leave at nine? Or ten?", "Does the ferry leave at nine"]),
    ("polite_note", "Write a polite note to Mrs Lund from Tom asking for the "
        "garden key.", "", ["Dear Mrs Lund,\nplease lend me the garden "
            "key.\nTom"], ["Dear Mr Lund,\nplease lend me the garden "
                "key.\nTom", "Dear Mrs Lund,\nplease lend me the "
                    "garden key.", "Dear Mrs Lund,\ngive me the garden "
                        "key.\nTom", "Dear Mrs Lund,\nplease lend me the key.\nTom"]),
    ("json_object", "As JSON: name = Lina, age = 34.", "", ['{"name": "Lina", "age": 34}', '```json\n{"age": 34, '
        '"name": "Lina"}\n```'],
     ['{"name": "Lina", "age": "34"}', '{"name": "Lina"}', '{"name": "Lina", "age": 34, "x": 1}', '{"name": "Lina", '
         '"age": 34, "age": "b"}', '{"name": "Lina", "age": 34, '
             '"age": 34}', '{"name": "Lina", "age": 34.0}', '{"name": "Lina", "age": true}', "[1]", "{}", "[[",
             "[" * 100_000, '{"name": {"a": 1}, "age": 34}', "name = Lina"]),
    ("ships_mate", "You are the mate. Report that the sails are "
        "torn.", "", ["Aye, captain: the sails are "
            "torn.", "Aye, captain: torn are the "
                "sails!"], ["The sails are torn.", "Aye, captain: all is well.", "Aye, captain: the sails "
                    "are torn", "Aye, captain: the sails are torn.\nOver."]),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, question, context, right, wrong", CHECKED, ids=[f"{c[0]}-{i}" for i, c in enumerate(CHECKED)]
)
def test_checkers_know_right_from_wrong(name, question, context, right, wrong):
    assert [a for a in right if not checkers.passes(name, question, context, a)] == []
    assert [a for a in wrong if checkers.passes(name, question, context, a)] == []
    result = checkers.solve(name, question, context)
    if name in checkers.SOLUTIONS:
        assert (result is None) == (not right) and (result is None or checkers.passes(name, question, context, result))
    else:
        assert result is None
    assert not checkers.passes(name, "", "", "42") and not checkers.passes(name, "", "", "")


def test_unknown_checkers_and_that_each_is_tested():
    assert {c[0] for c in CHECKED} == set(checkers.CHECKERS)
    for call in (lambda: checkers.passes("rhyme", "", "", ""), lambda: checkers.solve("rhyme", "")):
        with pytest.raises(ValueError, match="a checker is one of sum, comparison, .*, given 'rhyme'"):
            call()
