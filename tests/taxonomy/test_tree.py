import copy
import json
import re
from functools import cache
from importlib import resources

import pytest
import yaml
from typer.testing import CliRunner

from lib.harness import cli
from lib.harness.paths import DATA
from lib.taxonomy import checkers, tree

OURS = DATA / "taxonomy"
FREEFORM, GROUNDED, KNOWLEDGE = (
    "compositional_skills/counting",
    "compositional_skills/grounded/reading",
    "knowledge/towns/aske",
)
HEAD = "version: 3\ncreated_by: someone\n"
DOCUMENT = "# Aske\n\nAske has 5 gates. The gates are green. Its mayor is Ida Mott.\n"
FACT = {"question": "Which colour are the gates of Aske?", "answer": "green", "distractors": ["red", "blue", "white"]}
FILES = {
    FREEFORM: HEAD + "task_description: Saying what comes next.\nseed_examples:\n" + "".join("  - question: What "
        f"follows {n}?\n    answer: Number {n + 1}.\n" for n in range(5)),
    GROUNDED: HEAD + "task_description: Reading.\nseed_examples:\n" + "".join(f"  - context: Box {n} is red.\n    "
        f"question: Which box is red?\n    answer: Box {n}.\n" for n in range(5)),
    KNOWLEDGE: HEAD + "domain: Aske\ndocument_outline: The town of Aske.\ndocument:\n  repo: .\n  commit: HEAD\n  "
        "patterns:\n    - "
        "town.md\nseed_examples:\n"
    + "".join(f"  - context: Passage {n} of Aske.\n    questions_and_answers:\n" + "".join("      - question: What "
        f"is {m} in {n}?\n        answer: It is {m}.\n" for m in range(3)) for n in range(5)),
}  # fmt: skip


def write(root, **changed):
    """A tree of one leaf of each kind, with some files of other text; a file of None is left out."""
    files = {f"{leaf}/qna.yaml": text for leaf, text in FILES.items()}
    files |= {f"{KNOWLEDGE}/town.md": DOCUMENT, f"{KNOWLEDGE}/facts.jsonl": json.dumps(FACT) + "\n"} | changed
    for name, text in files.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return root


@cache
def published(name):
    """Validator of the published schema, version 3: knowledge or compositional_skills."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    folder = resources.files("instructlab.schema") / "v3"

    def read(uri):
        return Resource.from_contents(
            json.loads((folder / uri).read_text(encoding="utf-8")), default_specification=DRAFT202012
        )  # noqa: E731

    return Draft202012Validator(read(f"{name}.json").contents, registry=Registry(retrieve=read))


def seen(leaf, text):
    """Places that the published schema objects to ("seed_examples[0].answer"); "yaml" where the text cannot be read."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return ["yaml"]
    return [
        e.json_path.removeprefix("$").removeprefix(".")
        for e in published("knowledge" if leaf.startswith("knowledge") else "compositional_skills").iter_errors(content)
    ]


def test_every_leaf_of_ours_is_valid_here_and_under_the_published_schema():
    assert tree.check(OURS) == []
    leaves = tree.load(OURS)
    assert len(leaves) == len(list(OURS.rglob("qna.yaml"))) == 22
    for leaf in leaves:
        assert seen(leaf.path, (OURS / leaf.path / "qna.yaml").read_text(encoding="utf-8")) == [], leaf.path


def test_our_tree_is_of_the_kinds_and_sizes_that_it_is_said_to_be():
    leaves = tree.load(OURS)
    kinds = [leaf.kind for leaf in leaves]
    assert {k: kinds.count(k) for k in kinds} == {"knowledge": 6, "foundational": 6, "freeform": 6, "grounded": 4}
    skills = [leaf for leaf in leaves if leaf.kind != "knowledge"]
    assert {leaf.path: leaf.checker for leaf in skills} == checkers.LEAVES and set(checkers.LEAVES.values()) == set(
        checkers.CHECKERS
    )
    assert (
        len({leaf.path.count("/") for leaf in leaves}) >= 3 and max(len(leaf.seeds) for leaf in skills) == 40
    )  # unbalanced, on purpose
    asked = [(s.question, s.context if leaf.kind == "grounded" else "") for leaf in leaves for s in leaf.seeds] + [
        (f.question, "") for leaf in leaves for f in leaf.facts
    ]
    assert len(set(asked)) == len(asked)  # no question stands in two leaves


