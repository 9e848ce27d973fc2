"""From a taxonomy to rows of data: LAB's pipelines, and a runner that can be stopped anywhere and goes on from what was
paid for."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib.harness.progress import announce, track
from lib.synthesis.blocks import FATES, Block, Chunk, Dedup, Filter, Generate, Unique
from lib.synthesis.judges import Judge
from lib.synthesis.requests import Reply
from lib.synthesis.samplers import Prompt, Sampler, leaf_local
from lib.synthesis.teachers import Teacher
from lib.taxonomy.tree import Leaf

PATIENCE = 3  # times in a row that a teacher or judge may raise before the run stops


class Result(NamedTuple):
    """Rows kept; rows dropped, with `dropped` (block: reason) and `fate`; a dict of counts a block; a sentence for each
    leaf that got no answers; the prompts that the rows came from, by (leaf, call)."""

    rows: list[dict]
    dropped: list[dict]
    counts: list[dict]
    failures: list[str]
    prompts: dict[tuple[str, int], Prompt] = {}


class Journal:
    """Texts and scores that were paid for, one JSON-lines file a leaf: a run that is repeated with the same folder asks
    for the rest only.

    They are kept by what was asked of whom, so whatever else has changed, an answer is never taken for that to another
    request. None: kept in memory.
    """

    def __init__(self, folder: Path | None):
        self.folder, self.known, self.read = folder, {}, set()
        self.raised, self.empty, self.in_a_row = Counter(), Counter(), Counter()

    def _load(self, leaf: str) -> Path | None:
        path = self.folder and self.folder / (re.sub(r"\W+", "__", leaf) + ".jsonl")
        if path and leaf not in self.read and path.exists():
            whole, _, torn = path.read_bytes().rpartition(b"\n")
            if torn:  # killed while it wrote this line
                path.write_bytes(whole + b"\n" if whole else b"")
            for n, line in enumerate(whole.decode("utf-8").splitlines() if whole else (), 1):
                try:
                    kept = json.loads(line)
                    self.known[kept["key"]] = Reply(kept["text"], kept["truth"]) if "text" in kept else kept["score"]
                except (ValueError, KeyError, TypeError):
                    raise ValueError(
                        f"{path.name}:{n} is no line of a journal; remove it, and its request is asked again"
                    ) from None
        self.read.add(leaf)
        return path

    def ask(self, who: str, what: Sequence, leaves: Sequence[str], call: Callable) -> tuple[list, str]:
        """(call(what) as far as it is not known, None where nothing came; why nothing did). Stops with RuntimeError
        after PATIENCE raises in a row, at once where nobody is there (ConnectionError: the client has tried again)."""
        paths = {leaf: self._load(leaf) for leaf in dict.fromkeys(leaves)}
        keys = [hashlib.sha256(f"{who} {json.dumps(w, ensure_ascii=False)}".encode()).hexdigest()[:24] for w in what]
        left, reason = [i for i, key in enumerate(keys) if key not in self.known], f"the {who} returned nothing"
        if not left:
            return [self.known[key] for key in keys], reason
        got = 0
        try:
            given = call([what[i] for i in left])
            if hasattr(given, "__len__") and len(given) != len(left):
                raise ValueError(f"{len(given)} answers to {len(left)} requests")
            for answer in given:  # kept one by one, as they come
                leaf = leaves[left[got]]
                if answer is None:  # asked again by the next run
                    self.empty[leaf] += 1
                else:
                    self._keep(paths[leaf], keys[left[got]], answer)
                got += 1
            if got < len(left):
                raise ValueError(f"{got} answers to {len(left)} requests")
            self.in_a_row[who] = 0
        except Exception as error:
            leaf = leaves[left[min(got, len(left) - 1)]]
            reason = f"the {who} raised {type(error).__name__}: {error}"
            self.raised[leaf] += 1
            self.in_a_row[who] += 1
            if self.in_a_row[who] >= PATIENCE or isinstance(error, ConnectionError):
                kept = "nothing is kept without a journal"
                if self.folder:
                    kept = f"what it gave before is kept in {self.folder}: run again to go on from there"
                n = self.raised[leaf]
                raise RuntimeError(
                    f"{reason} ({leaf}: {n} time{'s' * (n != 1)}, {self.in_a_row[who]} in a row); {kept}"
                ) from error
        return [self.known.get(key) for key in keys], reason

    def _keep(self, path: Path | None, key: str, answer: str | float) -> None:
        self.known[key] = answer
        if path:
            if isinstance(answer, str):
                kept: dict[str, Any] = {"text": str(answer), "truth": list(getattr(answer, "truth", ()))}
            else:
                kept = {"score": float(answer)}
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, **kept}, ensure_ascii=False) + "\n")

    def failures(self) -> list[str]:
        """A sentence a leaf that got nothing for some requests."""
        out = []
        for leaf in sorted({*self.raised, *self.empty}):
            counts = {"raised": self.raised[leaf], "returned nothing": self.empty[leaf]}
            times = [f"{what} {n} time{'s' * (n != 1)}" for what, n in counts.items() if n]
            out.append(f"{leaf}: {' and '.join(times)}")
        return out


def run(
    sampler: Sampler,
    blocks: Sequence[Block],
    *,
    journal: Path | None,
    desc: str,
    seen: Dedup | None = None,
    batch: int = 1,
) -> Result:
    """Every call's prompt through all blocks, `batch` calls at a time.

    journal: folder of what the teacher and the judges said. A run that was killed, or whose teacher failed, is repeated
    with the same folder: it asks for what is missing and ends with the rows of a run that nothing had stopped. seen:
    shared between runs, what is a duplicate across them. ValueError for blocks of one name; RuntimeError where a
    teacher or judge raises PATIENCE times in a row or is not there (ConnectionError).
    """
    names = [block.name for block in blocks]
    if len(set(names)) < len(names) or not names or batch < 1:
        raise ValueError(
            "blocks have names of their own, and a batch holds at least 1 call, given "
            f"{', '.join(names) or 'no block'} and {batch}"
        )
    kept, dropped, drawn, book, seen = [], [], {}, Journal(journal), Dedup() if seen is None else seen
    counts: list[dict[str, Any]] = [{"block": name, "rows": 0, "in": 0, **dict.fromkeys(FATES, 0)} for name in names]
    starts = range(0, sampler.calls, batch)
    for start in track(starts, desc):
        prompts = [sampler.draw(call, kept) for call in range(start, min(start + batch, sampler.calls))]
        drawn |= {(p.leaf, p.call): p for p in prompts}
        rows = [
            {"id": f"{p.leaf}#{p.call}", "leaf": p.leaf, "call": p.call, "task": p.task, "examples": p.examples}
            for p in prompts
        ]
        for block, count in zip(blocks, counts):
            outcomes = block.apply(rows, book.ask, seen)
            items = block.items(len(rows))
            if items is not None and items != len(outcomes):
                raise ValueError(
                    f"block {block.name!r} was to give {items} items and told what became of {len(outcomes)}"
                )
            count["rows"] += len(rows)
            count["in"] += len(outcomes) if items is None else items
            for outcome in outcomes:
                count[outcome.fate] += 1
            dropped += [
                _plain(o.row) | {"dropped": f"{block.name}: {o.reason}", "fate": o.fate}
                for o in outcomes
                if o.fate != "out"
            ]
            rows = [o.row for o in outcomes if o.fate == "out"]
        kept += [_plain(row) for row in rows]
        if len(starts) >= 40 and (starts.index(start) + 1) % (len(starts) // 4) == 0:
            announce(f"{desc}: {summary(counts)}")
    failures = book.failures()
    for sentence in [summary(counts), *failures]:
        announce(f"{desc}: {sentence}")
    return Result(kept, dropped, counts, failures, drawn)


def _plain(row: dict) -> dict:
    """The row without its prompt's examples."""
    return {k: v for k, v in row.items() if k not in ("examples", "task")}


