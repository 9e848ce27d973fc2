import itertools

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from lib import taxonomy
from lib.harness.paths import DATA
from lib.synthesis import blocks, judges
from lib.synthesis.blocks import Dedup, chunks, parse_list
from lib.synthesis.judges import Judge
from lib.synthesis.requests import Reply

LEAVES = taxonomy.load(DATA / "taxonomy")
DOCUMENTS = [d.text for leaf in LEAVES for d in leaf.documents]
ODD = (
    "",
    " \n ",
    "no end",
    "a\n\nb",
    "\n# Head\n\nBody 1.4 is one.  Two.\n",
    "# Head\n",
    "Word " * 50,
    'He said "No." Then he left.',
)
SENTENCE = "One two three. Four five! Six seven eight nine? Ten."


@pytest.mark.parametrize("words", [1, 2, 5, 20, 60, 1000])
@pytest.mark.parametrize("text", [*DOCUMENTS, *ODD, SENTENCE])
def test_chunks_join_to_the_text_and_are_small_enough(text, words):
    found = chunks(text, words)
    assert "".join(found) == text and all(len(c.split()) <= words for c in found)
    assert all(c.strip() for c in found) or not text.strip()


def test_chunks_end_where_sentences_end():
    assert [c.strip() for c in chunks(SENTENCE, 5)] == ["One two three. Four five!", "Six seven eight nine? Ten."]
    assert [c.strip() for c in chunks(SENTENCE, 4)] == ["One two three.", "Four five!", "Six seven eight nine?", "Ten."]
    assert [c.strip() for c in chunks(SENTENCE, 3)] == ["One two three.", "Four five!", "Six seven eight", "nine? Ten."]
    for text in DOCUMENTS:
        assert all(c.rstrip()[-1] in ".!?" for c in chunks(text, 60))  # no heading is left behind
    with pytest.raises(ValueError, match="a chunk holds at least 1 word, given 0"):
        chunks("a", 0)


@pytest.mark.parametrize(
    "text, n, wanted",
    [
        ("1. a\n2. b\n3. c", 3, ["a", "b", "c"]),
        ("Sure:\n1) a\n 2) b", 3, ["a", "b", None]),
        ("1. a\nmore\n2. b", 2, ["a\nmore", "b"]),
        ("1. a\n3. c", 3, ["a", None, "c"]),
        ("1. a\n2.\n3. c", 3, ["a", None, "c"]),
        ("1. a\n1926. was a year\n2. b", 2, ["a\n1926. was a year", "b"]),
        ("1. a\n2. b\n3. c", 2, ["a", "b"]),
        ("1、北京\n２．上海\n3）天津", 3, ["北京", "上海", "天津"]),
        ("1. a\n1.5 of it\n2. b", 2, ["a\n1.5 of it", "b"]),
        ("no list", 2, [None, None]),
        ("", 1, [None]),
        ("1. Question: A?\nAnswer: b", 1, ["Question: A?\nAnswer: b"]),
    ],
)
def test_numbered_lists_are_read(text, n, wanted):
    assert parse_list(text, n) == wanted


def test_common_subsequences_are_those_of_rouge_score():
    rng, scorer = np.random.default_rng(0), RougeScorer(["rougeL"], use_stemmer=False)
    vocabulary = ["What", "is", "the", "sum", "of", "17", "+", "25?", "+?", "a-b"]
    texts = [" ".join(rng.choice(vocabulary, rng.integers(1, 14))) for _ in range(60)]
    for a, b in zip(texts[::2], texts[1::2]):
        x, y = blocks.tokens(a), blocks.tokens(b)
        f = 2 * blocks.common(x, y) / (len(x) + len(y)) if x and y else 0.0
        assert f == pytest.approx(scorer.score(a, b)["rougeL"].fmeasure)
        both = Dedup(threshold=0.5)
        assert both.add("q", a, "a") is None
        like = a.casefold() == b.casefold() or scorer.score(a, b)["rougeL"].fmeasure > 0.5 + 1e-12
        assert (both.add("q", b, "b") == "a") == like


def test_duplicates_are_counted_alike_in_every_order():
    """Three groups: equal up to case and space; one word of twelve changed; alone."""
    long = "Who of all the people in the small village has the most".split()
    group = [
        "What is 1 + 1?",
        "what is 1  + 1?",
        " ".join([*long, "sheep?"]),
        " ".join([*long, "goats?"]),
        " ".join([*long, "cows?"]),
        "What is 2 + 7?",
    ]
    for order in itertools.permutations(range(len(group))):
        seen = Dedup(0.9)
        assert [seen.add("q", group[i], str(i)) for i in order].count(None) == 3
    exact = Dedup(1.0)
    assert [exact.add("q", text, str(i)) for i, text in enumerate(group)] == [None, "0", None, None, None, None]
    other = Dedup(0.9)
    assert (
        other.add("q", "Same words.", "a") is None
        and other.add("context", "Same words.", "b") is None
        and other.add("q", "same WORDS.", "c") == "a"
    )
    assert other.add("q", "?", "d") is None and other.add("q", "!", "e") is None  # no word: only equal ones are alike
    for threshold in (0, 1.1):
        with pytest.raises(ValueError, match=r"threshold of ROUGE-L F lies in \(0, 1\]"):
            Dedup(threshold)