def test_knowledge_stands_in_its_documents():
    flat = lambda t: " ".join(t.split())  # noqa: E731
    leaves = [leaf for leaf in tree.load(OURS) if leaf.kind == "knowledge"]
    whole = {leaf.path: flat(" ".join(d.text for d in leaf.documents)) for leaf in leaves}
    for leaf in leaves:
        text = whole[leaf.path]
        assert 300 <= len(text.split()) <= 600 and len(leaf.facts) >= 12 and leaf.outline and leaf.checker is None
        for seed in leaf.seeds:
            assert flat(seed.context) in text
            numbers = set(re.findall(r"\d[\d,.]*\d|\d", seed.answer))
            assert numbers <= set(re.findall(r"\d[\d,.]*\d|\d", seed.context)), (leaf.path, seed)
        for fact in leaf.facts:
            options = {o.lower() for o in (fact.answer, *fact.distractors)}
            assert fact.answer.lower() in text.lower() and len(options) == 4, fact
            assert fact.answer.lower() not in fact.question.lower(), fact  # the question does not give it away


def test_leaves_are_read_in_full(tmp_path):
    freeform, grounded, knowledge = tree.load(write(tmp_path))
    assert freeform == tree.Leaf(FREEFORM, "freeform", "Saying what comes next.", freeform.seeds)
    assert freeform.seeds[4] == tree.Seed("What follows 4?", "Number 5.", "", 13)
    assert grounded.kind == "grounded" and grounded.seeds[1] == tree.Seed(
        "Which box is red?", "Box 1.", "Box 1 is red.", 8
    )
    assert (
        knowledge.documents == (tree.Document("town.md", DOCUMENT.strip()),)
        and knowledge.outline == "The town of Aske."
        and knowledge.task == "Aske"
    )
    assert len(knowledge.seeds) == 15 and knowledge.seeds[-1][:3] == (
        "What is 2 in 4?",
        "It is 2.",
        "Passage 4 of Aske.",
    )
    assert knowledge.facts == (tree.Fact(FACT["question"], "green", ("red", "blue", "white")),)
    assert tree.load(str(tmp_path)) == [freeform, grounded, knowledge]


