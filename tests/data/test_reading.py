"""One reader for prompts, pairs, rows and dialogues: known data sets, other columns, and what is wrong with a row."""

import gzip
import json

import pandas as pd
import pytest

from lib import data
from lib.data import reading
from tests.data.known_sets import SETS, shown

CASES = [(name, kind) for name, (_, want) in SETS.items() for kind in want]


def written(path, rows):
    text = "\n".join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name, kind", CASES)
def test_known_data_sets_are_read_by_their_own_columns(tmp_path, name, kind):
    rows, want = SETS[name]
    got = data.read(written(tmp_path / "f.jsonl", rows), kind)
    assert shown(kind, got.rows) == want[kind] and got.errors == 0


@pytest.mark.parametrize("name, kind", CASES)
def test_they_are_the_same_as_parquet(tmp_path, name, kind):
    rows, want = SETS[name]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    assert shown(kind, data.read(tmp_path / "train.parquet", kind).rows) == want[kind]


def test_columns_are_named_by_a_map(tmp_path):
    rows = [{"question": "q?", "best": "x", "worst": "y", "prompt": "no", "completions": [], "system": "Be brief."}]
    path = written(tmp_path / "f.jsonl", rows)
    (pair,) = data.read(path, "pairs", columns="prompt=question, chosen=best,rejected=worst").rows
    assert [t["content"] for t in pair.prompt] == ["Be brief.", "q?"] and (pair.chosen, pair.rejected) == ("x", "y")
    deep = written(tmp_path / "d.jsonl", [{"data": {"question": "q?"}, "a.b": "z"}])
    assert [p.text for p in data.read(deep, "prompts", columns="prompt=data.question").rows] == ["q?"]
    assert [p.text for p in data.read(deep, "prompts", columns="prompt=a.b").rows] == ["z"]


@pytest.mark.parametrize(
    "columns, message",
    [
        ("prompt", "columns are written prompt=question,chosen=best"),
        ("prompt=", "columns are written"),
        ("promt=question", "pairs are read from the fields .*; columns name 'promt', did you mean 'prompt'"),
        ("prompt=a,prompt=b", "columns name prompt twice"),
        ("prompt=questoin", "f.jsonl has no column 'questoin', which prompt is to be read from; it has question"),
        ("prompt=question.text", "f.jsonl has no column 'question.text'"),
    ],
)
def test_a_column_that_is_none_is_told_in_one_sentence(tmp_path, columns, message):
    path = written(tmp_path / "f.jsonl", [{"question": "q?"}])
    with pytest.raises(ValueError, match=message) as e:
        data.read(path, "pairs", columns=columns)
    assert "\n" not in str(e.value)


GOOD = [{"prompt": f"q{i}?"} for i in range(20)]


def test_bad_rows_are_dropped_counted_and_listed_by_file_and_line(tmp_path):
    bad = ['{"prompt": "x",}', "null", '{"prompt": NaN}', {"prompt": None}]
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "b.jsonl", [*GOOD[:10], *bad[:2]])
    written(tmp_path / "folder" / "a.jsonl", [*bad[2:], *GOOD[10:]])
    (tmp_path / "folder" / "notes.md").write_text("no data")
    (tmp_path / "folder" / ".hidden.jsonl").write_text("no data")
    got = data.read("folder", "prompts", folder=tmp_path, limit=0.2)
    assert [p.text for p in got.rows] == [r["prompt"] for r in (*GOOD[10:], *GOOD[:10])] and got.errors == 4
    assert got.listing() == [
        "folder a.jsonl line 1: prompt is nan, neither a text nor messages",
        "folder a.jsonl line 2: has neither a 'prompt' text nor 'turns'; it has prompt",
        "folder b.jsonl line 11: is no JSON: a comma stands before the end",
        "folder b.jsonl line 12: is null, a prompt is an object with named fields",
    ]
    assert got.summary().startswith("folder: 20 prompts, 4 rows dropped: 1 x prompt is nan")
    record = got.record()
    assert (record["rows"], record["dropped"], record["why"]) == (20, 4, got.listing()) and len(record["sha256"]) == 64
    with pytest.raises(ValueError, match=r"^folder: 4 of 24 rows cannot be used, more than 10% \(a.jsonl line 1 prom"):
        data.read("folder", "prompts", folder=tmp_path)


