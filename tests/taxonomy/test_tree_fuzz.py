"""qna.yaml and facts.jsonl as hands and editors leave them: every problem a sentence with file, line and field."""

import json
import re
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lib import taxonomy
from tests.fuzzing import inputs, sentence

HEAD = "version: 3\ncreated_by: someone\n"
PAIR = "      - question: What is {m} in {n}?\n        answer: It is {m}.\n"
LEAVES = {
    "compositional_skills/counting": HEAD + "task_description: Saying what comes next.\nseed_examples:\n"
    + "".join(f"  - question: What follows {n}?\n    answer: Number {n + 1}.\n" for n in range(5)),
    "compositional_skills/reading": HEAD + "task_description: Reading.\nseed_examples:\n"
    + "".join(f"  - context: Box {n} is red.\n    question: Which is red?\n    answer: Box {n}.\n" for n in range(5)),
    "knowledge/towns/aske": HEAD + "domain: Aske\ndocument_outline: The town.\ndocument:\n  repo: .\n  commit: HEAD\n"
    "  patterns:\n    - town.md\nseed_examples:\n"
    + "".join(
        f"  - context: Passage {n} of Aske.\n    questions_and_answers:\n"
        + "".join(PAIR.format(n=n, m=m) for m in range(3)) for n in range(5)
    ),
}  # fmt: skip
FACT = {"question": "Which colour are the gates of Aske?", "answer": "green", "distractors": ["red", "blue", "white"]}
TOWN = "# Aske\n\nAske has 5 gates. The gates are green.\n"
SENTENCE = re.compile(r"[^\n\r]+:\d+ [^\n\r]+: [^\n\r]+")  # file:line field: what was given and what is allowed

scraps = st.one_of(
    st.text(max_size=6),
    st.sampled_from([
        "\t", ": ", "- ", "&a ", "*a", "<<: *a\n", "!!python/object:os.system ", "!x ", "|\n", ">-\n", "'", '"', "{",
        "[", "? ", "---\n", "...\n", "%YAML 9\n", "\x00", "\x85", "\u2028", "0x3", "3.0", "null", "yes", "2026-01-01",
        "#", "1_000", "_", "0b", "1:60", "!!int x", "!!float _", "!!timestamp 2", "=", "\ufeff", "a: " * 50, "[" * 2000,
    ]),
)  # fmt: skip


@st.composite
def damaged(draw, text):
    """A text with some of its lines or characters changed."""
    for _ in range(draw(st.integers(0, 3))):
        lines = text.split("\n")
        k, at = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(text)))
        how = draw(st.sampled_from(["drop", "twice", "move", "indent", "put in", "cut", "value"]))
        if how in ("put in", "cut"):
            text = text[:at] + (draw(scraps) + text[at:] if how == "put in" else "")
            continue
        if how == "drop":
            del lines[k]
        elif how == "twice":
            lines.insert(k, lines[k])
        elif how == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(k))
        elif how == "indent":
            lines[k] = draw(st.sampled_from([" ", "  ", "\t", ""])) + lines[k].lstrip(draw(st.sampled_from([" ", ""])))
        else:
            lines[k] = lines[k].partition(":")[0] + ": " + draw(scraps)
        text = "\n".join(lines)
    return text


@inputs(0.2)
@given(st.sampled_from(sorted(LEAVES)).flatmap(lambda leaf: st.tuples(st.just(leaf), damaged(LEAVES[leaf]))),
       damaged(json.dumps(FACT) + "\n"), st.sampled_from(["utf-8"] * 6 + ["utf-16", "latin-1"]))  # fmt: skip
def test_a_tree_is_read_or_every_problem_is_a_sentence(leaf, facts, encoding):
    where, text = leaf
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = {
            f"{where}/qna.yaml": text,
            "knowledge/towns/aske/facts.jsonl": facts,
            "knowledge/towns/aske/town.md": TOWN,
        }
        for name, content in ({f"{one}/qna.yaml": LEAVES[one] for one in LEAVES} | files).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode(encoding if name.endswith("qna.yaml") else "utf-8", "replace"))
        problems = taxonomy.check(root)
        for problem in problems:
            assert SENTENCE.fullmatch(problem), repr(problem)
            assert len(problem) < 1000
        try:
            leaves = taxonomy.load(root)
        except ValueError as error:
            assert problems and sentence(error).startswith(problems[0])
            return
        assert not problems and len(leaves) == len(LEAVES)
        for one in leaves:
            assert one.task.strip() and len(one.seeds) >= 5 and all(s.question and s.answer for s in one.seeds)
        taxonomy.outline(leaves)
