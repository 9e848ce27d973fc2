"""Runs on disk that were cut, changed or half written: read, or named in one sentence and not counted."""

import gzip
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.harness import claims, comparison, presets, results, rows, runs, start, take_home
from tests.fuzzing import inputs, sentence

FILES = ("manifest.json", *(kind.file for kind in rows.KINDS.values()), "samples.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two finished runs."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_RESULTS", str(folder))
        patch.setattr(results, "git_state", lambda: ("abc1234567", False))
        for seed in (0, 1):
            cfg = presets.resolve("mrpo", {"PRESET": "study", "SEED": seed})
            run = runs.start(cfg, notebook="40_mrpo")
            for k, (dataset, arm) in enumerate(presets.needed("mrpo", cfg)):
                run.items(dataset, arm, "accuracy", ["p1", "p2", "p3"], [0.1 * k, 0.5, seed])
            run.metric("table", "d", "a", "m", 0.5, 0.4, 0.6, 10)
            run.curve("a", [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}])
            run.samples([{"arm": "a", "text": "x"}])
            run.finish()
    return folder


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}))


@st.composite
def harm(draw):
    """(file, how, what): what happens to one file of a run."""
    file = draw(st.sampled_from([*FILES, "manifest.json"]))
    how = draw(st.sampled_from(["cut", "cut", "flip", "leave out", "put in", "empty", "gone", "field", "text"]))
    return file, how, draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=4)), draw(plain)


def harmed(path, how, where, some, value):
    raw = path.read_bytes()
    packed = path.suffix == ".gz" and how not in ("cut", "flip", "gone", "empty")  # the text inside is changed
    raw = gzip.decompress(raw) if packed else raw
    at = round(where * len(raw))
    if how == "field" and path.name == "manifest.json":
        found = json.loads(raw)
        name = sorted(found)[round(where * (len(found) - 1))]
        found = {k: v for k, v in found.items() if k != name} | ({} if value is None else {name: value})
        raw = json.dumps(found).encode()
    elif how == "gone":
        path.unlink()
        return
    else:
        raw = {
            "cut": raw[:at], "flip": raw[:at] + bytes(x ^ 1 << some[0] % 8 for x in raw[at : at + 1]) + raw[at + 1 :],
            "leave out": raw[:at] + raw[at + len(some) :], "put in": raw[:at] + some + raw[at:], "empty": b"",
            "text": some, "field": raw.replace(b",", str(value).encode(), 1),
        }[how]  # fmt: skip
    path.write_bytes(gzip.compress(raw, mtime=0) if packed else raw)


@inputs(0.15, few=12)
@given(harm())
@example(("items.csv.gz", "cut", 0.5, b"\0", None))  # once an error out of zlib, and before it fewer rows in silence
@example(("metrics.csv", "cut", 0.99, b"\0", None))
@example(("manifest.json", "field", 0.9, b"\0", 3))
def test_a_damaged_run_is_named_and_not_counted(made, harm):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        shutil.copytree(made / "runs", Path(folder, "runs"))
        patch.setenv("PLUMBLINE_RESULTS", folder)
        broken, whole = sorted(Path(folder, "runs").iterdir())
        before = {p.name: p.read_bytes() for p in broken.iterdir()}
        harmed(broken / harm[0], *harm[1:])
        same = harm[0] in ("samples.jsonl",) or before == {p.name: p.read_bytes() for p in broken.iterdir()}

        there = results.load_runs()  # whatever lies there, others are read
        assert whole.name in [r.dir.name for r in there]
        cited = [r.dir.name for r in results.cited(there)]
        assert whole.name in cited
        results.evidence(there)
        start.listing()
        if not same and harm[0] != "manifest.json":
            assert broken.name not in cited, "what was changed after its end is no evidence"
        try:
            one = take_home.find(broken.name)
            tables = [one.metrics(), one.items(), one.curve()]
            assert [list(t.columns) for t in tables] == [k.columns for k in rows.KINDS.values()]
            comparison.compare(one, results.RunRecord(whole)).text(whole=True)
            claims.power("mrpo", there)
        except (ValueError, KeyError, TypeError, OSError) as error:
            assert sentence(error)
