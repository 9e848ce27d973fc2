"""JSON lines beside a leaf; what is wrong with their content is in test_tree.py."""

import pytest

from lib.taxonomy import json_lines, yaml_lines


def read(tmp_path, content):
    path, file = tmp_path / "a.jsonl", yaml_lines.File("a.jsonl")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(json_lines.rows(file, path, ("name", "n"))), file.sentences()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'\xef\xbb\xbf{"name": "a", "n": 1}\r\n\r\n{"n": 2, "name": "b"}', [(1, "a"), (3, "b")]),
        ('{"name": "one\u2028two\u0085three", "n": 1}\n{"name": "b", "n": 2}\n',
            [(1, "one\u2028two\u0085three"), (2, "b")]),
        ("", []),
    ],
)  # fmt: skip
def test_rows_come_with_their_lines(tmp_path, content, found):
    rows, problems = read(tmp_path, content)
    assert [(n, row["name"]) for n, row in rows] == found and not problems
    assert all(list(row) == ["name", "n"] for _, row in rows)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"name": "a", "n": 1,}', ".: not JSON: "),
        ("{oops", ".: not JSON: "),
        ("null", ".: fields name, n are wanted, given null"),
        ('["a"]', ".: fields name, n are wanted, given a list"),
        ("3", ".: fields name, n are wanted, given a number"),
        ("{}", ".: fields name, n are wanted, given none"),
        ('{"name": "a"}', ".: fields name, n are wanted, given name"),
        ('{"name": "a", "n": 1, "name": "b"}', ".: field 'name' is given twice"),
        ("[" * 100_000, ".: not JSON: nested too deeply"),
        (b'"\xff"', ".: not UTF-8 text (byte 24)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path, line, sentence):
    rows, problems = read(
        tmp_path, b'\xef\xbb\xbf{"name":"a","n":1}\n\n' + (line if isinstance(line, bytes) else line.encode())
    )
    assert len(rows) <= 1 and len(problems) == 1 and problems[0].startswith(f"a.jsonl:3 {sentence}"), problems
    assert "line 1" not in problems[0]  # of the row, which nobody looks for
