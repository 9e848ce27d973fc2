"""The forms of data sets: rows made up, field names theirs."""

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
FORMS = {
    "ours": ({"prompt": "q?", "chosen": "x", "rejected": "y"}, ASK, "x", "y"),
    "hh-rlhf": ({"chosen": HH.format("1230 km."), "rejected": HH.format("5 km.")}, TURNS, "1230 km.", "5 km."),
    "hh with its prompt": (
        {"prompt": HH.format("").rstrip(), "chosen": " 1230 km.", "rejected": " 5 km."}, TURNS, " 1230 km.", " 5 km.",
    ),
    "trl explicit conversational": (
        {"prompt": talk((S, "Be brief."), (U, "q?")), "chosen": talk((A, "x")), "rejected": talk((A, "y"))},
        ((S, "Be brief."), (U, "q?")), "x", "y",
    ),
    "trl implicit standard": (
        {"chosen": "The sky is blue.", "rejected": "The sky is black."}, ((U, "The sky is"),), " blue.", " black.",
    ),
    "trl implicit, one goes on": (
        {"chosen": "The sky is blue today", "rejected": "The sky is blue"}, ((U, "The sky is"),), " blue today",
        " blue",
    ),
    "trl implicit, no spaces": ({"chosen": "天空是蓝色", "rejected": "天空是绿色"}, ((U, "天空是"),), "蓝色", "绿色"),
    "trl implicit conversational": (
        {"chosen": talk((U, "q?"), (A, "x")), "rejected": talk((U, "q?"), (A, "y"))}, ASK, "x", "y",
    ),
    "several turns beside the first prompt": (
        {"prompt": "Name a river.", "chosen": talk(*TURNS, (A, "1230 km.")), "rejected": talk(*TURNS, (A, "5 km."))},
        TURNS, "1230 km.", "5 km.",
    ),
    "ultrafeedback binarized": (
        {"prompt": "q?", "prompt_id": "1", "chosen": talk((U, "q?"), (A, "x")), "rejected": talk((U, "q?"), (A, "y")),
         "messages": talk((U, "q?"), (A, "x")), "score_chosen": "10", "score_rejected": "9"}, ASK, "x", "y",
    ),
    "ultrafeedback": (
        {"instruction": "q?", "completions": [
            {"response": t, "overall_score": s} for t, s in (("mid", 5), ("x", 9.5), ("y", "1"))]}, ASK, "x", "y",
    ),
    "nectar": (
        {"prompt": "\n\nHuman: q?\n\nAssistant: ",
         "answers": [{"answer": t, "rank": r} for t, r in (("mid", 2.0), ("y", "10"), ("x", 1.0))]}, ASK, "x", "y",
    ),
    "helpsteer2-preference, first": (
        {"prompt": "q?", "response_1": "x", "response_2": "y", "preference_strength": -2}, ASK, "x", "y",
    ),
    "helpsteer2-preference, second": (
        {"prompt": "q?", "response_1": "y", "response_2": "x", "preference_strength": "1"}, ASK, "x", "y",
    ),
    "helpsteer3": (
        {"context": talk(*TURNS), "response1": "y", "response2": "x", "overall_preference": 3}, TURNS, "x", "y",
    ),
    "tl;dr": (
        {"info": {"id": "t3", "post": "Long story.", "title": "A day", "subreddit": "tifu", "article": None},
         "summaries": [{"text": "y"}, {"text": "x"}], "choice": 1},
        ((U, "SUBREDDIT: r/tifu\n\nTITLE: A day\n\nPOST: Long story.\n\nTL;DR:"),), "x", "y",
    ),
    "shp": ({"history": "q?", "human_ref_A": "x", "human_ref_B": "y", "labels": 1, "score_A": 9}, ASK, "x", "y"),
    "shp, second": ({"history": "q?", "human_ref_A": "y", "human_ref_B": "x", "labels": "0"}, ASK, "x", "y"),
    "pku": ({"prompt": "q?", "response_0": "y", "response_1": "x", "better_response_id": 1}, ASK, "x", "y"),
    "arena": (
        {"conversation_a": talk((U, "q?"), (A, "y")), "conversation_b": talk((U, "q?"), (A, "x")),
         "winner": "model_b"}, ASK, "x", "y",
    ),
    "big-bench": ({"input": "q?", "target_scores": {"y": "9", "x": "10"}}, ASK, "x", "y"),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q?"}], "chosen": {"from": "gpt", "value": "x"},
         "rejected": {"from": "gpt", "value": "y"}}, ASK, "x", "y",
    ),
    "orca": ({"system": "Be brief.", "question": "q?", "chosen": "x", "rejected": "y"},
             ((S, "Be brief."), *ASK), "x", "y"),
    "the user has the last word": (
        {"prompt": "q?", "chosen": talk((A, "x"), (U, "thanks!")), "rejected": talk((A, "y"), (U, "no"))},
        ASK, "x", "y",
    ),
    "an answer that is a dialogue": (
        {"prompt": "q?", "chosen": "Human: hi\n\nAssistant: ho", "rejected": "y"}, ASK, "Human: hi\n\nAssistant: ho",
        "y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_the_forms_of_data_sets(tmp_path, name):
    row, *want = FORMS[name]
    got = load(tmp_path, row)
    assert shown(got) == [tuple(want)] and got.dropped == []


def test_codes_and_ties_of_other_forms(tmp_path):
    first = {"prompt": "q?", "response_1": "x", "response_2": "y"}
    strengths = [-1, 0, "2", float("nan"), "0"]
    got = load(tmp_path, *(first | {"preference_strength": s} for s in strengths))
    assert [p.chosen for p in got.rows] == ["x", "y"] and [line for line, _ in got.dropped] == [2, 4, 5]
    tldr = FORMS["tl;dr"][0]
    assert load(tmp_path, tldr, tldr | {"choice": 2}).dropped == [(2, "choice is 2, not 0 or 1")]
    nectar = FORMS["nectar"][0]
    tied = nectar | {"answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 1}]}
    odd = nectar | {"answers": [{"answer": "x", "rank": 1}, {"answer": "y"}]}
    assert [r for _, r in load(tmp_path, nectar, tied, odd).dropped] == [
        "all answers have the same rank",
        "answers[1] lacks rank",
    ]
    arena = FORMS["arena"][0]
    assert len(load(tmp_path, arena, arena | {"winner": "tie (bothbad)"}).dropped) == 1
