"""Preference pairs out of files and data sets: rows made up, field names those of the data sets."""

import json

import pytest

from lib import data

U, A, S = "user", "assistant", "system"


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def shown(pairs):
    """The prompt as (role, content) turns, chosen, rejected of each row."""
    return [(tuple((t["role"], t["content"]) for t in p.prompt), p.chosen, p.rejected) for p in pairs.rows]


def load(tmp_path, *rows, **options):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return data.load_pairs(path, **options)


HH = "\n\nHuman: Name a river.\n\nAssistant: The Rhine.\n\nHuman: How long is it?\n\nAssistant: {}"
TURNS = ((U, "Name a river."), (A, "The Rhine."), (U, "How long is it?"))
ASK = ((U, "q?"),)


def scored(*rows):
    return [{"prompt": p, "response": r, "helpfulness": h} for p, r, h in rows]


def test_helpsteer_compares_the_answers_of_a_prompt(tmp_path):
    rows = [("a?", "good", "10"), ("a?", "bad", "1"), ("a?", "fair", "9"), ("b?", "x", 3), ("b?", "y", 3)]
    got = load(tmp_path, *scored(*rows, ("c?", "alone", 4)))
    assert shown(got) == [(((U, "a?"),), "good", "bad")]
    assert got.dropped == [
        (4, "all answers have the same helpfulness"),
        (6, "has fewer than two answers to compare"),
    ]
    turns = "Name a river.\n<extra_id_1>Assistant\nThe Rhine.\n<extra_id_1>User\nHow long is it?"
    assert shown(load(tmp_path, *scored((turns, "1230 km.", 4), (turns, "5 km.", 0)))) == [(TURNS, "1230 km.", "5 km.")]


@pytest.mark.parametrize(
    "bad, reason",
    [
        ('{"prompt": "a?", "response": "z", "helpfulness": NaN}', "helpfulness is nan, not a number"),
        ('{"prompt": "a?", "response": "z", "helpfulness": "not rated"}', "helpfulness is 'not rated', not a number"),
        ('{"prompt": "a?", "response": "z", "helpfulness": true}', "helpfulness is True, not a number"),
        ('{"prompt": "a?", "response": "z", "helpfulness": null}', "lacks helpfulness"),
        ('{"prompt": "a?", "helpfulness": 3}', "lacks response"),
        ('{"response": "z", "helpfulness": 3}', "lacks prompt"),
        ('{"prompt": "a?", "response": " ", "helpfulness": 9}', "response is empty"),
    ],
)
def test_scores_that_are_none_are_named(tmp_path, bad, reason):
    got = load(tmp_path, bad, *scored(("a?", "best", 4), ("a?", "worst", 1)))
    assert shown(got) == [(((U, "a?"),), "best", "worst")] and got.dropped == [(1, reason)]


OURS = {"prompt": "q?", "chosen": "x", "rejected": "y"}
MORE = [OURS | {"chosen": f"x{i}"} for i in range(9)]  # others: a row said twice is read once


@pytest.mark.parametrize(
    "bad, reason",
    [
        (OURS | {"rejected": "x "}, "the two answers are the same"),
        (OURS | {"chosen": " "}, "the chosen answer is empty"),
        (OURS | {"prompt": ""}, "prompt is empty"),
        (OURS | {"rejected": None}, "lacks rejected"),
        (OURS | {"rejected": 5}, "rejected is 5, neither a text nor messages"),
        (OURS | {"score_chosen": 4, "score_rejected": 4}, "both answers have the same score"),
        (OURS | {"score_chosen": "9", "score_rejected": "10"}, "score_chosen 9 lies below score_rejected 10"),
        (OURS | {"chosen": talk(("narrator", "x"))}, "chosen has the role 'narrator', not system, user or assistant"),
        (OURS | {"chosen": talk((U, "q?"))}, "has no answer of the assistant"),
        (OURS | {"chosen": talk((A, None))}, "chosen has a message whose content is None, not a text"),
        (OURS | {"chosen": talk((U, "other?"), (A, "x"))}, "the conversation of an answer does not hold the prompt"),
        (
            OURS | {"chosen": talk((A, "x"), (U, "r?"), (A, "z")), "rejected": talk((A, "y"), (U, "r?"), (A, "z"))},
            "the two sides part before their last answers",
        ),
        (
            OURS | {"chosen": talk((A, "x"), (U, "r?"), (A, "z"), (U, "ok")), "rejected": talk((A, "y"))},
            "ends with the user's turn, and the two sides part before the last answer",
        ),
    ],
)
def test_a_row_that_is_no_pair_is_dropped_and_named(tmp_path, bad, reason):
    got = load(tmp_path, OURS, bad, MORE[0])
    assert shown(got) == [(ASK, "x", "y"), (ASK, "x0", "y")] and got.dropped == [(2, reason)]
    assert got.summary() == f"pairs.jsonl: 2 pairs, 1 rows dropped: 1 x {reason} (line 2)"
    with pytest.raises(
        ValueError, match="pairs.jsonl (holds no pair to learn from: line 1 |has the fields chosen, prompt;)"
    ):
        load(tmp_path, bad)


