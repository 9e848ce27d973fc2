"""What LAB's claims about data are measured by: how much of a taxonomy a sampler's questions cover, and judges against
hidden truth.

Measures of variety grow with the number of texts: every arm is cut down at random to as many valid texts as the poorest
one has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib import scoring, synthesis
from lib.scoring import diversity
from lib.studies.lab.questions import Question, apart
from lib.synthesis import judges, phrases, samplers
from lib.synthesis.blocks import Generate, Unique, teacher_judge
from lib.synthesis.judges import Judge
from lib.synthesis.requests import Request
from lib.synthesis.samplers import Sampler
from lib.synthesis.teachers import Teacher
from lib.taxonomy.tree import Leaf

SAMPLERS = ("pool", "self-instruct", "leaf", "fake-leaf", "quota")


def sampler(
    name: str, leaves: Sequence[Leaf], *, calls: int, size: int, seed: int, quotas: Mapping[str, int] | None = None
) -> Sampler:
    """pool: any `size` seeds; self-instruct: 8 examples, up to 2 of them made before; leaf: LAB's; fake-leaf: its
    control; quota: leaf, calls in proportion to seeds.

    quotas: calls of each leaf, for "leaf" alone. No prompt tells the leaf's task: a pool's has none to tell.
    """
    how = dict(calls=calls, seed=seed)
    if name == "pool":
        made = samplers.pool(leaves, size=size, **how)
    elif name == "self-instruct":
        made = samplers.pool(leaves, size=8, machine=2, **how)
    elif name == "leaf":
        made = samplers.leaf_local(leaves, size=size, quotas=quotas, **how)
    elif name == "fake-leaf":
        made = samplers.fake_leaf(leaves, size=size, **how)
    elif name == "quota":
        quotas = samplers.weighted_quotas({leaf.path: len(leaf.seeds) for leaf in leaves}, calls, least=1)
        made = samplers.leaf_local(leaves, size=size, quotas=quotas, **how)
    else:
        raise ValueError(f"a sampler is one of {', '.join(SAMPLERS)}, given {name!r}")
    return made._replace(draw=lambda call, rows: made.draw(call, rows)._replace(task=""))


def asked(
    name: str,
    leaves: Sequence[Leaf],
    teacher: Teacher,
    *,
    calls: int,
    size: int,
    each: int,
    seed: int,
    answers: bool,
    quotas: Mapping[str, int] | None = None,
) -> list[dict]:
    """What `calls` calls of `each` questions gave, without duplicates and copied seeds; `kind` is the leaf of whose
    form a question is, "" for none.

    answers: with the teacher's answers, which self-instruct needs to feed them back. quotas: see `sampler`. A question
    is valid if it has a kind: only then can it be answered.
    """
    of = {leaf.checker: leaf.path for leaf in leaves}
    blocks = [
        Generate("questions", teacher, "questions", each),
        Unique("unique questions"),
        *([Generate("answers", teacher, "answer")] if answers else []),
    ]
    together = calls if name != "self-instruct" else 1  # what is fed back has to be there
    made = synthesis.run(
        sampler(name, leaves, calls=calls, size=size, seed=seed, quotas=quotas),
        blocks,
        journal=None,
        desc=name,
        seen=synthesis.seeded(leaves),
        batch=together,
    )
    return [row | {"kind": of.get(judges.form(row["question"]), "")} for row in made.rows]


def coverage(
    sets: Mapping[str, Sequence[dict]],
    leaves: Sequence[Leaf],
    *,
    generated: int,
    held_out: Sequence[Question],
    seed: int,
) -> dict[str, dict[str, float]]:
    """{arm: measures} at equal numbers of valid questions; `generated`: questions asked for, of which "valid" is the
    share that was new and of a leaf's form.

    "worst leaf": the fewest questions of a leaf, over the number that even shares would give. "reach": how near the
    nearest question comes to each held-out one (TF-IDF cosine over these as corpus, mean). "nearest leaves": effective
    leaves of all texts, valid or not, equally many, each of the leaf of the seed most like it. Where an arm has fewer
    than two valid questions, there is only "valid" and that.
    """
    valid = {arm: [row for row in rows if row["kind"]] for arm, rows in sets.items()}
    names, seeds = [leaf.path for leaf in leaves], [s.question for leaf in leaves for s in leaf.seeds]
    out = {arm: {"valid": len(rows) / generated} for arm, rows in valid.items()}
    written = {arm: [row["question"] for row in rows if diversity.words(row["question"])] for arm, rows in sets.items()}
    most = min(map(len, written.values()))
    for arm in written if most > 1 else ():
        labels = nearest_leaf(some(written[arm], most, seed), leaves)
        out[arm]["nearest leaves"] = diversity.leaf_measures(diversity.leaf_counts(labels, names))["effective leaves"]
    n = min(map(len, valid.values()))
    if n < 2:  # nothing to compare
        return out
    for arm, rows in valid.items():
        part = some(rows, n, seed)
        texts, counts = [row["question"] for row in part], diversity.leaf_counts([row["kind"] for row in part], names)
        of_leaves = diversity.leaf_measures(counts, m=max(1, round(0.25 * n / len(names))))
        out[arm] |= {
            "questions compared": float(n), "effective leaves": of_leaves["effective leaves"],
            "covered leaves": next(v for k, v in of_leaves.items() if k.startswith("coverage")),
            "worst leaf": of_leaves["worst leaf"] * len(names) / n,
            **diversity.text_measures(texts), "novelty": float(diversity.novelty(texts, seeds).mean()),
            "reach": diversity.facility_location(diversity.tfidf([q.question for q in held_out], texts,
                corpus=[q.question for q in held_out])),
        }  # fmt: skip
    return out


def some(rows: Sequence, n: int, seed: int) -> list:
    """n of the rows at random: a prefix would hold more of the leaves whose turn came first."""
    return [rows[i] for i in np.random.default_rng([seed, 0xC0, n]).permutation(len(rows))[:n].tolist()]


def nearest_leaf(texts: Sequence[str], leaves: Sequence[Leaf]) -> list[str]:
    """The leaf of the seed that is most like each text (TF-IDF cosine, one nearest neighbour): how a text of no
    checker's form is assigned."""
    seeds = [(s.question, leaf.path) for leaf in leaves for s in leaf.seeds]
    like = diversity.tfidf(texts, [q for q, _ in seeds], corpus=[q for q, _ in seeds])
    return [seeds[i][1] for i in like.argmax(1)]


