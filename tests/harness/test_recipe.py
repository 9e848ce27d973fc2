"""A paper made by `plumbline new`, in a copy of the repository: it passes what all papers have to pass, and runs."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from lib.harness import paths, recipe


def tracked():
    """What git tracks or would track, from the root; without git all but tools' folders and the cache."""
    asked = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=paths.ROOT, capture_output=True,
        text=True)  # fmt: skip
    if asked.returncode == 0:
        return [name for name in asked.stdout.split("\0") if (paths.ROOT / name).is_file()]
    left_out = {".venv", ".git", "cache", "__pycache__", "build"}
    found = (p.relative_to(paths.ROOT) for p in paths.ROOT.rglob("*") if p.is_file())
    return [str(p) for p in found if not left_out & set(p.parts)]


@pytest.fixture
def copy(tmp_path):
    """The repository in another folder, with the runs of seed 0 alone: they are read sooner than all."""
    root = tmp_path / "plumbline"
    for name in tracked():
        if not name.startswith("results/runs/") or "-s0-" in name:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(paths.ROOT / name, root / name)
    (root / "data" / "cache").mkdir()
    return root


def call(root, *command):
    """What python prints there."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PLUMBLINE_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=root, env=env, capture_output=True, text=True)
    assert not done.returncode, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


PLUMBLINE = ("-m", "lib.harness.cli")
OF_ALL_PAPERS = (  # tests that ask something of every paper, module or page; `sixth` stands in the names of its own
    "sixth or tests_lie or equation or on_the_map or stay_readable or nine_arguments or paths_that or machine_paths or "
    "in_form or well_formed or resolves_at or headline_has or page_names"
)


@pytest.mark.slow
def test_a_new_paper_passes_the_checks_and_runs_at_once(copy):
    said = call(copy, *PLUMBLINE, "new", "sixth", "--title", "Sixth: made by a test", "--arxiv", "2401.00001")
    assert "notebooks/60_sixth.ipynb" in said and all((copy / line).is_file() for line in said.split("\n\n")[0].split())
    call(copy, "-m", "ruff", "check", ".")
    call(copy, "-m", "ruff", "format", "--check", ".")
    harness = [f"tests/harness/test_{x}.py" for x in ("presets", "claims", "notebooks", "front")]
    tests = ["tests/test_repo.py", "tests/studies/test_footprints.py", "tests/studies/sixth", *harness]
    call(copy, "-m", "pytest", "-p", "no:xdist", "-m", "not slow", "-k", OF_ALL_PAPERS, *tests)
    assert "sixth smoke seed 0: done" in call(copy, *PLUMBLINE, "run", "sixth", "--preset", "smoke")
    (folder,) = (copy / "results/runs").glob("sixth-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "done" and "failed stage" not in manifest
    card = "from lib.harness import claims, results; c = claims.card('sixth', results.load_runs('sixth'))"
    told = call(copy, "-c", f"{card}; print(*c.claim, *c.verdict, (c.n > 5).all())")
    assert told.split() == ["C1", "C1a", "P1", "N1", *["smoke"] * 4, "True"]


@pytest.mark.parametrize("key, words", [
    ("qdpo", "something called 'qdpo' already: lib/harness/presets/qdpo.py"),
    ("verdicts", "already: lib/harness/claims/verdicts.py"), ("results", "already: notebooks/90_results.ipynb"),
    ("footprints", "already: lib/studies/footprints.py"), ("all", "nor all; given 'all'"),
    ("Sapo", "small letters.*; given 'Sapo'"), ("sa-po", "given 'sa-po'"), ("../x", "given '../x'"), ("", "given ''"),
    ("class", "no word of Python's.*given 'class'"), ("a" * 21, "2 to 20 small letters"),
])  # fmt: skip
def test_a_key_that_cannot_be_is_refused_in_one_sentence(key, words):
    with pytest.raises(ValueError, match=words) as error:
        recipe.write(key)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("more, words", [
    ({"title": 'a "b"'}, "a title is one line.*without quotes"), ({"title": "a" * 81}, "at most 80 characters"),
    ({"title": "a\nb"}, "one line"), ({"arxiv": "24.1"}, "an arXiv number is written 2411.01493, given '24.1'"),
])  # fmt: skip
def test_a_title_or_number_that_cannot_be_is_refused(more, words):
    with pytest.raises(ValueError, match=words):
        recipe.write("sixth", **more)
    assert not list(paths.NOTEBOOKS.glob("*_sixth.ipynb"))


@pytest.mark.parametrize("key", ["aa", "a" * recipe.LONGEST])
def test_the_texts_are_in_form_with_the_shortest_and_the_longest_key(tmp_path, key):
    words = {"KEY": key, "NN": "60", "TITLE": "T" * 80, "LINK": ""}
    assert {p.stem for p in recipe.TEXTS.glob("*.txt")} == {*recipe.FILES, "notebook"}
    for name, place in recipe.FILES.items():
        path = tmp_path / place.format(key=key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recipe._filled(name, words))
        assert "@KEY" not in path.read_text() and "@TITLE" not in path.read_text()
    shutil.copy(paths.ROOT / "pyproject.toml", tmp_path)
    call(tmp_path, "-m", "ruff", "check", ".", "--config", 'lint.isort.known-first-party = ["lib"]')
    call(tmp_path, "-m", "ruff", "format", "--check", ".")


def test_numbers_are_whole_tens_first_and_rows_are_in_their_order(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    for n in (10, 20, 30, 90):
        (tmp_path / f"{n}_x.ipynb").touch()
    assert recipe._number("y") == "40"
    for n in (*range(40, 90, 10), 11):
        (tmp_path / f"{n}_x.ipynb").touch()
    assert recipe._number("y") == "12"
    page = "# N\n\n| notebook |\n|---|\n| [10_x](10_x.ipynb) | X |\n| [90_x](90_x.ipynb) | |\n\nMore.\n"
    row = dict(KEY="y", TITLE="Y", LINK=" ([arXiv 2401.00001](https://arxiv.org/abs/2401.00001))")
    lines = recipe._on_the_map(page, row | {"NN": "12"}).splitlines()
    assert lines[5].startswith("| [12_y](12_y.ipynb) | Y, [2401.00001](https://arxiv.org/abs/2401.00001) | two losses")
    lines = recipe._on_the_map(page, row | {"NN": "95", "LINK": ""}).splitlines()
    assert lines[6].startswith("| [95_y](95_y.ipynb) | Y | two losses") and lines[7] == ""


def test_a_text_becomes_cells():
    cells = recipe._notebook("### markdown title\n# A\n\n## B\n### code one keep\nx = 1\n\ny = 2\n").cells
    assert [(c.id, c.cell_type, c.metadata.get("tags", [])) for c in cells] == [
        ("title", "markdown", []), ("one", "code", ["keep"])]  # fmt: skip
    assert [c.source for c in cells] == ["# A\n\n## B", "x = 1\n\ny = 2"]