def test_too_many_bad_rows_stop_and_ties_do_not(tmp_path):
    bad = OURS | {"chosen": ""}
    with pytest.raises(ValueError, match=r"pairs.jsonl: 2 of 5 rows cannot be used, more than 10% \(line 2 the chosen"):
        load(tmp_path, OURS, bad, *MORE[:2], bad)
    assert len(load(tmp_path, OURS, bad, *MORE[:2], bad, limit=0.5).rows) == 3
    with pytest.raises(ValueError, match="1 of 2 rows cannot be used, more than 0%"):
        load(tmp_path, OURS, bad, limit=0)
    same = OURS | {"chosen": "y"}
    assert len(load(tmp_path, OURS, *[same] * 9).dropped) == 9
    with pytest.raises(ValueError, match="has the fields q, r; preferences need those of one form"):
        load(tmp_path, {"q": "a", "r": "b"})


def test_files_and_data_sets(tmp_path, monkeypatch):
    task = tmp_path / "task.json"
    task.write_text(
        json.dumps({"name": "hhh", "examples": [{"input": "b?", "target_scores": {"bad": 0, "good": 1}}]}, indent=1)
    )
    assert shown(data.load_pairs(task)) == [(((U, "b?"),), "good", "bad")]
    table = tmp_path / "pairs.csv"
    table.write_text('prompt,chosen,rejected\n"a, b?",x,y\n')
    assert shown(data.load_pairs(table)) == [(((U, "a, b?"),), "x", "y")]
    with pytest.raises(FileNotFoundError, match="no file of preference pairs at .*; give a file, a folder, or a data"):
        data.load_pairs(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"given as id\[@revision\]"):
        data.load_pairs("name:")

    def load_dataset(name, split):
        assert (name, split) == ("some/set", "train")
        return [OURS | {"score_chosen": None, "score_rejected": None}, OURS | {"chosen": None}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    got = data.read_sets(["none", "some/set:train", "task.json"], "pairs", tmp_path)
    assert list(got) == ["some/set:train", "task.json"] and shown(got["some/set:train"]) == [(ASK, "x", "y")]
    assert got["some/set:train"].dropped == [(2, "lacks chosen")]


def test_a_data_set_of_a_folder(tmp_path):
    scored_rows = scored(("a?", "good", 4), ("a?", "bad", 1))
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, scored_rows)))
    assert shown(data.load_pairs(f"{tmp_path}:train")) == [(((U, "a?"),), "good", "bad")]


def test_the_prompt_is_encoded_with_all_its_turns(tmp_path, byte_tokenizer):
    (pair,) = load(tmp_path, {"chosen": HH.format("1230 km."), "rejected": HH.format("5 km.")}).rows
    prompt = data.Prompt("1", "all", pair.text, "test", pair.prompt)
    assert data.encode(byte_tokenizer, [prompt]) == [data.chat(byte_tokenizer, talk(*TURNS))]
    assert pair.text == "user: Name a river.\n\nassistant: The Rhine.\n\nuser: How long is it?"