# ---- judges


def verdicts(scores: Sequence[float | None], least: float) -> np.ndarray:
    """Whether each row is kept, (N,) bool; what cannot be read is not."""
    return np.array([s is not None and s >= least for s in scores])


def against_truth(
    scores: Sequence[float | None], good: Sequence[bool], *, least: float
) -> dict[str, tuple[list[float], list[float] | None]]:
    """A judge row by row: {measure: (values, weights)}, whose weighted means are purity, recall, yield, and the share
    of what is wrong that is rejected.

    "auc": for each good row the share of bad ones with a lower score (ties half). Measures that nothing defines are
    left out.
    """
    good, kept = np.asarray(good, bool), verdicts(scores, least)
    x = np.array([-np.inf if s is None else s for s in scores], float)
    out: dict = {"yield": (kept.astype(float).tolist(), None)}
    for name, values, weights in (("purity", good, kept), ("recall", kept, good), ("wrong rejected", ~kept, ~good)):
        if weights.any():
            out[name] = (values.astype(float).tolist(), weights.astype(float).tolist())
    if good.any() and not good.all():
        a, b = x[good][:, None], x[~good][None]
        auc = np.ones(len(x))
        auc[good] = ((a > b) + 0.5 * (a == b)).mean(1)
        out["auc"] = (auc.tolist(), good.astype(float).tolist())
    return out


def rivals(teacher: Teacher, rows: Sequence[dict], *, each: int) -> list[dict]:
    """`each` answers of the teacher to every row's question: what LAB's last judge sees, and of which it throws the
    worst away."""
    requests = [
        Request(f"{row['id']} again {k}", "answer", row["leaf"], "", (), 1, row["question"], row.get("context", ""))
        for row in rows
        for k in range(each)
    ]
    replies = list(teacher(requests))
    return [
        row | {"answer": str(reply), "id": r.id}
        for row, r, reply in zip([row for row in rows for _ in range(each)], requests, replies)
        if reply
    ]


def check(cfg, leaves: Sequence[Leaf]) -> None:
    """ValueError, before any work, for a tree or settings that this study cannot do with."""
    kinds = {leaf.kind for leaf in leaves}
    for what, missing in (
        ("a knowledge leaf with "
            "facts.jsonl", not any(leaf.facts for leaf in leaves)),
            ("a foundational skill", "foundational" not in kinds), ("a freeform skill", "freeform" not in kinds),
    ):  # fmt: skip
        if missing:
            raise ValueError(
                f"the curriculum needs {what}, and {cfg.taxonomy} has none; it has leaves of kind "
                f"{', '.join(sorted(kinds))}"
            )
    tasks(cfg)
    free = sum(leaf.kind in ("foundational", "freeform") for leaf in leaves)
    if min(cfg.draw_calls, cfg.model_calls) < free:
        raise ValueError(
            f"every one of {free} skills is called at least once, so draw_calls and model_calls are at least "
            f"{free}, given {cfg.draw_calls} and {cfg.model_calls}"
        )
    for name in ("samplers", "taught", "filters", "arms", "contrasts", "written"):
        items = cfg.items_of(name)
        if twice := [x for x in items if items.count(x) > 1]:
            raise ValueError(f"{name} names {twice[0]!r} twice")


