from collections import Counter

import pytest
import torch

from lib import taxonomy
from lib.engine.generation import generate
from lib.harness.paths import DATA
from lib.synthesis import blocks, judges, samplers, teachers, truth
from lib.synthesis.requests import Request, listing
from lib.synthesis.teachers import CLEAN

LEAVES = taxonomy.load(DATA / "taxonomy")
SKILLS = [leaf for leaf in LEAVES if leaf.kind in ("foundational", "freeform")]
GROUNDED = [leaf for leaf in LEAVES if leaf.kind == "grounded"]


def asked(sampler, n=5):
    return [
        Request(f"{p.leaf}#{p.call}", "questions", p.leaf, p.task, p.examples, n)
        for p in (sampler.draw(i, ()) for i in range(sampler.calls))
    ]


def truths(teacher, requests):
    return [truth for reply in teacher(requests) for truth in reply.truth]


def test_without_preference_and_errors_all_leaves_are_equal_and_all_is_valid():
    teacher = teachers.Templated(SKILLS, seed=0, knobs=CLEAN._replace(b=0))
    found = truths(teacher, asked(samplers.leaf_local(SKILLS, calls=24, size=2, seed=0)))
    assert set(Counter(t["leaf"] for t in found).values()) == {10} and len(found) == 120
    pool = truths(teacher, asked(samplers.pool(SKILLS, calls=300, size=8, seed=0), n=10))
    count = Counter(t["leaf"] for t in pool)
    seeds = sum(len(leaf.seeds) for leaf in SKILLS)
    assert all(
        abs(count[leaf.path] / 3000 - len(leaf.seeds) / seeds) < 0.05 for leaf in SKILLS
    )  # as the pool's examples are
    assert all(t["asked"] == "right" for t in found + pool)


def test_with_full_preference_a_pool_gives_the_mode_and_a_leaf_gives_itself():
    mode = teachers.Templated(SKILLS, seed=0, knobs=CLEAN._replace(b=1, zipf=float("inf")))
    pool, fake, leaf = (
        asked(f(SKILLS, calls=48, size=3, seed=0)) for f in (samplers.pool, samplers.fake_leaf, samplers.leaf_local)
    )
    mixed = [r for r in pool + fake if len({x.leaf for x in r.examples}) > 1]
    assert len(mixed) > 70 and {t["leaf"] for t in truths(mode, mixed)} == {SKILLS[0].path}
    assert set(Counter(t["leaf"] for t in truths(mode, leaf)).values()) == {20}
    soft = truths(
        teachers.Templated(SKILLS, seed=0, knobs=CLEAN._replace(b=1, zipf=1.0)),
        asked(samplers.pool(SKILLS, calls=300, size=8, seed=0), n=10),
    )
    count, total = Counter(t["leaf"] for t in soft), sum(1 / r for r in range(1, 13))
    assert all(abs(count[leaf.path] / 3000 - 1 / r / total) < 0.04 for r, leaf in enumerate(SKILLS, 1))


def test_a_pool_covers_less_than_leaves_do_as_b_grows():
    def first(b):
        found = truths(
            teachers.Templated(SKILLS, seed=0, knobs=CLEAN._replace(b=b)),
            asked(samplers.pool(SKILLS, calls=100, size=4, seed=0)),
        )
        return sum(t["leaf"] == SKILLS[0].path for t in found)

    assert first(0.0) < first(0.5) < first(1.0)


def test_errors_come_at_their_rates_and_the_labels_are_what_the_oracle_finds():
    teacher = teachers.Templated(SKILLS, seed=0)
    requests = asked(samplers.leaf_local(SKILLS, calls=240, size=2, seed=0), n=10)
    replies, rows = teacher(requests), []
    for r, reply in zip(requests, replies):
        for text, labels in zip(blocks.parse_list(reply, r.n), reply.truth, strict=True):
            rows.append({"leaf": r.leaf, "question": text, "truth": labels})
    share = Counter(r["truth"]["asked"] for r in rows)
    for name, wanted in {"off-leaf": 0.10, "unanswerable": 0.05, "unsafe": 0.02, "right": 0.83}.items():
        assert share[name] / 2400 == pytest.approx(wanted, abs=0.02)
    oracle = judges.oracle(SKILLS)
    assert oracle["question"].score(rows) == [float(truth.valid(r)) for r in rows]
    answers = teacher([Request(f"{i}", "answer", r["leaf"], question=r["question"]) for i, r in enumerate(rows)])
    good = [r | {"answer": str(a), "truth": r["truth"] | a.truth[0]} for r, a in zip(rows, answers) if truth.valid(r)]
    told, n = Counter(r["truth"]["told"] for r in good), len(good)
    assert told["wrong"] / n == pytest.approx(0.2, abs=0.02) and told["truncated"] / n == pytest.approx(0.05, abs=0.015)
    right = [r for r in good if truth.valid(r)]
    assert sum(r["truth"]["explained"] for r in right) / len(right) == pytest.approx(0.5, abs=0.03)
    scores = oracle["pair"].score(good)
    assert [s >= 2 for s in scores] == [truth.valid(r) for r in good]
    cannot = {str(a) for r, a in zip(rows, answers) if r["truth"]["asked"] == "unanswerable"}
    assert cannot == {"I cannot see that."}


