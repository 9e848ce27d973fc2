import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from lib import taxonomy
from lib.harness.paths import DATA, ROOT
from lib.synthesis import judges, pipelines, samplers, teachers, truth
from lib.synthesis.blocks import FATES, Dedup
from lib.synthesis.judges import teacher_judge
from lib.synthesis.samplers import leaf_local

LEAVES = taxonomy.load(DATA / "taxonomy")
SKILLS = [leaf for leaf in LEAVES if leaf.kind in ("foundational", "freeform")]
ORACLE = judges.oracle(LEAVES)
PAIR = {k: ORACLE[k] for k in ("question", "pair")}
AMOUNTS = pipelines.Amounts(calls=3, size=2, questions=4, contexts=2, words=60, pairs=3)


class Teacher(teachers.Templated):
    """A templated teacher that counts its requests, and may fail: bad(request) -> raise | None | False."""

    def __init__(self, bad=lambda r: False, **settings):
        super().__init__(LEAVES, **{"seed": 0} | settings)
        self.bad, self.asked = bad, 0

    def __call__(self, requests):
        for r, reply in zip(requests, super().__call__(requests)):
            how = self.bad(r)
            if how == "raise":
                raise OSError("out of paper")
            if how == "gone":
                raise ConnectionError("no server answers")
            self.asked += 1
            yield None if how is None else reply


class Careless:
    """A block that loses its rows."""

    name = "careless"

    def items(self, rows):
        return rows

    def apply(self, rows, ask, seen):
        return []


def small(teacher, judge=PAIR, journal=None, calls=24, **settings):
    sampler, blocks = leaf_local(SKILLS, calls=calls, size=2, seed=0), pipelines.skills(teacher, judge, questions=4)
    return pipelines.run(sampler, blocks, journal=journal, desc="test", **settings)


def conserved(counts):
    return all(c["in"] == sum(c[f] for f in FATES) for c in counts) and all(
        a["out"] == b["rows"] for a, b in zip(counts, counts[1:])
    )


@pytest.fixture(scope="module")
def whole():
    return pipelines.synthesise(LEAVES, Teacher(), ORACLE, AMOUNTS, seed=0, journal=None)


def test_the_whole_tree_gives_valid_rows_and_every_item_is_accounted_for(whole):
    assert list(whole) == ["skills", "grounded", "knowledge"]
    for name, result in whole.items():
        counts = {c["block"]: c for c in result.counts}
        assert conserved(result.counts) and not result.failures
        first = {
            "skills": ("questions", 36, 144),
            "grounded": ("contexts", 12, 24),
            "knowledge": ("chunks", 18, counts.get("chunks", {}).get("in")),
        }[name]
        assert (counts[first[0]]["rows"], counts[first[0]]["in"]) == first[1:]
        assert len(result.rows) == result.counts[-1]["out"] and len(result.dropped) == sum(
            c[f] for c in result.counts for f in FATES[1:]
        )
        assert all(truth.valid(r) and r["leaf"] == r["truth"]["leaf"] for r in result.rows)
        assert all(
            r["dropped"].startswith(f"{b}: ") for r in result.dropped for b in counts if r["dropped"].split(":")[0] == b
        )
        assert not any(truth.valid(r) for r in result.dropped if r["fate"] == "rejected")
        ids = [r["id"] for r in result.rows]
        assert len(set(ids)) == len(ids) and len(
            {(r.get("context"), r["question"].casefold()) for r in result.rows}
        ) == len(ids)
        assert json.loads(json.dumps(result.rows)) == result.rows and "examples" not in result.rows[0]
    assert {r["leaf"] for result in whole.values() for r in result.rows} == {leaf.path for leaf in LEAVES}
    assert all(r["context"] for name in ("grounded", "knowledge") for r in whole[name].rows)


def test_no_held_out_question_is_made(whole):
    held = {x.question for leaf in LEAVES if leaf.kind == "knowledge" for x in (*leaf.facts, *leaf.seeds)}
    assert not held & {r["question"] for r in whole["knowledge"].rows + whole["knowledge"].dropped if "question" in r}


def test_judges_change_what_is_kept_and_what_was_generated_stays_the_same():
    teacher = Teacher()
    free, strict, rules = small(teacher, {}), small(teacher), small(teacher, {"pair": judges.rules()})
    asking = small(
        teacher,
        {
            "question": teacher_judge(teacher, "judge question", least=1),
            "pair": teacher_judge(teacher, "judge pair", least=2),
        },
    )
    assert [c["block"] for c in free.counts] == ["questions", "unique questions", "answers"]
    purity = [sum(map(truth.valid, r.rows)) / len(r.rows) for r in (free, rules, asking, strict)]
    assert purity[0] < purity[1] < purity[2] < purity[3] == 1
    assert {r["id"] for r in strict.rows} <= {r["id"] for r in free.rows} and conserved(asking.counts)
    assert {r["id"]: r["answer"] for r in strict.rows}.items() <= {r["id"]: r["answer"] for r in free.rows}.items()
    reasons = Counter(r["dropped"].split(" (")[0] for r in rules.dropped if r["fate"] == "rejected")
    assert {"pair judge: the answer breaks off", "pair judge: the question needs eyes"} <= set(reasons)