# ------------------------------------------------------------------------------------------------ each block


def ask(who, what, leaves, call):
    return list(call(what)), f"the {who} returned nothing"


def told(*replies):
    def teacher(requests):
        return [replies[i % len(replies)] for i in range(len(requests))]

    teacher.name = "told"
    return teacher


def rows(n, **fields):
    return [{"id": f"a#{i}", "leaf": "a", "task": "t", "examples": (), **fields} for i in range(n)]


def test_generate_counts_what_it_was_to_give():
    teacher = told(Reply("1. A?\n2. B?\n3. C?\n4. D?", [{"asked": x} for x in "abcd"]), "1. A?\n3. C?", None, "Sorry.")
    block = blocks.Generate("questions", teacher, "questions", 3)
    found = block.apply(rows(4), ask, Dedup())
    assert (
        len(found) == block.items(4) == 12
        and [o.fate for o in found] == ["out"] * 3 + ["out", "failed", "out"] + ["failed"] * 6
    )
    assert [o.row["question"] for o in found if o.fate == "out"] == ["A?", "B?", "C?", "A?", "C?"]
    assert [o.row["truth"] for o in found[:3]] == [{"asked": "a"}, {"asked": "b"}, {"asked": "c"}] and found[3].row[
        "truth"
    ] == {}
    assert (
        found[4].reason == "item 2 of 3 cannot be read"
        and found[6].reason == "the teacher told returned nothing"
        and found[9].row["reply"] == "Sorry."
    )
    assert len({o.row["id"] for o in found if o.fate == "out"}) == 5
    pairs = blocks.Generate("pairs", told("1. Question: A?\nAnswer: b\nc\n2. A? b"), "pairs", 2).apply(
        rows(1), ask, Dedup()
    )
    assert [o.fate for o in pairs] == ["out", "failed"] and (pairs[0].row["question"], pairs[0].row["answer"]) == (
        "A?",
        "b\nc",
    )
    answers = blocks.Generate("answers", told(" 1. b\n", " "), "answer").apply(
        rows(2, question="A?", truth={"asked": "right"}), ask, Dedup()
    )
    assert (
        [o.fate for o in answers] == ["out", "failed"]
        and answers[0].row["answer"] == "1. b"
        and answers[0].row["truth"] == {"asked": "right"}
    )


def test_filter_tells_a_verdict_that_cannot_be_read_from_a_rejection():
    judge = Judge("toy", lambda rows: [None, 1.0, 2.0, 3.0], 2, lambda row: "too short")
    found = blocks.Filter("pair judge", judge).apply(rows(4, question="A?", answer="b"), ask, Dedup())
    assert [o.fate for o in found] == ["failed", "rejected", "out", "out"] and found[
        1
    ].reason == "too short (1, kept from 2)"
    assert [o.row["scores"] for o in found] == [{"pair judge": s} for s in (None, 1.0, 2.0, 3.0)]
    seen = []

    def teacher(requests):
        seen.extend(requests)
        return ["Score: 1. No, it is right. Score: 3", "Score: high", None]

    teacher.name = "told"
    asked = judges.teacher_judge(teacher, "judge pair", least=2)
    assert asked.score(rows(3, question="A?", answer="b", context="c")) == [3.0, None, None]
    assert {(r.ask, r.question, r.answer, r.context, r.task) for r in seen} == {("judge pair", "A?", "b", "c", "t")}


def test_unique_and_chunk():
    found = blocks.Unique("unique").apply(
        [r | {"question": q} for r, q in zip(rows(3), ("A b?", "a  B?", "C?"))], ask, Dedup()
    )
    assert [(o.fate, o.reason) for o in found] == [("out", ""), ("duplicate", "like a#0"), ("out", "")]
    block = blocks.Chunk("chunks", {"a": (SENTENCE, "Last.")}, 5)
    found = block.apply(rows(2), ask, Dedup())
    assert block.items(2) is None and [o.row["context"] for o in found[:3]] == [
        "One two three. Four five!",
        "Six seven eight nine? Ten.",
        "Last.",
    ]
    assert [o.row["id"] for o in found] == [f"a#{i}.{k}" for i in range(2) for k in range(3)]


def test_near_duplicates_and_chunks_in_other_scripts():
    for text in (
        "Какая река течёт через этот старый город сегодня",
        "今天有哪条河流经这座古老的城市",
        "أي نهر يمر بهذه المدينة القديمة اليوم",
    ):
        seen = Dedup(0.9)
        assert seen.add("q", f"{text}?", "1") is None and seen.add("q", f"{text} ?!", "2") == "1"
    for text in ("这是一个短句子。" * 60, "สวัสดีครับ" * 60, "長い文です！" * 40, "x" * 5000):
        found = chunks(text, 20)
        assert "".join(found) == text and len(found) > 1 and all(len(blocks.units(c)) <= 20 for c in found)
    assert all(c.endswith("。") for c in chunks("这是一个短句子。" * 60, 20))