def shown_context(row: dict) -> str:
    """What a question is asked with: its context; knowledge is asked without its document."""
    return "" if row["leaf"].startswith("knowledge") else row.get("context", "")


def messages(row: dict, system: str = "") -> list[dict[str, str]]:
    """A kept row as a student is taught it: the system's message where there is one, the question, the answer."""
    context = shown_context(row)
    asked = f"{context}\n\n{row['question']}" if context else row["question"]
    turns = [("system", system)] * bool(system) + [("user", asked), ("assistant", row["answer"])]
    return [{"role": role, "content": content} for role, content in turns]


def summary(counts: Sequence[dict]) -> str:
    """One line: what each block gave of what it was to give."""
    return ", ".join(
        f"{c['block']} {c['out']}/{c['in']}" + f" ({c['failed']} failed)" * bool(c["failed"]) for c in counts
    )


def _filters(judges: Mapping[str, Judge], stage: str) -> list[Block]:
    return [Filter(f"{stage} judge", judges[stage])] if stage in judges else []


def _known(judges: Mapping[str, Judge], stages: Sequence[str], **numbers: int) -> None:
    odd = next((stage for stage in judges if stage not in stages), None)
    if odd or min(numbers.values()) < 1:
        raise ValueError(
            f"judges are of {' or '.join(stages)}, and {', '.join(numbers)} at least 1, given "
            f"{odd or ', '.join(judges) or 'none'} and {numbers}"
        )