MUTATIONS = [  # leaf, text, what stands in its place, line, field, words, whether the published schema objects too
    (FREEFORM, "version: 3", "version: 2", 1, "version", "the number 3 is wanted, given a number (2)", True),
    (FREEFORM, "version: 3", "version: '3'", 1, "version", "the number 3 is wanted, given '3'", True),
    (KNOWLEDGE, "version: 3\n", "", 1, "version", "missing; needed are version, created_by, domain", True),
    (FREEFORM, "created_by", "author", 2, "author", "unknown field; allowed are version, created_by, "
        "task_description, seed_examples", True),
    (FREEFORM, "    answer: Number 3.", "    answer: Number 3.\n    "
        "contxt: x", 11, "seed_examples[2].contxt", "unknown "
        "field, did you mean context; allowed are question, answer, context", True),
    (FREEFORM, "  - question: What follows 4?\n    answer: "
        "Number 5.\n", "", 5, "seed_examples", "4 seed examples given, at least 5 are needed", True),
    (FREEFORM, "    answer: Number 3.\n", "", 9, "seed_examples[2].answer", "missing; needed are question, "
        "answer", True),
    (FREEFORM, "answer: Number 3.", "answer: 3", 10, "seed_examples[2].answer", "text is wanted, given a number (3); "
        "put it in quotes", True),
    (FREEFORM, "answer: Number 3.", "answer: yes", 10, "seed_examples[2].answer", "text is wanted, given a yes or no "
        "(yes)", True),
    (FREEFORM, "answer: Number 3.", "answer: 2001-02-03", 10, "seed_examples[2].answer", "text is wanted, given a "
        "date (2001-02-03)", True),
    (FREEFORM, "answer: Number 3.", "answer:", 10, "seed_examples[2].answer", "text is wanted, given nothing", True),
    (FREEFORM, "answer: Number 3.", "answer: ''", 10, "seed_examples[2].answer", "the text is empty", True),
    (FREEFORM, "answer: Number 3.", "answer: '  '", 10, "seed_examples[2].answer", "the text is empty", False),
    (FREEFORM, "answer: Number 3.", "answer: [a, b]", 10, "seed_examples[2].answer", "text is wanted, given a list",
        True),
    (FREEFORM, "    answer: Number 3.", "    answer: Number 3.\n    "
        "context: x", 9, "seed_examples[2].context", "given, and 1 of 5 seeds have one: a leaf is grounded in all "
            "its seeds or in none", False),
    (GROUNDED, "  - context: Box 4 is red.\n    "
        "question", "  - question", 17, "seed_examples[4].context", "missing, and 4 of 5 seeds have one", False),
    (FREEFORM, "  - question: What follows 3?\n    answer: Number 4.", "  - question: What follows 0?\n    "
        "answer: 'Number 1.'", 11, "seed_examples[3]", "given twice, first in line 5", True),
    (FREEFORM, "    answer: Number 3.", "    answer: |\n      a:\n      \tb\n\tanswer: c", 13, "answer", "a tab in the "
        "indentation; YAML is indented by spaces", True),
    (FREEFORM, "    answer: Number 3.", "    answer: |\n      a:\n      \tb\n   x: c", 13, "x", "not YAML: ", True),
    (FREEFORM, "answer: Number 3.", "answer:\tNumber 3.", 10, "answer", "not YAML: a tab where a space is "
        "wanted", True),
    (FREEFORM, "answer: Number 3.\n", "answer: Number 3.\n\t\n", 11, "answer", "a tab in the indentation", True),
    (FREEFORM, "answer: Number 3.", 'answer: "one\u2028two"\n    wrong: 3', 11, "seed_examples[2].wrong", "unknown "
        "field", True),
    (FREEFORM, "  - question: What follows 3?\n    answer: Number 4.", "  - !!set\n    question: null\n    answer: "
        "null", 11, "seed_examples[3]", "fields question, answer, context are wanted, given the type", True),
    (FREEFORM, "  - question: What follows 3?\n    answer: Number 4.", "  - <<: x\n    question: y\n    answer: z",
        11, "seed_examples[3].<<", "fields, or a list of them, are wanted to be merged", True),
    (FREEFORM, "  - question: What follows 3?\n    answer: Number 4.", "  - <<: {note: x}\n    question: y\n    "
        "answer: z", 11, "seed_examples[3].note", "unknown field, merged in by <<; allowed are", True),
    (FREEFORM, "    answer: Number 3.", "\tanswer: Number 3.", 10, "answer", "a tab in the indentation; YAML is "
        "indented by spaces", True),
    (FREEFORM, "    answer: Number 3.", "    answer: Number 3.\n    answer: "
        "Number 4.", 11, "seed_examples[2].answer", "given twice, first in line 10", False),
    (FREEFORM, "created_by: someone", "created_by: "
        "someone\ncreated_by: else", 3, "created_by", "given twice, first in line 2", False),
    (FREEFORM, "created_by: someone", 'created_by: "someone', 2, "created_by", "not YAML: found unexpected end of "
        "stream", True),
    (FREEFORM, FILES[FREEFORM], "# nothing\n", 1, ".", "the file is empty", True),
    (FREEFORM, FILES[FREEFORM], "- 3\n", 1, ".", "fields version, created_by, task_description, seed_examples are "
        "wanted, given a list", True),
    (FREEFORM, FILES[FREEFORM], "a: " + "[" * 3000 + "]" * 3000, 1, "a", "not YAML: nested too deeply", None),
    (KNOWLEDGE, "    - town.md", "    - city.md", 9, "document.patterns[0]", "no file matches 'city.md' in "
        "aske/", False),
    (KNOWLEDGE, "    - town.md", "    - ../town.md", 9, "document.patterns[0]", "documents lie in the leaf's folder, "
        "given '../town.md'", False),
    (KNOWLEDGE, "    - town.md", "    - facts.jsonl\n    - town.md", 9, "document.patterns[0]", "documents are "
        "Markdown files (.md) of the leaf's folder, 'facts.jsonl' gives facts.jsonl", False),
    (KNOWLEDGE, "    - town.md", "    - town.md\n    - town.md", 10, "document.patterns[1]", "given twice: 'town.md'",
        True),
    (KNOWLEDGE, "    - town.md", "    - a**\n    - town.md", 9, "document.patterns[0]", "'a**' is no pattern", False),
    (KNOWLEDGE, "  patterns:\n    - town.md\n", "  patterns: []\n", 8, "document.patterns", "0 patterns given, at "
        "least 1 are needed", True),
    (KNOWLEDGE, "  patterns:\n    - town.md\n", "  patterns: town.md\n", 8, "document.patterns", "a list of patterns "
        "is wanted, given text", True),
    (KNOWLEDGE, "document_outline: The town of Aske.\n", "", 1, "document_outline", "missing; needed are", True),
    (KNOWLEDGE, "      - question: What is 2 in 0?\n        answer: It "
        "is 2.\n", "", 13, "seed_examples[0].questions_and_answers", "2 questions with answers given, at least 3 are "
            "needed", True),
    (KNOWLEDGE, "What is 1 in 3?\n        answer: It is 1.", "What is 0 in 3?\n        answer: It is 0.", 39,
        "seed_examples[3].questions_and_answers[1]", "given twice, first in line 37", True),
    (KNOWLEDGE, "        answer: It is 1.\n      - question: What is 2 in 4?", "        answer: It is 1.\n        "
        "note: x\n      - question: What is 2 in 4?", 49, "seed_examples[4].questions_and_answers[1].note", "unknown "
            "field; allowed are question, answer", False),
]  # fmt: skip


