"""Reads and validates a taxonomy: a tree of the public qna.yaml files (InstructLab schema, version 3) with their
documents and held-out facts.

A folder with a qna.yaml is a leaf. Two things differ from the public form, and keep its files valid: the patterns of
`document` are looked up in the leaf's own folder (repo and commit are read, not fetched), and a facts.jsonl beside a
knowledge leaf holds its held-out questions.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from lib.taxonomy import checkers
from lib.taxonomy.json_lines import rows
from lib.taxonomy.yaml_lines import File, compose, line_of

VERSION, LEAST_SEEDS, LEAST_PAIRS, DISTRACTORS = 3, 5, 3, 3
BRANCHES = ("knowledge", "foundational_skills", "compositional_skills")
SKILL = ("version", "created_by", "task_description", "seed_examples")
KNOWLEDGE = ("version", "created_by", "domain", "seed_examples", "document", "document_outline")
FACT = ("question", "answer", "distractors")
NOT_READ = ("node_modules", "site-packages", "__pycache__")  # besides hidden folders and Python environments


class Seed(NamedTuple):
    """A hand-written question with its answer; in grounded skills with the context it is about, in knowledge with the
    passage that answers it."""

    question: str
    answer: str
    context: str
    line: int  # of the qna.yaml


class Document(NamedTuple):
    name: str
    text: str


class Fact(NamedTuple):
    """A held-out question about a document, with its answer and three wrong ones."""

    question: str
    answer: str
    distractors: tuple[str, ...]


class Leaf(NamedTuple):
    """A task. Knowledge has documents, and may have facts; skills may have a checker, a name of `taxonomy_checks`."""

    path: str  # folder below the root, with slashes
    kind: str  # knowledge, foundational, freeform or grounded
    task: str  # task_description, or a knowledge leaf's domain
    seeds: tuple[Seed, ...]
    documents: tuple[Document, ...] = ()
    outline: str = ""
    facts: tuple[Fact, ...] = ()
    checker: str | None = None


def load(root: Path | str) -> list[Leaf]:
    """The leaves of the tree, by path. FileNotFoundError where there is none; ValueError for a folder that is no
    taxonomy, or with the first problem and the number of others."""
    leaves, problems = _all(Path(root))
    if problems:
        raise ValueError(
            problems[0]
            + (f" (and {len(problems) - 1} more: plumbline taxonomy check lists them)" if problems[1:] else "")
        )
    return leaves


def check(root: Path | str) -> list[str]:
    """Every problem of the tree, one sentence each: "file:line field: what was given and what is allowed".
    FileNotFoundError where there is no leaf, ValueError for a folder that is no taxonomy."""
    return _all(Path(root))[1]


def outline(leaves: Sequence[Leaf]) -> str:
    """The tree as indented lines: folders with the number of leaves below, leaves with kind and counts of seeds,
    documents and facts."""
    below = Counter("/".join(leaf.path.split("/")[:n]) for leaf in leaves for n in range(1, leaf.path.count("/") + 1))
    rows, seen = [], set()
    for leaf in sorted(leaves, key=lambda leaf: (BRANCHES.index(leaf.path.split("/")[0]), leaf.path)):
        parts = leaf.path.split("/")
        for n in range(1, len(parts)):
            folder = "/".join(parts[:n])
            if folder not in seen:
                seen.add(folder)
                rows.append((f"{'  ' * (n - 1)}{parts[n - 1]}/", _count(below[folder], "leaf")))
        counts = [_count(len(leaf.seeds), "seed")]
        counts += (
            [
                _count(len(leaf.documents), "document")
                + f" of {_count(sum(len(d.text.split()) for d in leaf.documents), 'word')}"
            ]
            if leaf.documents
            else []
        )
        counts += [_count(len(leaf.facts), "fact")] if leaf.facts else []
        rows.append(
            (
                f"{'  ' * (len(parts) - 1)}{parts[-1]}",
                ", ".join([leaf.kind, *counts, *([f"checker {leaf.checker}"] if leaf.checker else [])]),
            )
        )
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:{width}}  {what}" for name, what in rows)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun if n == 1 else 'leaves' if noun == 'leaf' else noun + 's'}"


def _all(root: Path) -> tuple[list[Leaf], list[str]]:
    """The leaves that are in form, and the problems of the others."""
    if root.is_dir() and not any((root / name).is_dir() for name in BRANCHES):
        above = next((p.parent for p in (root.resolve(), *root.resolve().parents) if p.name in BRANCHES), None)
        raise ValueError(
            f"{root} is no taxonomy: it holds none of the folders {', '.join(BRANCHES)}"
            + (f"; did you mean {above}?" if above else "")
        )
    found = sorted(_files(root, ("qna.yaml", "qna.yml")))
    read = [_read(root, path) for path in found if path.suffix == ".yaml"]
    if not read:
        raise FileNotFoundError(f"no qna.yaml below {root}; a taxonomy is a folder with some of {', '.join(BRANCHES)}")
    others = (path.relative_to(root).as_posix() for path in found if path.suffix != ".yaml")
    misnamed = [f"{path}:1 name: a leaf's file is named qna.yaml" for path in others]
    return [leaf for leaf, _ in read if leaf], [p for _, found in read for p in found] + misnamed


def _files(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """The files of these names below root. A link to a folder elsewhere is followed once; one to a folder above it, or
    above or below root, is not: there it would go round, or read a leaf twice."""
    real, linked = root.resolve(), set()

    def enter(folder: Path) -> bool:
        if folder.name.startswith(".") or folder.name in NOT_READ or (folder / "pyvenv.cfg").is_file():
            return False
        if not folder.is_symlink():
            return True
        target = folder.resolve()
        known = target in linked or target.is_relative_to(real)
        linked.add(target)
        return not (known or real.is_relative_to(target) or folder.parent.resolve().is_relative_to(target))

    for at, folders, files in os.walk(root, followlinks=True):
        folders[:] = [folder for folder in folders if enter(Path(at, folder))]
        yield from (Path(at, name) for name in names if name in files)


def _flat(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


def _read(root: Path, path: Path) -> tuple[Leaf | None, list[str]]:
    """A leaf, or None and what is wrong with it."""
    file, where = File(path.relative_to(root).as_posix()), path.parent.relative_to(root)
    if len(where.parts) < 2 or where.parts[0] not in BRANCHES:
        file.no(1, "path", f"a leaf lies in a folder below {', '.join(BRANCHES)}, given {where.as_posix()!r}")
        return None, file.sentences()
    top, knowledge = compose(file, path), where.parts[0] == "knowledge"
    if top is None:
        return None, file.sentences()
    known = KNOWLEDGE if knowledge else SKILL
    fields = file.fields(top, "", known, known)
    file.whole(fields.get("version"), "version", VERSION)
    file.text(fields.get("created_by"), "created_by")
    task = file.text(fields.get(known[2]), known[2])
    nodes = file.items(fields.get("seed_examples"), "seed_examples", LEAST_SEEDS, "seed examples")
    leaf = Leaf(
        where.as_posix(), "knowledge", task, tuple(_passages(file, nodes) if knowledge else _seeds(file, nodes))
    )
    if knowledge:
        outline = file.text(fields.get("document_outline"), "document_outline")
        leaf = leaf._replace(
            documents=_documents(file, path.parent, fields["document"]) if "document" in fields else (), outline=outline
        )
        facts, of_facts = _facts(root, path.parent / "facts.jsonl", leaf)
        leaf = leaf._replace(facts=facts)
    else:
        kind = (
            "foundational"
            if where.parts[0] == "foundational_skills"
            else "grounded"
            if any(s.context for s in leaf.seeds)
            else "freeform"
        )
        leaf, of_facts = leaf._replace(kind=kind, checker=checkers.LEAVES.get(leaf.path)), []
    if leaf.checker:
        for i, seed in enumerate(leaf.seeds):
            if (
                seed.question
                and seed.answer
                and not checkers.passes(leaf.checker, seed.question, seed.context, seed.answer)
            ):
                file.no(
                    seed.line,
                    f"seed_examples[{i}].answer",
                    f"does not pass the leaf's checker {leaf.checker!r}, given {seed.answer!r}",
                )
    problems = file.sentences() + of_facts
    return (None if problems else leaf), problems


def _seeds(file: File, nodes: list[yaml.Node]) -> list[Seed]:
    """A skill's seeds: all with a context, or none."""
    seeds, has = [], []
    for i, node in enumerate(nodes):
        name = f"seed_examples[{i}]"
        fields = file.fields(node, name, ("question", "answer", "context"), ("question", "answer"))
        question, answer, context = (file.text(fields.get(k), f"{name}.{k}") for k in ("question", "answer", "context"))
        seeds.append(Seed(question, answer, context, line_of(node)))
        has.append("context" in fields)
    if len(set(has)) > 1:
        odd = 2 * sum(has) < len(has)  # the smaller part is named; of two equal ones, the seeds without
        for i in (i for i, h in enumerate(has) if h == odd):
            file.no(
                seeds[i].line,
                f"seed_examples[{i}].context",
                f"{'given' if odd else 'missing'}, and {sum(has)} of {len(has)} seeds have one: a leaf is "
                "grounded in all its seeds or in none",
            )
    return seeds