def test_a_mark_line_ends_other_scripts_and_long_rows(tmp_path):
    texts = ["Как дела?", "你好吗？", "كيف حالك؟", "Ça\u2028va?"]
    content = "\ufeff" + "\r\n".join(json.dumps({"prompt": t}, ensure_ascii=False) for t in texts) + "\r\n"
    (tmp_path / "f.jsonl").write_bytes(content.encode())
    assert [p.text for p in data.read(tmp_path / "f.jsonl", "prompts").rows] == texts
    (tmp_path / "f.csv").write_bytes(("\ufeffprompt\r\n" + "\r\n".join(texts[:3]) + "\r\n").encode())
    assert [p.text for p in data.read(tmp_path / "f.csv", "prompts").rows] == texts[:3]
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    assert [p.text for p in data.read(tmp_path / "f.jsonl.gz", "prompts").rows] == texts
    long = written(tmp_path / "long.jsonl", [{"prompt": "a" * 200_001}, {"prompt": "a" * 200_000}])
    got = data.read(long, "prompts")
    assert len(got.rows) == 1 and got.errors == 0
    assert got.dropped == [(1, "has 200001 characters, more than 200000")]


def test_what_is_said_twice_is_read_once(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}, {"prompt": "c", "id": "z"}, {"prompt": "d", "id": "z"}]
    got = data.read(written(tmp_path / "f.jsonl", rows), "prompts")
    assert [p.text for p in got.rows] == ["a", "b", "c"] and got.errors == 1
    assert got.dropped == [
        (3, "says what line 1 says"),
        (5, "has the id 'z' of line 4, results are paired by id"),
    ]
    pair = {"prompt": "q?", "chosen": "x", "rejected": "y"}
    got = data.read(written(tmp_path / "p.jsonl", [pair] * 3 + [pair | {"chosen": "z"}]), "pairs")
    assert len(got.rows) == 2 and got.dropped == [(2, "says what line 1 says"), (3, "says what line 1 says")]


def test_nan_and_null_in_every_form_of_file(tmp_path):
    rows = [
        '{"prompt": "a", "completion": "x", "label": NaN}',
        '{"prompt": "a", "completion": "x", "label": null}',
        *({"prompt": f"{i}", "completion": "x", "label": True} for i in range(20)),
    ]
    got = data.read(written(tmp_path / "f.jsonl", rows), "rows")
    assert got.dropped == [(1, "label is nan, not a number"), (2, "lacks label")] and len(got.rows) == 20
    frame = pd.DataFrame({"prompt": ["a", None, "c"], "completion": ["x", "y", "z"], "score": [1.0, float("nan"), 2]})
    frame.to_parquet(tmp_path / "f.parquet")
    got = data.read(tmp_path / "f.parquet", "rows")
    assert got.dropped == [(2, "lacks prompt")] and got.summary().endswith("1 x lacks prompt (row 2)")


def test_the_defaults_read_what_they_did():
    from lib.harness import paths

    path = paths.DATA / "prompts.jsonl"
    got = data.read("prompts.jsonl", "prompts", folder=paths.DATA)
    assert got.rows == data.load_prompts(path) and not got.dropped
    assert got.of("test") == data.load_prompts(path, "test")
    from lib.harness import results

    assert [got.record()] == results.data_files("prompts.jsonl")


@pytest.mark.parametrize(
    "kind, how, message",
    [
        ("prompt", {}, "what is read is one of prompts, pairs, rows, dialogues; given 'prompt'"),
        ("prompts", {"limit": 2}, "the largest share of bad rows lies in 0 .. 1, given 2"),
        ("pairs", {}, "f.jsonl has the fields prompt; preferences need those of one form"),
        ("rows", {}, "f.jsonl has the fields prompt; rows need those of one form"),
        ("dialogues", {}, "f.jsonl: 2 of 2 rows cannot be used, .*has no conversation"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path, kind, how, message):
    path = written(tmp_path / "f.jsonl", GOOD[:2])
    with pytest.raises(ValueError, match=message) as e:
        data.read(path, kind, **how)
    assert "\n" not in str(e.value)


def test_every_field_of_a_form_may_be_named():
    assert {"chosen", "history", "score_chosen"} <= set(reading.KINDS["pairs"].fields)
    assert {"text", "label", "completion"} <= set(reading.KINDS["rows"].fields)
