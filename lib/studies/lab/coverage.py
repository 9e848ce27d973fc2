"""How much of a taxonomy a sampler's questions cover.

Measures of variety grow with the number of texts: every arm is cut down at random to as many valid texts as the poorest
one has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.scoring import diversity
from lib.studies.lab.subsets import random_subset
from lib.synthesis.exams import Question
from lib.taxonomy.tree import Leaf


def measure(
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
        labels = nearest_leaf(random_subset(written[arm], most, seed), leaves)
        out[arm]["nearest leaves"] = diversity.leaf_measures(diversity.leaf_counts(labels, names))["effective leaves"]
    n = min(map(len, valid.values()))
    if n < 2:  # nothing to compare
        return out
    asked = [q.question for q in held_out]
    for arm, rows in valid.items():
        part = random_subset(rows, n, seed)
        texts, counts = [row["question"] for row in part], diversity.leaf_counts([row["kind"] for row in part], names)
        of_leaves = diversity.leaf_measures(counts, m=max(1, round(0.25 * n / len(names))))
        near = diversity.tfidf(asked, texts, corpus=asked)
        out[arm] |= {
            "questions compared": float(n),
            "effective leaves": of_leaves["effective leaves"],
            "covered leaves": next(v for k, v in of_leaves.items() if k.startswith("coverage")),
            "worst leaf": of_leaves["worst leaf"] * len(names) / n,
            **diversity.text_measures(texts),
            "novelty": float(diversity.novelty(texts, seeds).mean()),
            "reach": diversity.facility_location(near),
        }
    return out


def nearest_leaf(texts: Sequence[str], leaves: Sequence[Leaf]) -> list[str]:
    """The leaf of the seed that is most like each text (TF-IDF cosine, one nearest neighbour): how a text of no
    checker's form is assigned."""
    seeds = [(s.question, leaf.path) for leaf in leaves for s in leaf.seeds]
    like = diversity.tfidf(texts, [q for q, _ in seeds], corpus=[q for q, _ in seeds])
    return [seeds[i][1] for i in like.argmax(1)]


def record(run, dataset: str, draw: int, found: Mapping[str, Mapping[str, float]]) -> None:
    """What `measure` gave of one repetition."""
    for arm, measures in found.items():
        for metric, value in measures.items():
            run.items(dataset, arm, metric, [draw], [value])
