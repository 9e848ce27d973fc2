"""What counts as a difference from the last commit."""

import subprocess

import nbformat
import pytest

from lib.harness import commit


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A git checkout of its own with one module and one notebook, in a folder of a larger repository."""
    root = tmp_path / "inner"
    (root / "lib").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "lib" / "x.py").write_text("a = 1\n")
    write(root, "run()")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(commit.paths, "ROOT", root)
    return root


def write(root, source, parameters="SEED = 0  # s", extra=(), text="words", **cell):
    code = nbformat.v4.new_code_cell(source, id="work", **cell)
    cells = [
        nbformat.v4.new_markdown_cell(text, id="text"),
        nbformat.v4.new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]}),
        *extra,
        code,
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "10_x.ipynb")


def test_the_commit_alone(tree):
    at, dirty = commit.git_state()
    assert len(at) == 40 and not dirty and commit.changed() == []


def test_executing_a_notebook_and_giving_parameters_is_no_difference(tree):
    write(tree, "run()", outputs=[nbformat.v4.new_output("stream", text="done")], execution_count=7,
        metadata={"execution": {"iopub": "now"}})  # fmt: skip
    assert commit.changed() == []
    injected = nbformat.v4.new_code_cell("# Parameters\nSEED = 3", metadata={"tags": ["injected-parameters"]})
    write(tree, "run()", "SEED = 5  # s", [injected])
    assert commit.git_state()[1] is False


def test_other_code_is_a_difference(tree):
    write(tree, "run(); cheat()")
    assert commit.changed() == ["notebooks/10_x.ipynb"]
    (tree / "lib" / "x.py").write_text("a = 2\n")
    (tree / "lib" / "new é.py").write_text("")
    assert commit.changed() == ["lib/new é.py", "lib/x.py", "notebooks/10_x.ipynb"] and commit.git_state()[1]
    (tree / "results").mkdir()
    (tree / "results" / "more").write_text("")
    assert len(commit.changed()) == 3


def test_another_cell_and_a_broken_or_missing_file_are_differences(tree):
    write(tree, "run()", extra=[nbformat.v4.new_code_cell("cheat()", id="more")])
    assert commit.changed() == ["notebooks/10_x.ipynb"]
    for text in ("", "{}", "[]", "not json"):
        (tree / "notebooks" / "10_x.ipynb").write_text(text)
        assert commit.changed() == ["notebooks/10_x.ipynb"]
    (tree / "notebooks" / "10_x.ipynb").unlink()
    assert commit.changed() == ["notebooks/10_x.ipynb"]


def test_no_git_is_unknown_and_dirty(monkeypatch, tmp_path):
    monkeypatch.setattr(commit.paths, "ROOT", tmp_path)
    assert commit.git_state() == ("unknown", True)


def test_what_the_last_commit_holds_of_a_folder(tree):
    (tree / "lib" / "new.py").write_text("")
    (tree / "lib" / "x.py").write_text("a = 3\n")
    (tree / "more").mkdir()
    assert commit.holds(tree) == {"lib", "notebooks"} and commit.holds(tree / "lib") == {"x.py"}
    assert commit.holds(tree / "more") == commit.holds(tree / "nowhere") == set()


def test_outside_of_git_nothing_is_held(tmp_path):
    assert commit.holds(tmp_path) == set()