def _passages(file: File, nodes: list[yaml.Node]) -> list[Seed]:
    """A knowledge leaf's questions, each with the passage that answers it."""
    seeds = []
    for i, node in enumerate(nodes):
        name = f"seed_examples[{i}]"
        fields = file.fields(node, name, ("context", "questions_and_answers"), ("context", "questions_and_answers"))
        context = file.text(fields.get("context"), f"{name}.context")
        for j, pair in enumerate(
            file.items(
                fields.get("questions_and_answers"),
                f"{name}.questions_and_answers",
                LEAST_PAIRS,
                "questions with answers",
            )
        ):
            place = f"{name}.questions_and_answers[{j}]"
            both = file.fields(pair, place, ("question", "answer"), ("question", "answer"))
            question, answer = (file.text(both.get(k), f"{place}.{k}") for k in ("question", "answer"))
            seeds.append(Seed(question, answer, context, line_of(pair)))
    return seeds


def _documents(file: File, folder: Path, node: yaml.Node) -> tuple[Document, ...]:
    """The Markdown files that the patterns name, each once, in the patterns' order."""
    names = ("repo", "commit", "patterns")
    fields, found = file.fields(node, "document", names, names), {}
    for name in names[:2]:
        file.text(fields.get(name), f"document.{name}")
    for i, item in enumerate(file.items(fields.get("patterns"), "document.patterns", 1, "patterns")):
        pattern, field = file.text(item, f"document.patterns[{i}]"), f"document.patterns[{i}]"
        if not pattern:
            continue
        if pattern.startswith("/") or ".." in pattern.split("/"):
            file.no(line_of(item), field, f"documents lie in the leaf's folder, given {pattern!r}")
            continue
        try:
            paths = sorted(p for p in folder.glob(pattern) if p.is_file())
        except ValueError as error:
            file.no(line_of(item), field, f"{pattern!r} is no pattern: {error}")
            continue
        if not paths:
            file.no(line_of(item), field, f"no file matches {pattern!r} in {folder.name}/")
        for path in paths:
            if path.suffix != ".md" or not path.resolve().is_relative_to(folder.resolve()):
                file.no(
                    line_of(item),
                    field,
                    f"documents are Markdown files (.md) of the leaf's folder, {pattern!r} gives {path.name}",
                )
                continue
            try:
                text = path.read_text(encoding="utf-8-sig").strip()
            except (UnicodeDecodeError, OSError) as error:
                why = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"not readable: {error.strerror}"
                file.no(line_of(item), field, f"{path.name} is {why}")
                continue
            if text:
                found[path.relative_to(folder).as_posix()] = text
            else:
                file.no(line_of(item), field, f"{path.name} is empty")
    return tuple(Document(name, text) for name, text in found.items())