def test_all_samplers_run_through_the_pipeline_with_equal_calls():
    for sampler in (
        samplers.pool(SKILLS, calls=24, size=4, seed=0, machine=2),
        samplers.fake_leaf(SKILLS, calls=24, size=2, seed=0),
    ):
        teacher = Teacher()
        result = pipelines.run(sampler, pipelines.skills(teacher, PAIR, questions=4), journal=None, desc="test")
        assert (
            conserved(result.counts)
            and result.counts[0]["in"] == 96
            and {r["leaf"].split()[0] for r in result.rows} <= {"pool", "fake"}
        )
        assert all(r["truth"]["told"] == "right" for r in result.rows)


def test_duplicates_are_told_across_runs_and_batches_do_not_matter():
    seen = Dedup()
    first = small(Teacher(), seen=seen)
    again = small(Teacher(), seen=seen)
    assert not again.rows and again.counts[1]["duplicate"] == again.counts[1]["in"] == 96
    for batch in (5, 24):  # the order in which rows are dropped may differ
        other = small(Teacher(), batch=batch)
        assert (other.rows, other.counts) == (first.rows, first.counts) and sorted(map(str, other.dropped)) == sorted(
            map(str, first.dropped)
        )


def test_long_runs_say_their_yields_on_the_way(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setenv("PLUMBLINE_HEADLESS", "1")
    result = small(Teacher(), {}, calls=40)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("test: questions ")]
    assert [line.split()[2] for line in lines] == ["40/40,", "80/80,", "120/120,", "160/160,", "160/160,"]
    assert lines[-1].endswith(f"answers {len(result.rows)}/{len(result.rows)}")


def test_copies_of_seeds_are_duplicates():
    def copyist(requests):
        return [
            "1. " + r.examples[0].question.upper() if r.ask == "questions" else "1. " + r.examples[0].context
            for r in requests
        ]

    copyist.name = "copyist"
    for kind in ("freeform", "grounded"):
        leaves = [leaf for leaf in LEAVES if leaf.kind == kind]
        (result,) = pipelines.synthesise(
            leaves, copyist, {}, AMOUNTS._replace(questions=1, contexts=1), seed=0, journal=None
        ).values()
        assert not result.rows and {r["dropped"].split(": ")[1][:14] for r in result.dropped} == {"like a seed of"}
        assert result.counts[1]["duplicate"] == 3 * len(leaves)


# ------------------------------------------------------------------------------------------------ stopped and failing
# runs

SCRIPT = """
import sys, time
from pathlib import Path
from tests.synthesis.test_pipelines import AMOUNTS, LEAVES, ORACLE, Teacher, pipelines
class Slow(Teacher):
    def __call__(self, requests):
        for reply in super().__call__(requests):
            time.sleep(0.01)
            yield reply
pipelines.synthesise(LEAVES, Slow(), ORACLE, AMOUNTS, seed=0, journal=Path(sys.argv[1]))
"""