def test_contexts_and_questions_about_them():
    teacher = teachers.Templated(LEAVES, seed=0)
    requests = [
        Request(f"{leaf.path}#{i}", "contexts", leaf.path, leaf.task, tuple(samplers.examples(leaf)[:2]), 3)
        for leaf in GROUNDED
        for i in range(40)
    ]
    found = [
        (r, c, t)
        for r, reply in zip(requests, teacher(requests))
        for c, t in zip(blocks.parse_list(reply, 3), reply.truth, strict=True)
    ]
    assert all(c and (t["leaf"] == r.leaf) == (t["given"] == "right") for r, c, t in found)
    assert sum(t["given"] != "right" for *_, t in found) / len(found) == pytest.approx(0.1, abs=0.03)
    about = [
        r._replace(id=f"{r.id}.{i}", ask="questions", context=c, n=2)
        for i, (r, c, t) in enumerate(found)
        if t["given"] == "right"
    ]
    checker = {leaf.path: leaf.checker for leaf in GROUNDED}
    for r, reply in zip(about, teacher(about)):
        for text, labels in zip(blocks.parse_list(reply, 2), reply.truth, strict=True):
            assert (truth.form(text, r.context) == checker[r.leaf]) == (labels["asked"] == "right") or labels[
                "asked"
            ] == "unsafe"


def test_a_reply_depends_on_its_request_and_the_seed_alone():
    requests = asked(samplers.leaf_local(SKILLS, calls=12, size=2, seed=0))
    whole = teachers.Templated(SKILLS, seed=0)(requests)
    assert whole == [x for r in requests[::-1] for x in teachers.Templated(SKILLS, seed=0)([r])][::-1]
    other = teachers.Templated(SKILLS, seed=1)
    assert whole != other(requests) and other.name != teachers.Templated(SKILLS, seed=0).name
    assert teachers.Templated(SKILLS, seed=0, knobs=CLEAN).name != teachers.Templated(SKILLS, seed=0).name


def test_the_templated_teacher_as_a_judge_errs_at_its_rate():
    leaf = SKILLS[0]
    seed = leaf.seeds[0]
    asks = ("judge question", "judge pair", "judge faithful")
    requests = [
        Request(f"{i}", ask, leaf.path, question=seed.question, answer=seed.answer) for i in range(400) for ask in asks
    ]
    found = [int(reply[-1]) for reply in teachers.Templated(LEAVES, seed=0)(requests)]
    for at, good in enumerate((1, 2, 1)):
        assert sum(s < good for s in found[at::3]) / 400 == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: teachers.Templated(SKILLS, seed=0, knobs=CLEAN._replace(wrong=1.2)),
            "shares lie in .* given Knobs.*wrong=1.2",
        ),
        (
            lambda: teachers.Templated(SKILLS, seed=0, knobs=CLEAN._replace(wrong=0.6, truncated=0.6)),
            "add up to at most 1",
        ),
        (lambda: teachers.Templated(SKILLS, seed=0, knobs=CLEAN._replace(zipf=-1)), "zipf is at least 0"),
        (lambda: teachers.Templated([], seed=0), "knows leaves with a checker or documents, given none"),
        (
            lambda: teachers.Templated([SKILLS[0]._replace(checker=None)], seed=0),
            "given compositional_skills/formats/json_record",
        ),
        (
            lambda: teachers.Templated(SKILLS, seed=0)([Request("a", "poem", "x")]),
            "asked for one of questions, contexts, .* given 'poem'",
        ),
        (
            lambda: teachers.Templated(SKILLS, seed=0)([Request("a", "contexts", "x")]),
            "none of the teacher's leaves is grounded, as a request of x needs",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------------------------------------ language models


def test_the_continuing_teacher_samples_from_its_model_by_request(tiny_model, byte_tokenizer):
    teacher = teachers.Continuing(tiny_model, byte_tokenizer, max_new_tokens=12, temperature=1.0, seed=0)
    requests = [
        Request(f"{i}", ask, "x", "Sums.", tuple(samplers.examples(SKILLS[0])[:1]), 2)
        for i in range(3)
        for ask in ("questions", "answer")
    ]
    whole = list(teacher(requests))
    assert whole == [x for r in requests for x in teacher([r])] and len({*whole} - {None}) > 3
    other = teachers.Continuing(tiny_model, byte_tokenizer, max_new_tokens=12, temperature=1.0, seed=1)
    assert whole != list(other(requests)) and other.name != teacher.name
    assert all(text is None or text.startswith("1. ") for text in whole[::2])
    cold = teachers.Continuing(tiny_model, byte_tokenizer, max_new_tokens=12, temperature=1e-6, seed=0)
    ids = byte_tokenizer.encode(listing(requests[1]), add_special_tokens=False)
    (greedy,) = generate(tiny_model, [ids], max_new_tokens=12, stop_ids=cold.stop, batch=1)
    text = (
        byte_tokenizer.decode(greedy.tokens, skip_special_tokens=True).split("\n\n")[0].split("\nQuestion:")[0].strip()
    )
    assert list(cold([requests[1]])) == [text or None]
    with pytest.raises(ValueError, match="asked for 'judge pair'; judge with lib.synthesis.judges"):
        teacher([requests[0]._replace(ask="judge pair")])
    with pytest.raises(ValueError, match="temperature lies above 0"):
        teachers.Continuing(tiny_model, byte_tokenizer, max_new_tokens=12, temperature=0, seed=0)
    assert torch.isfinite(tiny_model.get_output_embeddings().weight).all()