def _facts(root: Path, path: Path, leaf: Leaf) -> tuple[tuple[Fact, ...], list[str]]:
    """Held-out questions of a knowledge leaf, if it has some, and what is wrong with them."""
    if not path.is_file():
        return (), []
    file, facts = File(path.relative_to(root).as_posix()), []
    texts, asked = _flat("\n".join(d.text for d in leaf.documents)), {_flat(s.question) for s in leaf.seeds}
    for n, row in rows(file, path, FACT):
        question, answer, distractors = row.values()
        is_text = lambda value: isinstance(value, str) and value.strip()  # noqa: E731
        bad = next((k for k in ("question", "answer") if not is_text(row[k])), None)
        if bad:
            file.no(n, bad, f"text is wanted, given {json.dumps(row[bad])}")
            continue
        if not isinstance(distractors, list) or len(distractors) != DISTRACTORS or not all(map(is_text, distractors)):
            file.no(
                n,
                "distractors",
                f"a question, an answer and a list of {DISTRACTORS} distractors are wanted, each of them text, "
                f"given {json.dumps(distractors, ensure_ascii=False)}",
            )
            continue
        options = [answer, *distractors]
        if len({_flat(o) for o in options}) < len(options):
            file.no(n, "distractors", f"the options are not different: {', '.join(options)}")
        if texts and _flat(answer) not in texts:
            file.no(n, "answer", f"{answer!r} stands in none of the leaf's documents")
        if _flat(question) in asked:
            file.no(n, "question", f"asked before, by a seed or another fact: {question!r}")
        asked.add(_flat(question))
        facts.append(Fact(question, answer, tuple(distractors)))
    return tuple(facts), file.sentences()
