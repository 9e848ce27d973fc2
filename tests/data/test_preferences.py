"""Preference pairs out of files and data sets."""

import json

import pytest

from lib import data


def test_pairs_of_a_file(tmp_path):
    lines, task = tmp_path / "pairs.jsonl", tmp_path / "task.json"
    lines.write_text('{"prompt": "a?", "chosen": "x", "rejected": "y"}\n\n')
    task.write_text('{"name": "hhh", "examples": [{"input": "b?", "target_scores": {"bad": 0, "good": 1}}]}')
    assert data.load_pairs(lines) == [("a?", "x", "y")] and data.load_pairs(task) == [("b?", "good", "bad")]
    with pytest.raises(FileNotFoundError, match="no file of preference pairs at"):
        data.load_pairs(tmp_path / "none.jsonl")
    for bad in ('{"prompt": "a?", "chosen": "x", "rejected": "x"}', '{"prompt": "a?", "chosen": "x"}'):
        lines.write_text(bad)
        with pytest.raises(ValueError, match="row 1 needs a prompt and two different answers"):
            data.load_pairs(lines)
    task.write_text('{"examples": [{"input": "b?", "target_scores": {"bad": 1, "good": 1}}]}')
    with pytest.raises(ValueError, match="row 1 needs"):
        data.load_pairs(task)


def test_pairs_of_messages_and_of_data_sets(tmp_path):
    talk = lambda *texts: [{"role": "user", "content": "a?"}, *({"role": "assistant", "content": t} for t in texts)]  # noqa: E731
    lines, scored = tmp_path / "a.jsonl", tmp_path / "set" / "train.jsonl"
    lines.write_text(json.dumps({"prompt": "a?", "chosen": talk("x"), "rejected": talk("y")}))
    assert data.load_pairs(lines) == [("a?", "x", "y")]
    scored.parent.mkdir()
    rows = [("a?", "good", 4), ("a?", "bad", 1), ("a?", "fair", 2), ("b?", "x", 3), ("b?", "y", 3), ("c?", "alone", 4)]
    scored.write_text("\n".join(json.dumps(dict(prompt=p, response=r, helpfulness=h)) for p, r, h in rows))
    assert data.load_pairs(f"{scored.parent}:train") == [("a?", "good", "bad")]
    assert data.load_sets(["none", f"{scored.parent}:train", "a.jsonl"], tmp_path) == {
        f"{scored.parent}:train": [("a?", "good", "bad")],
        "a.jsonl": [("a?", "x", "y")],
    }
