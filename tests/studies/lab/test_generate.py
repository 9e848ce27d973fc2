"""Rows out of a taxonomy: exactly as many as wanted, from all leaves, or a clear account of why not."""

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from lib import taxonomy
from lib.harness import cli, paths
from lib.studies.lab import generate
from lib.synthesis import judges, teachers
from lib.synthesis.pipelines import Amounts

AMOUNTS = Amounts(calls=1, size=1, questions=4, contexts=2, words=80, pairs=3)


@pytest.fixture(scope="module")
def leaves():
    return taxonomy.load(paths.DATA / "taxonomy")


def collected(leaves, rows, journal=None, teacher=None, **more):
    teacher = teacher or teachers.Templated(leaves, seed=0)
    told = judges.teacher_judges(teacher)
    return generate.collect(leaves, teacher, told, AMOUNTS, rows=rows, seed=0, journal=journal, system="Be.", **more)


def test_exactly_so_many_rows_from_all_leaves_and_no_two_alike(leaves):
    got = collected(leaves, 100)
    assert len(got.rows) == 100 and not got.short and got.passes > 1
    assert len({r["id"] for r in got.rows}) == 100
    counts = Counter(r["leaf"] for r in got.rows)
    assert set(counts) == {leaf.path for leaf in leaves} and max(counts.values()) <= 2 * 100 / len(leaves)
    asked = Counter(r["messages"][1]["content"] for r in got.rows)
    assert max(asked.values()) == 1
    first = got.rows[0]
    assert [m["role"] for m in first["messages"]] == ["system", "user", "assistant"] and first["seed_examples"]
    assert first["teacher"] and first["judges"] and set(first["scores"]) and first["task"]
    table = generate.report(leaves, got)
    assert sum(line["rows"] for line in table) == 100
    assert sum(line["rejected"] + line["duplicate"] + line["failed"] for line in table) == len(got.dropped) > 0


class Flaky:
    """Says nothing every second time, and breaks down at one question."""

    def __init__(self, leaves, breaks=None):
        self.inner, self.calls, self.breaks = teachers.Templated(leaves, seed=0), 0, breaks
        self.name = self.inner.name

    def __call__(self, requests):
        for reply in self.inner(requests):
            self.calls += 1
            if self.breaks is not None and self.calls >= self.breaks:
                raise ConnectionError("the teacher has died")
            yield None if self.calls % 2 else reply


def test_a_teacher_that_fails_half_of_the_time_still_gives_all(leaves):
    got = collected(leaves, 30, teacher=Flaky(leaves))
    assert len(got.rows) == 30 and not got.short
    assert any(r["fate"] == "failed" for r in got.dropped)


def test_one_that_died_is_asked_for_the_rest_alone(leaves, tmp_path):
    whole = Flaky(leaves)
    want = collected(leaves, 30, teacher=whole)
    with pytest.raises(RuntimeError, match="has died"):
        collected(leaves, 30, journal=tmp_path, teacher=Flaky(leaves, breaks=whole.calls // 2))
    again = teachers.Templated(leaves, seed=0)
    got = collected(leaves, 30, journal=tmp_path, teacher=again)
    assert len(got.rows) == 30 == len(want.rows) and list(tmp_path.iterdir())


def test_a_teacher_with_nothing_to_say_is_told_so(leaves):
    class Silent(Flaky):
        def __call__(self, requests):
            return [None for _ in requests]

    got = collected(leaves, 5, teacher=Silent(leaves))
    assert not got.rows and got.passes == generate.DRY
    assert got.short.startswith("0 of 5 rows were accepted: the last 3 passes gave no new row")
    with pytest.raises(ValueError, match="at least one row is wanted, given 0"):
        collected(leaves, 0)


def test_the_command(sandbox, tmp_path):
    call = lambda *words: CliRunner().invoke(cli.app, ["generate", *map(str, words)])  # noqa: E731
    r = call(paths.DATA / "taxonomy", "--to", tmp_path / "mine", "--rows", 24)
    assert r.exit_code == 0 and f"24 rows in {tmp_path / 'mine'}" in r.output
    rows = [json.loads(x) for x in (tmp_path / "mine" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and sorted(p.name for p in (tmp_path / "mine").iterdir()) == [
        "dropped.jsonl", "report.jsonl", "rows.jsonl"]  # fmt: skip
    again = call(paths.DATA / "taxonomy", "--to", tmp_path / "mine")
    assert again.exit_code == 2 and "exists already" in again.output
    other = tmp_path / "tree" / "compositional_skills" / "rhymes"
    other.mkdir(parents=True)
    seeds = "".join(f"  - question: What rhymes with word {i}?\n    answer: Bird {i}.\n" for i in range(5))
    (other / "qna.yaml").write_text(
        f"version: 3\ntask_description: Rhymes.\ncreated_by: me\nseed_examples:\n{seeds}")  # fmt: skip
    r = call(tmp_path / "tree", "--to", tmp_path / "other")
    assert r.exit_code == 2 and "a templated teacher knows leaves with a checker or documents" in r.output
    r = call(tmp_path / "tree", "--to", tmp_path / "other", "--teacher", "http://127.0.0.1:9/v1 m")
    assert r.exit_code != 0 and "127.0.0.1:9" in r.output and "Traceback" not in r.output
    assert not (tmp_path / "other").exists()
