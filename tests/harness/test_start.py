"""What 00_start_here answers, and the same in 80 columns."""

import os
import re
import sys

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from lib.harness import claims, health, notebooks, paths, presets, results, runner, start


def test_a_ready_machine_and_one_that_is_not(monkeypatch):
    monkeypatch.setattr(health, "lines", lambda: (["OK    a 1", "device cpu, 2 cores", "preset smoke: fits",
        "preset small: needs 6 GB", "preset paper of mrpo: fits"], False))  # fmt: skip
    said = start.ready()
    assert said.startswith("**Ready.** 1 of 1 packages; device cpu, 2 cores.") and "that fit: smoke." in said
    monkeypatch.setattr(health, "lines", lambda: (["OK    a 1", "FAIL  b is missing: pip"], True))
    assert start.ready().startswith("**Not ready**: b missing. `make` installs them. 1 of 2 packages")


class Run:
    def __init__(self, preset, start, seconds, overrides=(), paper="mrpo"):
        self.manifest = {"paper": paper, "preset": preset, "start": start, "seconds": seconds, "status": "done",
            "overrides": list(overrides), "peak memory GB": 1.0}  # fmt: skip


def test_the_cost_is_that_of_the_newest_run_of_its_kind_else_the_budget():
    old, new = "2026-11-20", results.STUDY_SINCE + "T01"
    assert start.cost("mrpo", "small", []) == (runner.BUDGET["small"], False)
    assert start.cost("mrpo", "small", [Run("small", old, 900.0)]) == (runner.BUDGET["small"], False), "a study then"
    assert start.cost("qdpo", "small", []) == (900.0, False), "its own first guess"
    assert start.cost("mrpo", "study", [Run("small", old, 900.0)]) == (900.0, True)
    assert start.cost("mrpo", "small", [Run("small", new, 200.0), Run("small", new, 220.0)]) == (220.0, True)
    assert start.cost("mrpo", "study", [Run("small", new, 200.0)]) == (runner.BUDGET["study"], False)
    assert start.cost("mrpo", "small", [Run("small", new, 9.0, ["beta"])]) == (runner.BUDGET["small"], False)


def test_costs_and_map_name_every_notebook():
    costs, what = start.costs(), start.what_to_open()
    assert all(notebooks.find(p).stem in costs for p in claims.PAPERS)
    assert re.search(r"\(\d+ seeds\)", costs) and all(f"({p.name})" in what for p in paths.NOTEBOOKS.glob("*.ipynb"))
    assert "](../results/README.md#mrpo)" in start.found() and "](../notebooks/40_mrpo.ipynb)" in start.found()


@pytest.mark.parametrize("paper", claims.PAPERS)
def test_a_terminal_of_80_columns_shows_every_setting(paper):
    text = start.settings(presets.table(presets.resolve(paper, {"PRESET": "small", "SEED": 0})))
    assert max(map(len, text.splitlines())) <= 80
    assert {line.split()[0] for line in text.splitlines() if line[0] != " "} == set(presets.settings(paper))


def test_the_list_is_80_columns_wide():
    lines = start.listing().splitlines()
    assert max(map(len, lines)) <= 80 and any("notebooks/40_mrpo.ipynb" in line for line in lines)


def test_the_end_of_a_notebook_says_where_whether_and_how(sandbox, monkeypatch):
    run = Run("small", results.STUDY_SINCE, 9.0)
    run.manifest |= {"seed": 0, "dirty": False}
    run.dir = paths.RUNS / "mrpo-small-s0"
    run.dir.mkdir(parents=True)
    table = pd.DataFrame(
        {"claim": list("abcd"), "one more seed": ["agrees", "agrees", "outside [0, 1]", "not run here"]}
    )
    monkeypatch.setattr(claims, "beside", lambda *a: table)
    said = start.ending(run)
    assert "mrpo-small-s0`" in said and "no evidence: verdicts are computed from preset study" in said
    assert "2 of 3 headline claims lie where one more seed is predicted; outside: c. 1 could not" in said
    assert "keeps no weights" in said
    (run.dir / "mrpo.safetensors").touch()
    assert "plumbline export mrpo-small-s0 --arm mrpo --to my-model" in start.ending(run)
    run.manifest["dirty"] = True
    assert "no evidence: code or data differ" in start.ending(run)
    run.manifest["preset"] = "smoke"
    assert "Preset smoke measures nothing: there is nothing to compare" in start.ending(run)


@pytest.mark.parametrize("paper", claims.PAPERS)
def test_every_paper_ends_with_it(paper):
    last = nbformat.read(notebooks.find(paper), 4).cells[-1]
    assert last.id == "ending" and "start.ending(run.record())" in last.source


@pytest.mark.slow
def test_the_notebook_runs_without_plumbline_on_the_path(monkeypatch):
    """As under `make lab`, whose PATH lacks .venv/bin."""
    there = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != os.path.dirname(sys.executable))
    monkeypatch.setenv("PATH", there)
    path = paths.NOTEBOOKS / "00_start_here.ipynb"
    book = NotebookClient(
        nbformat.read(path, 4), timeout=120, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    said = {c.id: "".join(o.get("text", "") + o.get("data", {}).get("text/markdown", "") for o in c.outputs)
        for c in book.cells if c.cell_type == "code"}  # fmt: skip
    assert "eady" in said["ready"] and "40_mrpo" in said["cost"] and "95_speed" in said["open"]
    assert "preset smoke: " in said["doctor"] and "not found" not in said["doctor"]
    assert "evidence" in said["found"]
