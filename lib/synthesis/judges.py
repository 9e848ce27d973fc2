"""LAB's judges of generated rows: the teacher in its second role, rules, calibrated likelihood, two-order preference,
and the oracle that our own tree allows (`truth`).

A row is a dict with `leaf` and `question`, and where it has them `context` and `answer`. A judge's score is higher for
better rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lib.data import chat, continuation
from lib.data.sentences import is_sentence, units
from lib.scoring.likelihood import completion_logprobs
from lib.synthesis.requests import Request
from lib.synthesis.teachers import Teacher
from lib.synthesis.truth import UNSAFE, pair_score, question_score
from lib.taxonomy.tree import Leaf

Score = Callable[[Sequence[dict]], list]  # a number for each row, or None where the judge's verdict cannot be read


class Judge(NamedTuple):
    """Keeps the rows whose score is at least `least`; `why` says what is wrong with a row that is not kept."""

    name: str
    score: Score
    least: float
    why: Callable[[dict], str] | None = None


NEEDS_EYES = re.compile(r"\b(picture|image|photo|drawing|video)\b", re.I)
BRACKETS = ("{}", "()", "（）", "「」", "『』", "《》", "【】")
HANGING = re.compile(
    r"([,;:(=，、；：（،؛-]|\b(the|a|an|is|are|was|of|to|and|or|in|on|as|that|which|from|with|by|at|for))$", re.I
)


def oracle(leaves: Sequence[Leaf]) -> dict[str, Judge]:
    """Judges that know the truth by the tree's checkers, documents and facts: question (0/1), pair (1-3) and faithful
    (0/1)."""
    by = {leaf.path: leaf for leaf in leaves}
    question = lambda rows: [question_score(by.get(r["leaf"]), r) for r in rows]  # noqa: E731
    pair = lambda rows: [pair_score(by.get(r["leaf"]), r) for r in rows]  # noqa: E731
    faithful = lambda rows: [float(score >= 2) for score in pair(rows)]  # noqa: E731
    return {
        "question": Judge("oracle question", question, 1),
        "pair": Judge("oracle pair", pair, 2),
        "faithful": Judge("oracle faithful", faithful, 1),
    }


def teacher_judge(teacher: Teacher, ask: str, *, least: float) -> Judge:
    """The teacher in its second role: judge question, judge pair or judge faithful. A reply without "Score: <number>"
    cannot be read."""

    def score(rows: Sequence[dict]) -> list[float | None]:
        asked = [
            Request(
                r["id"],
                ask,
                r["leaf"],
                r.get("task", ""),
                (),
                1,
                r["question"],
                r.get("context", ""),
                r.get("answer", ""),
            )
            for r in rows
        ]
        found = [re.findall(r"Score:\s*(\d+)\b", reply or "") for reply in teacher(asked)]
        return [float(numbers[-1]) if numbers else None for numbers in found]

    return Judge(f"{ask.split()[-1]} by {teacher.name}", score, least)


def keep_all() -> Judge:
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
        return [joined(q, p) for q, p in zip(question.score(rows), pair.score(rows))]

    def joined(asked: float | None, told: float | None) -> float | None:
        if asked is None or told is None:
            return None
        return told if asked >= question.least else 0.0

    return Judge(f"{question.name} and {pair.name}", score, pair.least)


def faults(row: dict, *, words: int = 250) -> list[str]:
    """What the rules find wrong with a row: format, length, truncation, unsafe marker. They know no right answer."""
    question, answer, found = row["question"].strip(), row.get("answer"), []
    checks = [
        (not is_sentence(question), "the question is no sentence"),
        (not 3 <= len(units(question)) <= words, f"the question has {len(units(question))} words"),
        (bool(NEEDS_EYES.search(question)), "the question needs eyes"), (UNSAFE in question + (answer or ""), "unsafe"),
    ]  # fmt: skip
    if answer is not None:
        text, n = answer.strip(), len(units(answer))
        opened = any(text.count(a) != text.count(b) for a, b in map(tuple, BRACKETS)) or text.count('"') % 2 == 1
        checks += [
            (not 1 <= n <= words, f"the answer has {n} words"),
            (bool(HANGING.search(text)) or opened, "the answer breaks off"),
        ]
    found += [what for wrong, what in checks if wrong]
    return found


def rules(*, words: int = 250) -> Judge:
    """1 for a row in which `faults` finds nothing, else 0; questions and answers have at most `words` words."""
    score = lambda rows: [float(not faults(r, words=words)) for r in rows]  # noqa: E731
    return Judge("rules", score, 1, lambda row: "; ".join(faults(row, words=words)))


def calibrated(name: str, score: Score, leaves: Sequence[Leaf], *, q: float) -> Judge:
    """score(row) less the q-quantile of the scores of the leaf's seeds; rows at 0 and above are kept, about a share 1 -
    q of rows like the seeds.

    A row of no known leaf is held against all seeds. ValueError for q outside [0, 1), no leaves, or a seed that `score`
    cannot score.
    """
    if not 0 <= q < 1 or not leaves:
        raise ValueError(f"q lies in [0, 1) and there is at least one leaf, given {q} and {len(leaves)} leaves")
    rows = [
        {"leaf": leaf.path, "question": s.question, "answer": s.answer, "context": s.context}
        for leaf in leaves
        for s in leaf.seeds
    ]
    scores = score(rows)
    bad = next((row for row, value in zip(rows, scores) if value is None or not np.isfinite(value)), None)
    if bad is not None:
        raise ValueError(f"{name} gives no finite score to a seed of {bad['leaf']}: {bad['question']!r}")
    of = {leaf.path: [value for row, value in zip(rows, scores) if row["leaf"] == leaf.path] for leaf in leaves}
    # the largest seed score at which no more than a share q of the seeds falls below it: keeps at least 1 - q of them
    least = {path: float(np.quantile(values, q, method="lower")) for path, values in {**of, "": scores}.items()}

    def margin(rows: Sequence[dict]) -> list:
        return [
            None if value is None else value - least.get(row["leaf"], least[""])
            for row, value in zip(rows, score(rows), strict=True)
        ]

    return Judge(f"{name} q={q:g}", margin, 0)


def likelihood(model, tokenizer, *, batch: int, pmi: bool = False) -> Score:
    """Mean log-likelihood of a token of the answer given context and question, nats; pmi: less the one without the
    context.

    A row without a context has a pmi of 0. ValueError for an empty answer.
    """

    def score(rows: Sequence[dict]) -> list[float]:
        empty = next((row for row in rows if not row.get("answer")), None)
        if empty is not None:
            raise ValueError(
                f"a likelihood is that of an answer, and this question of {empty['leaf']} has none: "
                f"{empty['question']!r}"
            )
        asked = [f"Question: {row['question']}\nAnswer:" for row in rows]
        grounds = [f"{row['context']}\n\n" if row.get("context") else "" for row in rows]

        def of(prompts):
            ids = [continuation(tokenizer, p, " " + row["answer"]) for p, row in zip(prompts, rows)]
            return completion_logprobs(model, *map(list, zip(*ids)), batch=batch, mean=True)[:, 0]

        if not rows:
            return []
        given = of([g + a for g, a in zip(grounds, asked)])
        return (given - of(asked) if pmi else given).tolist()

    return score


VERDICTS = ("The answer is right and complete.", "The answer is wrong or incomplete.")
Margin = Callable[[Sequence[str], Sequence[str], Sequence[str]], list[float]]  # (prompts, A, B) -> logit(A) - logit(B)


def two_order(margin: Margin, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float]:
    """How much `first` is preferred, logits: the mean over both orders, 0 where they name different winners. Changes
    sign under a swap."""
    forward, backward = margin(prompts, first, second), margin(prompts, second, first)
    return [(f - b) / 2 if f * b < 0 else 0.0 for f, b in zip(forward, backward, strict=True)]


def two_order_judge(margin: Margin, *, least: float = 1e-6) -> Judge:
    """Scores a row by how much the verdict "right" is preferred over "wrong"; 0, where the two orders disagree, is not
    enough to be kept."""

    def score(rows: Sequence[dict]) -> list[float]:
        prompts = [
            f"{row.get('context')}\n\n" * bool(row.get("context"))
            + f"Question: {row['question']}\nAnswer: {row['answer']}"
            for row in rows
        ]
        return two_order(margin, prompts, *([verdict] * len(rows) for verdict in VERDICTS))

    return Judge("two-order", score, least)


def letter_margin(model, tokenizer, *, batch: int) -> Margin:
    """logit(A) - logit(B), which is the difference of their log-probabilities, of a chat model that is asked which of
    two texts fits."""
    ask = "{prompt}\n\nA: {first}\nB: {second}\n\nWhich one fits, A or B? Reply with one letter."

    def margin(prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float]:
        texts = [ask.format(prompt=p, first=a, second=b) for p, a, b in zip(prompts, first, second, strict=True)]
        ids = [chat(tokenizer, [{"role": "user", "content": t}]) for t in texts]
        # the template ends where the model begins to write: a letter is read by itself
        letters = [[tokenizer.encode(letter, add_special_tokens=False)] * len(ids) for letter in "AB"]
        scores = completion_logprobs(model, ids, *letters, batch=batch)
        return (scores[:, 0] - scores[:, 1]).tolist()

    return margin


def quality(scores: Sequence[float | None], truth: Sequence[bool], *, least: float) -> dict[str, float]:
    """A judge against the truth, all in [0, 1]: precision and recall of keeping, AUC (ties half), purity before and
    after, yield (kept / generated).

    Purity is valid / kept, the precision by its other name. A score that cannot be read (None) is the lowest and is not
    kept. NaN: undefined.
    """
    if len(scores) != len(truth) or not len(truth):
        raise ValueError(f"a score and a truth for each of at least one row, given {len(scores)} and {len(truth)}")
    x, y = np.array([-np.inf if s is None else s for s in scores], dtype=float), np.array(truth, dtype=bool)
    kept, good, bad = x >= least, x[y], x[~y]
    ordered = np.sort(bad)
    below, upto = np.searchsorted(ordered, good, "left"), np.searchsorted(ordered, good, "right")
    share = lambda part, whole: float(part / whole) if whole else float("nan")  # noqa: E731
    precision = share((kept & y).sum(), kept.sum())
    return {
        "precision": precision,
        "recall": share((kept & y).sum(), y.sum()),
        "auc": share((below + upto).sum() / 2, len(good) * len(bad)),
        "purity before": float(y.mean()),
        "purity": precision,
        "yield": float(kept.mean()),
    }