def skills(teacher: Teacher, judges: Mapping[str, Judge], *, questions: int) -> list[Block]:
    """The paper's four stages: questions, their judge ("question"), answers, the judge of pairs ("pair"); a stage
    without a judge keeps all."""
    _known(judges, ("question", "pair"), questions=questions)
    made: list[Block] = [Generate("questions", teacher, "questions", questions), Unique("unique questions")]
    return [*made, *_filters(judges, "question"), Generate("answers", teacher, "answer"), *_filters(judges, "pair")]


def grounded(teacher: Teacher, judges: Mapping[str, Judge], *, contexts: int, questions: int) -> list[Block]:
    """`skills` with contexts first, and `questions` about each of them."""
    _known(judges, ("question", "pair"), contexts=contexts, questions=questions)
    return [
        Generate("contexts", teacher, "contexts", contexts),
        Unique("unique contexts", ("context",)),
        *skills(teacher, judges, questions=questions),
    ]


def knowledge(
    teacher: Teacher, judges: Mapping[str, Judge], leaves: Sequence[Leaf], *, words: int, pairs: int
) -> list[Block]:
    """Documents in chunks, `pairs` questions with answers a chunk, and the judges "question" and "faithful". ValueError
    for a leaf without documents."""
    _known(judges, ("question", "faithful"), words=words, pairs=pairs)
    without = next((leaf.path for leaf in leaves if not leaf.documents), None)
    if without:
        raise ValueError(f"knowledge is made from documents, and {without} has none")
    documents = {leaf.path: tuple(d.text for d in leaf.documents) for leaf in leaves}
    made: list[Block] = [
        Chunk("chunks", documents, words),
        Generate("pairs", teacher, "pairs", pairs),
        Unique("unique questions", ("question",)),
    ]
    return [*made, *_filters(judges, "question"), *_filters(judges, "faithful")]


def seeded(leaves: Sequence[Leaf], threshold: float = 0.9) -> Dedup:
    """What a run has seen before it begins: the seeds, so that a copied seed is a duplicate."""
    seen = Dedup(threshold)
    for leaf in leaves:
        for seed in leaf.seeds:
            seen.add(
                "unique questions",
                seed.question if leaf.kind == "knowledge" else f"{seed.context}\n{seed.question}",
                f"a seed of {leaf.path}",
            )
            if leaf.kind == "grounded":
                seen.add("unique contexts", seed.context, f"a seed of {leaf.path}")
    return seen


class Amounts(NamedTuple):
    """How much a whole tree gives: `calls` prompts a leaf of `size` seeds, `questions` a prompt or a context,
    `contexts` a prompt; chunks of `words` words, `pairs` questions with answers a chunk."""

    calls: int
    size: int
    questions: int
    contexts: int
    words: int
    pairs: int


def synthesise(
    leaves: Sequence[Leaf],
    teacher: Teacher,
    judges: Mapping[str, Judge],
    amounts: Amounts,
    *,
    seed: int,
    journal: Path | None,
    threshold: float = 0.9,
    batch: int = 1,
    seen: Dedup | None = None,
) -> dict[str, Result]:
    """The whole tree, leaves in turn; each call of a knowledge leaf goes through all its chunks. batch: see `run`, the
    rows are the same.

    Results by "skills" (foundational ones too), "grounded", "knowledge", where the tree has them; duplicates are told
    across all three and the seeds, and across calls of this function that share `seen` (of `seeded`).
    """
    _known(judges, ("question", "pair", "faithful"), calls=amounts.calls)
    seen, a = seeded(leaves, threshold) if seen is None else seen, amounts
    told = {stage: judge for stage, judge in judges.items() if stage in ("question", "pair")}
    faithful = {stage: judge for stage, judge in judges.items() if stage in ("question", "faithful")}
    of = {kind: [leaf for leaf in leaves if leaf.kind == kind] for kind in ("grounded", "knowledge")}
    alone = [leaf for leaf in leaves if leaf.kind in ("foundational", "freeform")]
    plans = {}
    if alone:
        plans["skills"] = alone, skills(teacher, told, questions=a.questions)
    if of["grounded"]:
        plans["grounded"] = of["grounded"], grounded(teacher, told, contexts=a.contexts, questions=a.questions)
    if of["knowledge"]:
        blocks = knowledge(teacher, faithful, of["knowledge"], words=a.words, pairs=a.pairs)
        plans["knowledge"] = of["knowledge"], blocks
    drawn = {
        name: leaf_local(part, calls=a.calls * len(part), size=a.size, seed=seed) for name, (part, _) in plans.items()
    }  # every plan is checked before the first is run
    return {
        name: run(drawn[name], plans[name][1], journal=journal, desc=name, seen=seen, batch=batch) for name in plans
    }
