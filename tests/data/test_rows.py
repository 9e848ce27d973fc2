"""Files of rows as people bring them: read, or refused in one sentence with the file and its true line."""

import pandas as pd
import pytest

from lib.data import read_rows


def read(tmp_path, content, name="f.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(path)


@pytest.mark.parametrize(
    "content, want",
    [
        ('{"a": 1}\n\n{"a": 2}', [(1, {"a": 1}), (3, {"a": 2})]),
        ('\ufeff{"a": 1}\r\n{"a": 2}\r\n', [(1, {"a": 1}), (2, {"a": 2})]),
        ('{"a": 1}\n\ufeff{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),  # two files put together
        ('{"a": "x\u2028y\u2029z\u0085\x7f"}\n{"a": 2}', [(1, {"a": "x\u2028y\u2029z\u0085\x7f"}), (2, {"a": 2})]),
        ('[{"a": 1}, {"a": 2}]', [(1, {"a": 1}), (1, {"a": 2})]),
        ('[\n {"a": 1},\n\n {\n  "a": 2}\n]\n', [(2, {"a": 1}), (4, {"a": 2})]),
        ('{"name": "t", "n": [1],\n "examples": [\n  {"a": 1},\n  {"a": 2}], "z": 0}', [(3, {"a": 1}), (4, {"a": 2})]),
        ('{"data": [{"a": 1}]}', [(1, {"a": 1})]),
        ('{\n "a": 1\n}', [(1, {"a": 1})]),
    ],
)
def test_json_in_its_forms(tmp_path, content, want):
    assert read(tmp_path, content) == want == read(tmp_path, content, "f.json")


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": 1}\n{"a": 1},\n', "f.jsonl line 2 is no JSON: extra data"),
        ('{"a": 1}\n\n{"a": 1,}\n', "f.jsonl line 3 is no JSON: a comma stands before the end"),
        ('{"a": 1}\n{oops\n', "f.jsonl line 2 is no JSON: expecting property name"),
        ('{"a": "x\u2028y"}\n{oops\n', "f.jsonl line 2 is no JSON"),
        ('[\n{"a": 1},\n]', "f.jsonl line 3 is no JSON: a comma stands before the end"),
        ('[\n{"a": 1}\n{"a": 2}]', "f.jsonl line 3 is no JSON: expected a comma"),
        ('[\n{"a": 1}', "f.jsonl line 2 is no JSON"),
        ('[\n{"a": 1}]\n{"a": 2}', "f.jsonl line 2 is no JSON: the text goes on after the array"),
        ('{"a": 1}\nnull\n', "f.jsonl line 2 is null, a row is an object"),
        ('{"a": 1}\n["a"]\n', "f.jsonl line 2 is a list"),
        ('["a"]\n["b"]\n', "f.jsonl line 1 is a list"),
        ('{"a": 1}\n7\n', "f.jsonl line 2 is a number"),
        ('{"a": 1}\n"b"\n', "f.jsonl line 2 is a text"),
        ('[{"a": 1},\n null]', "f.jsonl line 2 is null"),
        ('{"a": 1}\n{"a": "\\ud83d"}', "f.jsonl line 2 is no JSON: an escape .* half a character"),
        (b'{"a": 1}\n{"a": "caf\xe9"}', "f.jsonl line 2 is not UTF-8: byte 0xe9"),
        ('{"a": 1}'.encode("utf-16"), "f.jsonl is UTF-16"),
        ("", "f.jsonl holds no row"),
        ("\ufeff\n \r\n", "f.jsonl holds no row"),
        ("[]", "f.jsonl holds no row"),
        ("[" * 100_000, "f.jsonl line 1 is no JSON"),
    ],
)
def test_what_is_no_row_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"^{message}") as e:
        read(tmp_path, content)
    assert "\n" not in str(e.value) and len(str(e.value)) < 200


def test_tables(tmp_path):
    content = '\ufeffa,b\r\n"x, ""y""\nz",1\r\n\r\ncaf\u00e9,\r\n'
    assert read(tmp_path, content, "f.csv") == [(2, {"a": 'x, "y"\nz', "b": "1"}), (5, {"a": "café", "b": ""})]
    assert read(tmp_path, "a\tb\nx\ty", "f.tsv") == [(2, {"a": "x", "b": "y"})]
    turns = '[{""role"": ""user"", ""content"": ""q""}]'
    assert read(tmp_path, f'a,b\n"{turns}","[1]"', "f.csv")[0][1] == {
        "a": [{"role": "user", "content": "q"}],
        "b": "[1]",
    }
    assert len(read(tmp_path, "a\n" + "x" * 200_000, "f.csv")[0][1]["a"]) == 200_000
    for bad, message in [("a,b\nx\n", "f.csv line 2 has 1 cells"), ("a,a\nx,y", "line 1 names a column twice")]:
        with pytest.raises(ValueError, match=message):
            read(tmp_path, bad, "f.csv")
    rows = [{"a": [{"role": "user"}], "b": 1.5}, {"a": None, "b": None}]
    pd.DataFrame(rows).to_parquet(tmp_path / "f.parquet")
    assert read_rows(tmp_path / "f.parquet") == [(1, rows[0]), (2, rows[1])]
    with pytest.raises(ValueError, match="f.parquet is no Parquet file"):
        read(tmp_path, "a", "f.parquet")
    with pytest.raises(FileNotFoundError, match="no file of rows at"):
        read_rows(tmp_path / "none")