def tasks(cfg) -> list[str]:
    """The tasks of lm-eval that are asked for; ValueError naming those it does not know."""
    out = [t for t in cfg.items_of("tasks") if t != "none"]
    scoring.check_tasks(out)
    return out


def equally(keeps: Mapping[str, Sequence[dict]], seed: int) -> dict[str, list[dict]]:
    """As many rows of every arm as the poorest one has, drawn at random. ValueError naming an arm that has none."""
    poorest = min(keeps, key=lambda name: len(keeps[name]), default=None)
    if poorest is not None and not keeps[poorest]:
        raise ValueError(
            f"{poorest} kept no row, so no student can be compared at equal numbers: leave it out, or make more calls"
        )
    return {name: some(rows, len(keeps[poorest]), seed) for name, rows in keeps.items()}


def anything() -> Judge:
    """Keeps every row."""
    return Judge("none", lambda rows: [1.0] * len(rows), 1)


def teacher_judges(teacher: Teacher) -> dict[str, Judge]:
    """The teacher in its second role, as the paper and InstructLab keep rows: questions from 1 of 0 and 1, pairs from 2
    of 1 to 3, faithful answers from 1 of 0 and 1."""
    return {
        stage: teacher_judge(teacher, f"judge {stage}", least=least)
        for stage, least in (("question", 1), ("pair", 2), ("faithful", 1))
    }


def both(question: Judge, pair: Judge) -> Judge:
    """LAB's two judges as one: the pair's score where the question passes, else 0."""

    def score(rows: Sequence[dict]) -> list[float | None]:
        asked_, told = question.score(rows), pair.score(rows)
        return [None if q is None or p is None else p if q >= question.least else 0.0 for q, p in zip(asked_, told)]

    return Judge(f"{question.name} and {pair.name}", score, pair.least)


def answered(rows: Sequence[dict], leaves: Sequence[Leaf], exam: Sequence[Question]) -> list[dict]:
    """The valid rows that ask nothing of the exam, each of the leaf of its kind and with a right answer, explained in
    every second row."""
    checker = {leaf.path: leaf.checker for leaf in leaves}
    valid = [row | {"leaf": row["kind"], "context": ""} for row in rows if row["kind"]]
    return apart(
        [
            row | {"answer": phrases.right(checker[row["leaf"]], row["question"], "", i % 2 == 1)}
            for i, row in enumerate(valid)
        ],
        exam,
    )


# ---- into the results


def record(run, dataset: str, draw: int, found: Mapping[str, Mapping[str, float]]) -> None:
    """What `coverage` gave of one repetition."""
    for arm, measures in found.items():
        for metric, value in measures.items():
            run.items(dataset, arm, metric, [draw], [value])


def judged(run, dataset: str, name: str, rows: Sequence[dict], scores: Sequence[float | None], *, least: float) -> None:
    """A judge's verdicts on rows with hidden truth."""
    for metric, (values, weights) in against_truth(scores, [judges.valid(row) for row in rows], least=least).items():
        run.items(dataset, name, metric, [row["id"] for row in rows], values, weights)


def grades(run, dataset: str, arm: str, sheet, score: np.ndarray) -> None:
    """A student's score on every question of a sheet, and the mean of its worst leaf."""
    leaves = [q.leaf for q in sheet.questions]
    run.items(dataset, arm, "accuracy", [q.id for q in sheet.questions], score)
    run.metric(
        dataset,
        "skills",
        arm,
        "worst leaf",
        min(float(score[[x == leaf for x in leaves]].mean()) for leaf in set(leaves)),
    )


def benchmarked(run, arm: str, model, tokenizer, questions: Path, tasks: Sequence[str], *, batch: int) -> None:
    """The model as it is, through lm-evaluation-harness and without a chat template: our questions, and tasks of its
    own ("name:shots")."""
    got = scoring.multiple_choice(model, tokenizer, scoring.load_task(questions), batch_size=batch)
    run.items("questions", arm, "accuracy", got.ids, got.correct)
    for name, found in scoring.benchmarks(model, tokenizer, tasks, batch_size=batch).items():
        for metric, value in found.items():
            run.metric("benchmarks", name, arm, metric, value)