def kill_after(folder, lines):
    """Starts the whole tree's run and kills it, without warning, once its journals hold so many lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 120
    while sum(f.read_bytes().count(b"\n") for f in folder.glob("*.jsonl")) < lines:
        assert process.poll() is None and time.monotonic() < deadline, "the run ended by itself"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_run_killed_in_the_middle_ends_with_the_same_rows(tmp_path, whole):
    fresh = Teacher()
    pipelines.synthesise(LEAVES, fresh, ORACLE, AMOUNTS, seed=0, journal=None)
    for lines in (60, 400):
        kill_after(tmp_path, lines)
    paid = sum('"text"' in line for f in tmp_path.glob("*.jsonl") for line in f.read_text().splitlines())
    some = max(tmp_path.glob("*.jsonl"), key=lambda f: f.stat().st_size)
    with some.open("a") as file:
        file.write('{"key": "3fa0", "te')  # killed within a line
    teacher = Teacher()
    assert pipelines.synthesise(LEAVES, teacher, ORACLE, AMOUNTS, seed=0, journal=tmp_path) == whole
    assert paid > 30 and teacher.asked == fresh.asked - paid
    idle = Teacher()
    assert pipelines.synthesise(LEAVES, idle, ORACLE, AMOUNTS, seed=0, journal=tmp_path) == whole and idle.asked == 0
    assert {f.stem for f in tmp_path.glob("*.jsonl")} == {leaf.path.replace("/", "__") for leaf in LEAVES}


def test_other_settings_do_not_take_the_answers_of_this_one(tmp_path):
    small(Teacher(), journal=tmp_path)
    other = Teacher(seed=1)
    assert small(other, journal=tmp_path) == small(Teacher(seed=1)) and other.asked > 0


def test_a_teacher_that_returns_nothing_costs_its_rows_only_and_is_asked_again(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setenv("PLUMBLINE_HEADLESS", "1")
    mute = lambda r: None if r.leaf.endswith("addition") and r.ask == "questions" else False  # noqa: E731
    result = small(Teacher(mute), journal=tmp_path)
    assert (
        conserved(result.counts)
        and result.counts[0]["failed"] == 8
        and not any(r["leaf"].endswith("addition") for r in result.rows)
    )
    assert result.failures == ["foundational_skills/arithmetic/addition: returned nothing 2 times"]
    assert "test: foundational_skills/arithmetic/addition: returned nothing 2 times" in capsys.readouterr().err
    assert {r["dropped"] for r in result.dropped if r["fate"] == "failed"} == {
        f"questions: the teacher {Teacher().name} returned nothing"
    }
    assert small(Teacher(), journal=tmp_path) == small(Teacher())


def test_a_teacher_that_raises_now_and_then_costs_that_call_only(tmp_path):
    failing = lambda r: "raise" if r.leaf.endswith("addition") and r.ask == "questions" else False  # noqa: E731
    result = small(Teacher(failing), journal=tmp_path)
    assert result.failures == ["foundational_skills/arithmetic/addition: raised 2 times"] and conserved(result.counts)
    assert any("raised OSError: out of paper" in r["dropped"] for r in result.dropped)
    teacher = Teacher()
    assert small(teacher, journal=tmp_path) == small(Teacher()) and 2 < teacher.asked < 20


def test_a_teacher_that_keeps_raising_stops_the_run_and_loses_nothing(tmp_path):
    late = Teacher()
    late.bad = lambda r: "raise" if late.asked >= 50 else False
    said = (
        r"the teacher templated 0 \w+ raised OSError: out of paper \(\w+/.*: \d times?, 3 in a row\); what it gave "
        r"before is kept in .*: run again"
    )
    with pytest.raises(RuntimeError, match=said):
        small(late, journal=tmp_path)
    teacher, fresh = Teacher(), Teacher()
    assert small(teacher, journal=tmp_path) == small(fresh) and teacher.asked == fresh.asked - 50
    with pytest.raises(RuntimeError, match="nothing is kept without a journal"):
        small(Teacher(lambda r: "raise"))


def test_a_teacher_that_is_gone_stops_the_run_at_its_first_word(tmp_path):
    """Its client has tried again already; near the end of a stage there may be too few calls left for patience."""
    late = Teacher()
    late.bad = lambda r: "gone" if late.asked == 50 else False
    said = r"no server answers \(\w+/.*: 1 time, 1 in a row\); what it gave before is kept"
    with pytest.raises(RuntimeError, match=said):
        small(late, journal=tmp_path)


def test_a_teacher_that_miscounts_and_a_judge_that_raises(tmp_path):
    class Short(Teacher):
        def __call__(self, requests):
            return list(super().__call__(requests))[1:]

    with pytest.raises(RuntimeError, match="raised ValueError: 0 answers to 1 requests"):
        small(Short(), journal=tmp_path)
    broken = {"pair": judges.Judge("broken", lambda rows: 1 / 0, 1)}
    with pytest.raises(RuntimeError, match="the judge broken raised ZeroDivisionError: division by zero"):
        small(Teacher(), broken, journal=tmp_path)
    half = {"pair": judges.Judge("half", lambda rows: [None if i % 2 else 1.0 for i in range(len(rows))], 1)}
    result = small(Teacher(), half)
    assert conserved(result.counts) and result.counts[-1]["failed"] > 20 and result.counts[-1]["rejected"] == 0


def test_a_broken_journal_is_named(tmp_path):
    small(Teacher(), journal=tmp_path)
    file = sorted(tmp_path.glob("*.jsonl"))[0]
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match=rf"{file.name}:2 is no line of a journal; remove it"):
        small(Teacher(), journal=tmp_path)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: pipelines.skills(Teacher(), {"faithful": 1}, questions=3),
            "judges are of question or pair, and questions at least 1, given faithful",
        ),
        (lambda: pipelines.skills(Teacher(), {}, questions=0), "given none and {'questions': 0}"),
        (
            lambda: pipelines.knowledge(Teacher(), {}, SKILLS[:1], words=50, pairs=2),
            "knowledge is made from documents, and .*json_record has none",
        ),
        (lambda: pipelines.knowledge(Teacher(), {}, [], words=0, pairs=2), "words, pairs at least 1"),
        (lambda: small(Teacher(), batch=0), "a batch holds at least 1 call, given questions, .* and 0"),
        (
            lambda: pipelines.synthesise(LEAVES, Teacher(), ORACLE, AMOUNTS._replace(size=6), seed=0, journal=None),
            "has 5 seeds, too few for prompts of 6 examples",
        ),
        (
            lambda: pipelines.synthesise(LEAVES, Teacher(), ORACLE, AMOUNTS._replace(calls=0), seed=0, journal=None),
            "calls at least 1",
        ),
        (
            lambda: pipelines.synthesise(LEAVES, Teacher(), {"style": 1}, AMOUNTS, seed=0, journal=None),
            "question or pair or faithful, and .*given style",
        ),
        (
            lambda: pipelines.run(leaf_local(SKILLS, calls=2, size=2, seed=0), [Careless()], journal=None, desc="x"),
            "block 'careless' was to give 1 items",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(call, message):
    with pytest.raises(ValueError, match=message):
        call()
