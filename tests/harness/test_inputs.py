"""Files that settings name, by content."""

import os

from lib.harness import inputs


def test_a_file_and_a_folder_by_content(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs.paths, "DATA", tmp_path)
    monkeypatch.setattr(inputs.paths, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "p.jsonl").write_text("a")
    model = tmp_path / "notebooks" / "model"
    model.mkdir(parents=True)
    (model / "w.safetensors").write_bytes(b"1")
    settings = {"prompts": "p.jsonl", "model": "model", "device": "cpu", "n": 3, "pairs": "none, p.jsonl", "x": None}
    first = inputs.digests(settings)
    assert first.keys() == {"p.jsonl", "model"} and inputs.digests(settings) == first
    (model / "w.safetensors").write_bytes(b"2")
    second = inputs.digests(settings)
    assert second["model"] != first["model"] and second["p.jsonl"] == first["p.jsonl"]
    (model / "w.safetensors").rename(model / "v.safetensors")
    (model / ".lock").write_text("")
    assert inputs.digests(settings)["model"] not in (first["model"], second["model"])
    (tmp_path / "p.jsonl").write_text("b")
    assert inputs.digests(settings)["p.jsonl"] != first["p.jsonl"]


def test_a_data_set_of_a_folder_counts_by_its_content(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("{}")
    settings = {"pairs": f"none, {tmp_path}/set:train"}
    before = inputs.digests(settings)
    assert list(before) == [f"{tmp_path}/set"]
    (tmp_path / "set" / "train.jsonl").write_text("{ }")
    assert inputs.digests(settings) != before


def test_a_large_file_by_size_time_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "WHOLE", 10)
    monkeypatch.setattr(inputs, "END", 4)
    file = tmp_path / "w"
    seen = []
    for content, time in ((b"0" * 20, 1), (b"0" * 19 + b"1", 1), (b"1" + b"0" * 19, 1), (b"0" * 20, 2), (b"0" * 21, 1)):
        file.write_bytes(content)
        os.utime(file, (time, time))
        seen.append(inputs.digest(file))
    assert len(set(seen)) == 5


def test_a_value_that_can_be_no_file_is_none():
    assert inputs.digests({"a": "x" * 5000, "b": "\0", "c": "", "d": "http://localhost:8000/v1 name", "e": "."}) == {}


def test_a_folder_whose_label_is_named_counts_by_its_content(tmp_path):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text("{}")
    name = str(tmp_path / "judge")
    before = inputs.digests({"oracle": f"{name}#toxic"})
    assert list(before) == [name]
    (tmp_path / "judge" / "config.json").write_text("{ }")
    assert inputs.digests({"oracle": f"{name}#toxic"}) != before
