"""A run of two processes: the numbers of one, and every way in which the second can be lost."""

import json
import time

import nbformat
import pandas as pd
import pytest
from safetensors.torch import load_file

from lib.harness import paths, presets, ranks, results, runner

CELLS = {
    "setup": "from lib.harness import presets, results\n"
    'cfg = presets.resolve("qdpo", globals())\nrun = results.start(cfg, notebook="10_qdpo")\n'
    'run.metric("a", "b", "c", "d", cfg.beta)',
    "join": "import os, time, torch\nfrom lib.engine import sharding\nsharding.join()\nrank, size = sharding.ranks()\n"
    "assert sharding.summed(torch.ones(1)).item() == size",
    "work": "",
    "record": 'for dataset, arm in presets.needed("qdpo", cfg):\n'
    '    run.items(dataset, arm, "something", ["-"], [0.5])\nrun.finish()',
}


@pytest.fixture
def world(sandbox, monkeypatch):
    """A notebooks folder whose only paper joins its processes and then does what the given cell says."""
    folder = sandbox / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS", folder)
    monkeypatch.setattr(results, "git_state", lambda: ("abc1234567", False))
    monkeypatch.setattr(ranks, "check", lambda cfg, processes: None)

    def run(cell):
        first = nbformat.v4.new_code_cell('PRESET = "smoke"  # p\nSEED = 0  # s\nBETA = None  # b', id="parameters",
            metadata={"tags": ["parameters"]})  # fmt: skip
        rest = [nbformat.v4.new_code_cell(text or cell, id=name) for name, text in CELLS.items()]
        nb = nbformat.v4.new_notebook(cells=[first, *rest])
        nb.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nb, folder / "10_qdpo.ipynb")
        done = runner.run("qdpo", preset="smoke", seed=0, overrides={"beta": 0.3}, processes=2)
        return done, json.loads((done.dir / "manifest.json").read_text())

    return run


def test_both_join_and_one_records(world, sandbox):
    done, manifest = world('open(f"/proc/self/cwd/rank{rank}", "w").write(f"{run.dir} {cfg.beta} {size}")')
    assert done.code == 0 and manifest["status"] == "done" and manifest["processes"] == 2
    said = [(paths.NOTEBOOKS / f"rank{k}").read_text().split() for k in (0, 1)]
    assert [s[1:] for s in said] == [["0.3", "2"]] * 2 and said[0][0] == str(done.dir) != said[1][0]
    assert [r.dir for r in results.load_runs()] == [done.dir]  # the other's folder lies elsewhere, and is gone


@pytest.mark.parametrize(("cell", "words"), [
    ("if rank:\n    os.kill(os.getpid(), 9)\nsharding.summed(torch.ones(1))",
        r"^process 2 of 2 was ended by signal 9 \(SIGKILL\), most often for lack of memory$"),
    ("if rank:\n    raise ValueError('no such thing')\nsharding.summed(torch.ones(1))",
        "^process 2 of 2 failed: ValueError: no such thing$"),
    ("if rank:\n    raise ValueError('no such thing')\ntime.sleep(100)",  # the kernel does not notice by itself
        "^process 2 of 2 failed: ValueError: no such thing$"),
    ("if not rank:\n    raise KeyError('mine')\nsharding.summed(torch.ones(1))", "^KeyError: 'mine'$"),
])  # fmt: skip
def test_a_process_that_is_lost_ends_the_run_with_one_sentence(world, monkeypatch, cell, words):
    import re

    monkeypatch.setattr(ranks, "GRACE", 2.0)
    began = time.monotonic()
    done, manifest = world(cell)
    assert done.code != 0 and manifest["status"] == "failed" and re.search(words, manifest["reason"]), manifest
    assert manifest["failed cell"] == "work" and time.monotonic() - began < 60
    assert results.RunRecord(done.dir).metrics().value.tolist() == [0.3]  # what was recorded before stays


@pytest.mark.parametrize(("paper", "processes", "given", "words"), [
    ("qdpo", 0, {}, "at least one process, given 0"),
    ("lab", 2, {}, "^several processes work for qdpo; lab runs in one, given 2$"),
    ("qdpo", 3, {}, "^qdpo: a batch of 4 does not divide among 3 processes$"),
    ("qdpo", 3, {"BATCH": 6}, r"^qdpo: ValueError: 3 processes do not divide the rows of .*q_proj \(64 rows\)"),
    ("qdpo", 2, {"DEVICE": "cuda:1"}, "with a GPU each; given DEVICE=cuda:1$"),
    ("qdpo", 64, {"DEVICE": "cuda", "BATCH": 64}, "^64 processes need a GPU each, and there are "),
])  # fmt: skip
def test_what_cannot_be_divided_is_refused_before_anything_loads(paper, processes, given, words):
    with pytest.raises(ValueError, match=words):
        ranks.check(presets.resolve(paper, {"PRESET": "smoke", "SEED": 0, **given}), processes)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(sandbox):
    """QDPO's smoke run in float32, its model divided: latent weights, adapters, and an arm to take home."""
    given = {"arms": "fp,rtn,kd,qdpo,qdpo-lora", "keep": "qdpo", "host": True, "checkpoint": True}
    one, two = (
        runner.run("qdpo", preset="smoke", seed=0, overrides=given, processes=n, force=True).dir for n in (1, 2)
    )
    a, b = results.RunRecord(one), results.RunRecord(two)
    assert b.manifest["status"] == "done" and (a.manifest["processes"], b.manifest["processes"]) == (1, 2)
    for table in ("metrics", "items", "curve"):
        x, y = (getattr(r, table)().drop(columns="run_id", errors="ignore") for r in (a, b))
        pd.testing.assert_frame_equal(x, y, rtol=1e-4, atol=1e-5)
        assert len(x) > 50
    x, y = (load_file(folder / "qdpo.safetensors") for folder in (one, two))
    assert x.keys() == y.keys()
    same = [(x[k] == y[k]).float().mean().item() for k in x]
    assert min(same) > 0.99  # a code at the edge of rounding may fall to the other side
