"""Nodes of a YAML file and the sentences about them; what a whole tree says is in test_taxonomy.py."""

import pytest

from lib.taxonomy import yaml_lines


def read(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    file = yaml_lines.File("a.yaml")
    return file, yaml_lines.compose(file, path)


def test_values_come_with_their_lines(tmp_path):
    file, top = read(tmp_path, "name: a b\nitems:\n  - x\n  - 3\n")
    fields = file.fields(top, "", ("name", "items"), ("name", "items"))
    assert file.text(fields["name"], "name") == "a b" and yaml_lines.line_of(fields["items"]) == 3
    items = file.items(fields["items"], "items", 2, "words")
    assert [file.text(i, "items") for i in items] == ["x", ""]
    assert file.sentences() == ["a.yaml:4 items: text is wanted, given a number (3); put it in quotes"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2\n", "a.yaml:2 a: given twice, first in line 1"), ("nmae: x\n", "a.yaml:1 nmae: unknown field, "
            "did you mean name; allowed are name, a"),
        ("name: x\n\ty: 1\n", "a.yaml:2 y: a tab in the indentation; YAML is indented by "
            "spaces"), ("", "a.yaml:1 .: the file is empty"),
        (b"name: \xff\n", "a.yaml:1 .: not UTF-8 text (byte 6)"), ("- x\n", "a.yaml:1 .: fields name, a are wanted, "
            "given a list"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_line_and_field(tmp_path, text, sentence):
    file, top = read(tmp_path, text)
    if top is not None:
        file.fields(top, "", ("name", "a"), ())
    assert file.sentences() == [sentence]
