import subprocess
import sys

import pytest

from lib.harness import paths


def test_root_is_this_repository_from_any_working_directory(tmp_path):
    code = "from lib.harness import paths; print(paths.ROOT, paths.RUNS, sep='|')"
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    root, runs = out.strip().split("|")
    assert root == str(paths.ROOT) and (paths.ROOT / "pyproject.toml").is_file()
    assert runs == str(paths.ROOT / "results" / "runs")


def test_folders_lie_where_the_readme_says(monkeypatch):
    monkeypatch.delenv("PLUMBLINE_RESULTS", raising=False)
    monkeypatch.delenv("PLUMBLINE_CACHE", raising=False)
    relative = {name: getattr(paths, name).relative_to(paths.ROOT).as_posix() for name in paths._MOVABLE}
    assert relative == {
        "CACHE": "data/cache",
        "RESULTS": "results",
        "RUNS": "results/runs",
        "TABLES": "results/tables",
        "FIGURES": "results/figures",
    }
    assert paths.PAPER == paths.ROOT / "results" / "paper"
    assert paths.NOTEBOOKS == paths.ROOT / "notebooks" and paths.DATA == paths.ROOT / "data"


def test_environment_moves_results_and_cache(sandbox, monkeypatch):
    assert paths.RESULTS == sandbox / "results" and paths.TABLES == sandbox / "results" / "tables"
    assert paths.CACHE == sandbox / "cache"
    monkeypatch.setenv("PLUMBLINE_RESULTS", "  ")
    assert paths.RESULTS == paths.ROOT / "results"


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="no 'RESULT'; it has ROOT"):
        _ = paths.RESULT


def test_check_writable_makes_the_folder_and_leaves_nothing(tmp_path):
    assert paths.check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_check_writable_names_the_folder_and_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="cannot write in .*file/runs .*PLUMBLINE_RESULTS") as caught:
        paths.check_writable(tmp_path / "file" / "runs")
    assert "\n" not in str(caught.value)
