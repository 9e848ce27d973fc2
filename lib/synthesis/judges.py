"""LAB's judges of generated rows: rules, calibrated likelihood, two-order preference, and the oracle that our own tree
allows.

A row is a dict with `leaf` and `question`, and where it has them `context` and `answer`. A judge's score is higher for
better rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lib.data import chat, continuation
from lib.data.sentences import is_sentence, units
from lib.scoring.likelihood import completion_logprobs
from lib.taxonomy import checkers
from lib.taxonomy.tree import Leaf

Score = Callable[[Sequence[dict]], list]  # a number for each row, or None where the judge's verdict cannot be read


class Judge(NamedTuple):
    """Keeps the rows whose score is at least `least`; `why` says what is wrong with a row that is not kept."""

    name: str
    score: Score
    least: float
    why: Callable[[dict], str] | None = None


UNSAFE = "[unsafe]"  # stands for what nobody should learn
NEEDS_EYES = re.compile(r"\b(picture|image|photo|drawing|video)\b", re.I)
BRACKETS = ("{}", "()", "（）", "「」", "『』", "《》", "【】")
HANGING = re.compile(
    r"([,;:(=，、；：（،؛-]|\b(the|a|an|is|are|was|of|to|and|or|in|on|as|that|which|from|with|by|at|for))$", re.I
)
BLANK = re.compile(r'"([^"]*)____([^"]*)"')
EXPLAINED = 4  # words more than the shortest right answer has

# Skills with several right answers: the word that their questions hold (the checkers look at what follows the colon
# alone).
SIGNS = {name: re.compile(rf"\b{word}", re.I) for name, word in
         {"three_bullets": "bullet", "question": r"(question|ask)\b", "polite_note": "note", "json_object": "json",
             "ships_mate": "mate"}.items()}  # fmt: skip
GROUNDED = ("table_cell", "record_holder", "date_in_context", "replacement")
FREE = (
    "date_order",
    *(name for name in checkers.CHECKERS if name not in (*GROUNDED, "date_order")),
)  # dates hold numbers: before comparison


def bare(name: str, question: str, context: str = "") -> str | None:
    """A shortest right answer by the checker `name`; None for a question that is not of its form."""
    if name in SIGNS and not SIGNS[name].search(question):
        return None
    result = checkers.solve(name, question, context) if name in checkers.SOLUTIONS else _formatted(name, question)
    return result if result is not None and checkers.passes(name, question, context, result) else None


def _formatted(name: str, question: str) -> str | None:
    told = question.partition(":")[2].strip().rstrip(".")
    if name == "three_bullets":
        return "\n".join(f"- {item.strip()}" for item in re.split(r",| and ", told) if item.strip())
    if name == "question":
        return f"Is it true that {re.sub(r'^(The|A|An|Every)(?= )', lambda m: m[0].lower(), told)}?"
    if name == "json_object":
        pairs = dict(re.findall(r"([a-z_]+) = ([^,]+?)(?=,|$)", told))
        return json.dumps({k: int(v) if v.isdecimal() else v for k, v in pairs.items()})
    if name == "polite_note":
        asked = re.search(r"\bnote to (.+?) from (\w+) (?:asking for|about) (.+)\.$", question)
        return asked and f"Dear {asked[1]},\nplease think of {asked[3]}.\n{asked[2]}"
    news = re.search(r"\b[Rr]eport that (.+)\.$", question)
    return news and f"Aye, captain: {news[1]}."


def form(question: str, context: str = "") -> str | None:
    """The checker of whose form the question is; None where it is of none."""
    known = (*FREE, *(GROUNDED if context else ()))  # a question that stands alone is not about the context beside it
    return next((name for name in known if bare(name, question, context if name in GROUNDED else "") is not None), None)


def supported(leaf: Leaf, question: str, answer: str) -> bool:
    """Whether the leaf's documents (for a sentence with a blank), facts or seeds bear out the answer."""
    flat = lambda text: " ".join(text.split()).casefold().rstrip(".")  # noqa: E731
    says = lambda text: re.search(rf"(?<!\w){re.escape(flat(text))}(?!\w)", flat(answer)) is not None  # noqa: E731
    blank = BLANK.search(question)
    if blank:
        before, after = (re.escape(part) for part in blank.groups())
        found = re.search(
            rf"{before}([^\"]{{1,80}}?){after}", " ".join(" ".join(d.text for d in leaf.documents).split())
        )
        return bool(found) and bool(blank[1] + blank[2]) and says(found[1])
    for fact in leaf.facts:
        if flat(fact.question) == flat(question):
            return says(fact.answer) and not any(says(other) for other in fact.distractors)
    return any(flat(seed.question) == flat(question) and says(seed.answer) for seed in leaf.seeds)


def question_score(leaf: Leaf | None, row: dict) -> float:
    """LAB's first scale: 1 for a question of the leaf (of any form, where the leaf is unknown) that can be answered and
    is safe, else 0."""
    question, context = row["question"], row.get("context", "")
    if UNSAFE in question:
        return 0.0
    if leaf is None or leaf.checker is None and leaf.kind != "knowledge":
        return float(form(question, context) is not None)
    if leaf.kind == "knowledge":
        known = BLANK.search(question) is not None and leaf.task in question
        return float(known or any(question == x.question for x in (*leaf.seeds, *leaf.facts)))
    return float(form(question, context) == leaf.checker)


def pair_score(leaf: Leaf | None, row: dict) -> float:
    """LAB's second scale: 1 wrong, cut off or unsafe; 2 right; 3 right with an explanation."""
    question, context, answer = row["question"], row.get("context", ""), row["answer"]
    if UNSAFE in question + answer:
        return 1.0
    if leaf is not None and leaf.kind == "knowledge":
        return 1.0 if not supported(leaf, question, answer) else 2.0 + (len(answer.split()) >= 2 * EXPLAINED)
    name = leaf.checker if leaf is not None and leaf.checker else form(question, context)
    shortest = bare(name, question, context) if name else None
    if shortest is None or not checkers.passes(name, question, context, answer):
        return 1.0
    return 2.0 + (len(answer.split()) >= len(shortest.split()) + EXPLAINED)


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
        opened = any(text.count(a) != text.count(b) for a, b in BRACKETS) or text.count('"') % 2 == 1
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
    least = {path: float(np.quantile(values, q, method="lower")) for path, values in {**of, None: scores}.items()}

    def margin(rows: Sequence[dict]) -> list:
        return [
            None if value is None else value - least.get(row["leaf"], least[None])
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


def valid(row: dict) -> bool:
    """Whether the hidden labels call everything about the row right; ValueError where it has none."""
    if not row.get("truth"):
        raise ValueError(
            f"only a templated teacher's rows carry their truth, given {row.get('id', row.get('question'))!r}"
        )
    return all(row["truth"].get(key, "right") == "right" for key in ("given", "asked", "told"))


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
        "precision": precision, "recall": share((kept & y).sum(), y.sum()),
        "auc": share((below + upto).sum() / 2, len(good) * len(bad)),
        "purity before": float(y.mean()), "purity": precision, "yield": float(kept.mean()),
    }  # fmt: skip
