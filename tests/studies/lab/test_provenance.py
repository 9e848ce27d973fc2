"""The generated rows as a data set: what is taught, where it comes from, and why the rest is not."""

import json
from collections import Counter

import pytest

from lib import data, synthesis, taxonomy
from lib.harness import cards, paths, results, take_home
from lib.harness.paths import DATA
from lib.studies.lab import curricula, provenance
from lib.synthesis import judges, teachers


@pytest.fixture(scope="module")
def made():
    leaves = taxonomy.load(DATA / "taxonomy")
    teacher = teachers.load("templated", leaves, seed=0)
    verdict = judges.teacher_judges(teacher)
    amounts = synthesis.Amounts(calls=1, size=1, questions=4, contexts=2, words=80, pairs=3)
    return teacher, verdict, synthesis.synthesise(leaves, teacher, verdict, amounts, seed=0, journal=None)


def a_run(keep):
    folder = paths.RUNS / "lab-smoke-s0-x"
    folder.mkdir(parents=True)
    manifest = {
        "run_id": folder.name, "paper": "lab", "preset": "smoke", "seed": 0, "commit": "abcdef1234567", "dirty": True,
        "status": "done", "settings": {"keep": keep, "teacher": "templated", "model": "tiny-random"},
        "start": "2026-11-30", "notebook": "20_lab", "overrides": [], "fingerprint": "", "device": "cpu",
        "dtype": "float32", "machine": {}, "seconds": 1.0, "peak memory GB": 0.5,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return results.RunRecord(folder)


def test_rows_are_taken_home_with_where_they_come_from(sandbox, made):
    teacher, verdict, results_of = made
    run, rows = a_run("data"), [row for result in results_of.values() for row in result.rows]
    parts = curricula.parts(rows[::2], words=8)
    provenance.keep(run, results_of, parts, system="Be right.", teacher=teacher, judges=verdict)
    told = take_home.export(run.dir.name, "data", sandbox / "home")
    dropped = [row for result in results_of.values() for row in result.dropped]
    assert f"{len(dropped)} rows of dropped, {len(rows)} rows of rows" in told and dropped
    got = [json.loads(line) for line in (sandbox / "home" / "rows.jsonl").read_text().splitlines()]
    assert [r["id"] for r in got] == [r["id"] for r in rows]
    one, row = got[0], rows[0]
    assert one["messages"][0] == {"role": "system", "content": "Be right."}
    assert one["messages"][-1] == {"role": "assistant", "content": row["answer"]}
    assert one["leaf"] == row["leaf"] and one["teacher"] == teacher.name and one["scores"] == row["scores"]
    assert one["judges"]["pair"] == verdict["pair"].name
    seeds = {s.question for leaf in taxonomy.load(DATA / "taxonomy") for s in leaf.seeds}
    assert all(x["question"] in seeds for r in got for x in r["seed_examples"]) and one["seed_examples"]
    assert Counter(bool(r["taught_in"]) for r in got)[True] == sum(map(len, parts.values()))
    lost = [json.loads(line) for line in (sandbox / "home" / "dropped.jsonl").read_text().splitlines()]
    assert len(lost) == len(dropped) and all(r["fate"] and r["reason"] for r in lost)
    card = (sandbox / "home" / "README.md").read_text()
    for words in ("data_files: rows.jsonl", "Written by `templated`: Apache-2.0", "abcdef123456", lost[0]["fate"]):
        assert words in card, words
    talks = data.read(sandbox / "home" / "rows.jsonl", "dialogues")
    assert len(talks.rows) + len(talks.dropped) == len(rows) and not talks.errors


def test_nothing_is_written_that_nobody_asked_for(sandbox, made):
    teacher, verdict, results_of = made
    run = a_run("none")
    provenance.keep(run, results_of, {}, system="", teacher=teacher, judges=verdict)
    assert [p.name for p in run.dir.iterdir()] == ["manifest.json"]
    with pytest.raises(ValueError, match="keeps nothing of arm 'data', of none: run lab again with KEEP=data"):
        take_home.export(run.dir.name, "data", sandbox / "home")


def test_a_served_teacher_has_a_licence_of_its_own(sandbox):
    run = a_run("data")
    run.manifest["settings"]["teacher"] = "http://10.0.0.1:8000/v1 some/model"
    text = cards.data(run, {"rows": ("a row", ["{}"])})
    assert f"Written by `some/model`: {cards.UNKNOWN}" in text and "10.0.0.1" not in text and "license: other" in text