@pytest.mark.parametrize(
    "leaf, old, new, line, field, words, public", MUTATIONS, ids=[f"{i}-{m[4]}" for i, m in enumerate(MUTATIONS)]
)
def test_mistakes_are_named_by_file_line_and_field(tmp_path, leaf, old, new, line, field, words, public):
    assert FILES[leaf].count(old) == 1
    text = FILES[leaf].replace(old, new)
    problems = tree.check(write(tmp_path, **{f"{leaf}/qna.yaml": text}))
    found = [p for p in problems if p.startswith(f"{leaf}/qna.yaml:{line} {field}: ")]
    assert len(found) == 1 and words in found[0], problems
    with pytest.raises(ValueError) as error:
        tree.load(tmp_path)
    assert str(error.value).startswith(problems[0])
    if public is not None:
        places = seen(leaf, text)
        assert bool(places) == public and (
            places in ([], ["yaml"]) or any(field.startswith(place) for place in places)
        ), places


def changes(content, path=()):
    """(what, content with one thing changed): every value in turn taken out, emptied, or of another type; a field added
    to every mapping."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        for what, new in (
            ("gone", None),
            ("number", 5),
            ("empty text", ""),
            ("empty list", []),
            ("text", "other"),
            ("null", None),
            ("list", ["a"]),
        ):
            changed = copy.deepcopy(content)
            if what == "gone":
                del changed[key]
            else:
                changed[key] = new
            yield f"{'/'.join(map(str, (*path, key)))} {what}", changed
        for what, inner in changes(value, (*path, key)):
            changed = copy.deepcopy(content)
            changed[key] = inner
            yield what, changed
    if isinstance(content, dict):
        yield f"{'/'.join(map(str, path))} more", content | {"more": "x"}


@pytest.mark.parametrize("leaf", FILES)
def test_whatever_the_published_schema_refuses_is_refused_here(tmp_path, leaf):
    """And what is refused here alone is refused for a stated reason."""
    stricter = re.compile(r"no file matches|of 5 seeds have one|questions_and_answers\[\d\]\.more: unknown field")
    content, refused, valid = yaml.safe_load(FILES[leaf]), 0, 0
    write(tmp_path)
    for what, changed in changes(content):
        if re.search(r"seed_examples/[1-3]", what):  # as good as the first and the last
            continue
        text = yaml.safe_dump(changed, sort_keys=False)
        (tmp_path / leaf / "qna.yaml").write_text(text)
        problems, places = tree.check(tmp_path), seen(leaf, text)
        if places:
            refused += 1
            assert problems, f"{what}: {places}"
        else:
            valid += 1
            assert all(stricter.search(p) for p in problems), f"{what}: {problems}"
    assert refused > 40 and valid > 5


TEXT = "  - question: What follows 3?\n    answer: Number 4.\n"
VALID = {  # what: (leaf, text, what stands in its place, the question and the answer that are read)
    "another answer": (FREEFORM, "What follows 3?", "What follows 0?", ("What follows 0?", "Number 4.")),
    "another answer of a context": (GROUNDED, "Box 3 is red", "Box 0 is red", ("Which box is red?", "Box 3.")),
    "the same pair of another context": (KNOWLEDGE, "What is 1 in 3?", "What is 1 in 2?",
        ("What is 1 in 2?", "It is 1.")),
    "a question twice about a context": (KNOWLEDGE, "What is 1 in 3?", "What is 0 in 3?",
        ("What is 0 in 3?", "It is 1.")),
    "only the space differs": (FREEFORM, TEXT, "  - question: What  follows 0?\n    answer: Number 1.\n",
        ("What  follows 0?", "Number 1.")),
    "tabs in a block": (FREEFORM, TEXT, "  - question: q\n    answer: |\n      a: b\n      \tcc -o a b\n", ("q",
        "a: b\n\tcc -o a b")),
    "a block of tabs alone": (FREEFORM, TEXT, "  - question: q\n    answer: |\n      \tx\n      \ty\n",
        ("q", "\tx\n\ty")),
    "tabs in a folded block": (FREEFORM, TEXT, "  - question: q\n    answer: >-\n      one\n      two\n      \tthree\n",
        ("q", "one two\n\tthree")),
    "tabs within quotes": (FREEFORM, TEXT, "  - question: q\n    answer: 'one\n\ttwo'\n", ("q", "one two")),
    "a tab by its escape": (FREEFORM, TEXT, '  - question: q\n    answer: "one\\ttwo"\n', ("q", "one\ttwo")),
    "indents kept": (FREEFORM, TEXT, "  - question: q\n    answer: |2\n        if x:\n          y\n", ("q",
        "  if x:\n    y")),
    "quoted keys": (FREEFORM, TEXT, """  - "question": q\n    'answer': a\n""", ("q", "a")),
    "flow style": (FREEFORM, TEXT, "  - {question: q, answer: 'a: b'}\n", ("q", "a: b")),
    "explicit keys and tags": (FREEFORM, TEXT, "  - ? question\n    : q\n    !!str answer: !!str 3\n", ("q", "3")),
    "anchors": (FREEFORM, TEXT, "  - question: &q Why?\n    answer: *q\n", ("Why?", "Why?")),
    "a merge": (FREEFORM, TEXT, "  - &m {question: q, answer: a}\n  - <<: *m\n    answer: b\n", ("q", "b")),
    "merges of several": (FREEFORM, TEXT, "  - &m {question: q, answer: a}\n  - &n {question: p, answer: b}\n  - "
        "<<: [*n, *m]\n    answer: c\n", ("p", "c")),
    "comments": (FREEFORM, TEXT, "  # why\n  - question: q  # so\n\n    # more\n    answer: '# no'\n", ("q", "# no")),
    "other scripts": (FREEFORM, TEXT, "  - question: Как дела？\n    answer: 好的 👍🏽 ﷺ\n",
        ("Как дела？", "好的 👍🏽 ﷺ")),
    "a line separator": (FREEFORM, TEXT, '  - question: q\n    answer: "a\\Lb"\n', ("q", "a\u2028b")),
    "a byte order mark": (FREEFORM, "version: 3", "\ufeffversion: 3", None),
    "a document's marks": (FREEFORM, "version: 3", "%YAML 1.1\n---\nversion: 3", None),
    "version in another base": (FREEFORM, "version: 3", "version: 0b11", None),
    "version with a point": (FREEFORM, "version: 3", "version: 3.0", None),
    "tabs in a description": (FREEFORM, "task_description: Saying what comes next.", "task_description: |\n  Lines.\n  "
        "\tMore.", None),
    "tabs in a passage": (KNOWLEDGE, "context: Passage 4 of Aske.", "context: |\n      | a\n      \t| b", None),
    "another order of fields": (FREEFORM, HEAD, "created_by: someone\nversion: 3\n", None),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("what", VALID)
def test_whatever_the_published_schema_allows_is_read(tmp_path, what, ending):
    leaf, old, new, wanted = VALID[what]
    assert FILES[leaf].count(old) == 1
    text = FILES[leaf].replace(old, new)
    assert seen(leaf, text) == [] and seen(leaf, text.replace("\n", ending).encode()) == []
    assert tree.check(write(tmp_path, **{f"{leaf}/qna.yaml": text.replace("\n", ending)})) == []
    seeds = [seed for x in tree.load(tmp_path) if x.path == leaf for seed in x.seeds]
    assert wanted is None or wanted in [(seed.question, seed.answer) for seed in seeds]


def test_dumped_by_whatever_writer_a_leaf_is_the_same(tmp_path):
    content = yaml.safe_load(FILES[FREEFORM])
    content["seed_examples"][0]["answer"] = "a:\n\tb\n\n\t\tc: 'x' \"y\" # z\n  d"
    wanted = None
    for style in (None, '"', "'", "|", ">"):
        for flow in (True, False, None):
            text = yaml.safe_dump(content, default_style=style, default_flow_style=flow, allow_unicode=True)
            text = re.sub(r"""!!int ["'](\d+)["']""", r"\1", text)
            leaves = tree.load(write(tmp_path, **{f"{FREEFORM}/qna.yaml": text}))
            seeds = [seed[:3] for leaf in leaves if leaf.path == FREEFORM for seed in leaf.seeds]
            wanted = wanted or seeds
            assert seeds == wanted and seeds[0][1] == content["seed_examples"][0]["answer"]


@pytest.mark.parametrize(
    "files, problem",
    [
        ({"knowledge/qna.yaml": "x: 1"}, "knowledge/qna.yaml:1 path: a leaf lies in a folder below knowledge, "
            "foundational_skills, "
            "compositional_skills, given 'knowledge'"),
        ({"tricks/juggling/qna.yaml": "x: 1"}, "tricks/juggling/qna.yaml:1 path: a leaf lies in a folder below"),
        ({f"{KNOWLEDGE}/town.md": ""}, f"{KNOWLEDGE}/qna.yaml:9 document.patterns[0]: town.md is empty"),
        ({f"{KNOWLEDGE}/town.md": b"caf\xe9"}, f"{KNOWLEDGE}/qna.yaml:9 document.patterns[0]: town.md is not "
            "UTF-8 text"),
        ({f"{FREEFORM}/qna.yaml": b"version: 3\ncreated_by: \xe9"}, f"{FREEFORM}/qna.yaml:2 .: not UTF-8 text "
            "(byte 23)"),
        ({f"{FREEFORM}/qna.yaml": "version: 3\n\nx: \x07"}, f"{FREEFORM}/qna.yaml:3 x: not YAML: special characters "
            "are not allowed"),
        ({f"{FREEFORM}2/qna.yml": "x: 1"}, f"{FREEFORM}2/qna.yml:1 name: a leaf's file is named qna.yaml"),
        ({f"{KNOWLEDGE}/facts.jsonl": "\n{"}, f"{KNOWLEDGE}/facts.jsonl:2 .: not JSON: "),
        ({f"{KNOWLEDGE}/facts.jsonl": '{"question": "x"}'}, f"{KNOWLEDGE}/facts.jsonl:1 .: fields question, answer, "
            "distractors are wanted, given question"),
        ({f"{KNOWLEDGE}/facts.jsonl": json.dumps(FACT | {"distractors": ["red", "blue"]})},
            f"{KNOWLEDGE}/facts.jsonl:1 distractors: a question, an answer and a list of 3 distractors are wanted"),
        ({f"{KNOWLEDGE}/facts.jsonl": json.dumps(FACT | {"distractors": ["red", "blue", "Green"]})},
            f"{KNOWLEDGE}/facts.jsonl:1 distractors: the options are not different: green, red, blue, Green"),
        ({f"{KNOWLEDGE}/facts.jsonl": json.dumps(FACT | {"answer": "grey"})}, f"{KNOWLEDGE}/facts.jsonl:1 answer: "
            "'grey' stands in none of the leaf's documents"),
        ({f"{KNOWLEDGE}/facts.jsonl": json.dumps(FACT | {"question": "What is 1 in 3?"})},
            f"{KNOWLEDGE}/facts.jsonl:1 question: asked before, by a seed or another fact: 'What is 1 in 3?'"),
        ({f"{KNOWLEDGE}/facts.jsonl": json.dumps(FACT | {"question": None})}, f"{KNOWLEDGE}/facts.jsonl:1 question: "
            "text is wanted, given null"),
        ({f"{KNOWLEDGE}/facts.jsonl": json.dumps(FACT | {"answer": 5})}, f"{KNOWLEDGE}/facts.jsonl:1 answer: text is "
            "wanted, given 5"),
        ({f"{KNOWLEDGE}/facts.jsonl": json.dumps(FACT) + "\nnull\n"}, f"{KNOWLEDGE}/facts.jsonl:2 .: fields question, "
            "answer, distractors are wanted, given null"),
        ({f"{KNOWLEDGE}/facts.jsonl": (json.dumps(FACT) + "\n") * 2}, f"{KNOWLEDGE}/facts.jsonl:2 question: asked "
            "before"),
    ],
)  # fmt: skip
def test_mistakes_in_other_files(tmp_path, files, problem):
    problems = tree.check(write(tmp_path, **files))
    assert len(problems) == 1 and problems[0].startswith(problem), problems


def test_a_link_out_of_the_leaf_is_no_document(tmp_path):
    write(tmp_path, **{f"{KNOWLEDGE}/town.md": None, "elsewhere.md": DOCUMENT})
    (tmp_path / KNOWLEDGE / "town.md").symlink_to(tmp_path / "elsewhere.md")
    assert tree.check(tmp_path) == [
        f"{KNOWLEDGE}/qna.yaml:9 document.patterns[0]: documents are Markdown files (.md) of the leaf's folder, "
        "'town.md' gives town.md"
    ]


def test_all_problems_are_said_and_hidden_folders_are_not_read(tmp_path):
    write(
        tmp_path,
        **{
            f"{FREEFORM}/qna.yaml": FILES[FREEFORM]
            .replace("version: 3", "version: 1")
            .replace("Number 2.", "2")
            .replace("Number 5.", "''"),
            ".git/x/qna.yaml": "x",
        },
    )
    problems = tree.check(tmp_path)
    assert [p.split(" ")[0].rpartition(":")[2] for p in problems] == ["1", "8", "14"]
    with pytest.raises(
        ValueError, match=r"qna.yaml:1 version: .* \(and 2 more: plumbline taxonomy check lists them\)$"
    ):
        tree.load(tmp_path)
    for read in (tree.load, tree.check):
        with pytest.raises(
            FileNotFoundError,
            match="no qna.yaml below .*; a taxonomy is a folder with some of knowledge, foundational_skills, "
            "compositional_skills",
        ):
            read(tmp_path / "elsewhere")


def test_facts_and_documents_may_begin_with_a_byte_order_mark(tmp_path):
    row = json.dumps(FACT | {"question": "one\u2028two\u0085?"}, ensure_ascii=False)
    facts = {f"{KNOWLEDGE}/facts.jsonl": b"\xef\xbb\xbf" + row.encode()}
    write(tmp_path, **facts, **{f"{KNOWLEDGE}/town.md": b"\xef\xbb\xbf" + DOCUMENT.replace("\n", "\r\n").encode()})
    assert tree.check(tmp_path) == []
    leaf = tree.load(tmp_path)[-1]
    assert leaf.facts[0].question == "one\u2028two\u0085?" and leaf.documents[0].text == DOCUMENT.strip()


def test_an_answer_stands_in_a_document_however_its_accents_are_written(tmp_path):
    fact = json.dumps(FACT | {"answer": "Tha\u0308ler"})
    write(tmp_path, **{f"{KNOWLEDGE}/town.md": "Es kostet f\u00fcnf Th\u00e4ler.", f"{KNOWLEDGE}/facts.jsonl": fact})
    assert tree.check(tmp_path) == []


def test_environments_and_loops_are_not_read(tmp_path):
    write(tmp_path / "tree")
    for folder in (".venv/lib", "node_modules/x", "env/lib", "compositional_skills/x/.git"):
        write(tmp_path / "tree" / folder, **{f"{FREEFORM}/qna.yaml": "x"})
    (tmp_path / "tree/env/pyvenv.cfg").write_text("")
    (tmp_path / "tree/compositional_skills/loop").symlink_to("..")
    (tmp_path / "tree/compositional_skills/above").symlink_to(tmp_path)
    (tmp_path / "tree/compositional_skills/again").symlink_to(tmp_path / "tree" / FREEFORM)
    (tmp_path / "tree/compositional_skills/gone").symlink_to("nowhere")
    (tmp_path / "tree/compositional_skills/broken").mkdir()
    assert tree.check(tmp_path / "tree") == [] and len(tree.load(tmp_path / "tree")) == 3
    (tmp_path / "link").symlink_to("tree")
    assert [x.path for x in tree.load(tmp_path / "link")] == [x.path for x in tree.load(tmp_path / "tree")]
    write(tmp_path / "other")
    (tmp_path / "other" / FREEFORM / "back").symlink_to(tmp_path / "other")
    (tmp_path / "tree/compositional_skills/linked").symlink_to(tmp_path / "other/compositional_skills")
    assert [x.path for x in tree.load(tmp_path / "tree")][:4] == [
        FREEFORM, GROUNDED, "compositional_skills/linked/counting", "compositional_skills/linked/grounded/reading",
    ]  # fmt: skip
    (tmp_path / "tree/compositional_skills/broken/qna.yaml").symlink_to("nowhere")
    assert tree.check(tmp_path / "tree") == [
        "compositional_skills/broken/qna.yaml:1 .: cannot be read: No such file or directory"
    ]


def test_a_folder_that_is_no_taxonomy_is_refused_in_one_sentence(tmp_path):
    write(tmp_path / "a" / "b")
    for read in (tree.load, tree.check):
        with pytest.raises(
            ValueError, match="a is no taxonomy: it holds none of the folders knowledge, foundational_s"
        ):
            read(tmp_path / "a")
        with pytest.raises(ValueError, match=r"none of the folders .*; did you mean .*/a/b\?$"):
            read(tmp_path / "a" / "b" / "knowledge")
        (tmp_path / "empty" / "knowledge").mkdir(parents=True, exist_ok=True)
        with pytest.raises(FileNotFoundError, match="no qna.yaml below .*empty; a taxonomy is a folder with some of"):
            read(tmp_path / "empty")


def test_a_seed_that_fails_its_leafs_checker_is_a_problem(tmp_path):
    leaf = "foundational_skills/arithmetic/addition"
    text = (OURS / leaf / "qna.yaml").read_text(encoding="utf-8")
    first = tree.load(OURS)[[x.path for x in tree.load(OURS)].index(leaf)].seeds[0]
    assert first.answer == "42"
    write(tmp_path, **{f"{leaf}/qna.yaml": text.replace("'42'", "'43'", 1)})
    assert tree.check(tmp_path) == [
        f"{leaf}/qna.yaml:{first.line} seed_examples[0].answer: does not pass the leaf's checker 'sum', given '43'"
    ]


def test_the_tree_is_drawn_with_its_counts(tmp_path):
    assert tree.outline(tree.load(write(tmp_path))) == (
        "knowledge/             1 leaf\n"
        "  towns/               1 leaf\n"
        "    aske               knowledge, 15 seeds, 1 document of 15 words, 1 fact\n"
        "compositional_skills/  2 leaves\n"
        "  counting             freeform, 5 seeds\n"
        "  grounded/            1 leaf\n"
        "    reading            grounded, 5 seeds"
    )
    assert tree.outline([]) == ""
    ours = tree.outline(tree.load(OURS))
    assert "language/                 3 leaves" in ours and re.search(
        r"\n    addition +foundational, 40 seeds, checker sum\n", ours
    )


def test_the_command(tmp_path):
    run = lambda *a: CliRunner().invoke(cli.app, ["taxonomy", "check", *a])  # noqa: E731
    good = run()
    assert good.exit_code == 0 and good.output.endswith("22 leaves in form\n") and good.output.startswith("knowledge/ ")
    bad = run(
        str(
            write(
                tmp_path,
                **{
                    f"{FREEFORM}/qna.yaml": FILES[FREEFORM]
                    .replace("version: 3", "version: 2")
                    .replace("Number 5.", "''")
                },
            )
        )
    )
    assert (
        bad.exit_code == 1
        and len(bad.output.splitlines()) == 2
        and bad.output.startswith(f"{FREEFORM}/qna.yaml:1 version: ")
    )
    none = run(str(tmp_path / "elsewhere"))
    assert (
        none.exit_code == 2
        and none.output.startswith("plumbline: no qna.yaml below ")
        and "Traceback" not in none.output
    )
    alien = run(str(tmp_path / "compositional_skills"))
    assert alien.exit_code == 2 and alien.output.startswith("plumbline: ") and len(alien.output.splitlines()) == 1


def test_the_command_shows_twenty_problems(tmp_path):
    for i in range(30):
        write(tmp_path, **{f"compositional_skills/odd/{i:02}/qna.yaml": "- x"})
    shown = CliRunner().invoke(cli.app, ["taxonomy", "check", str(tmp_path)])
    lines = shown.output.splitlines()
    assert shown.exit_code == 1 and len(lines) == 21 and lines[-1] == "... and 10 more"
    assert lines[19].startswith("compositional_skills/odd/19/qna.yaml:1 .: ")
