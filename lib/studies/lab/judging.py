"""Judges against hidden truth: what they keep of rows that are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.synthesis import truth
from lib.synthesis.requests import Request
from lib.synthesis.teachers import Teacher


def passes(scores: Sequence[float | None], least: float) -> np.ndarray:
    """Whether each row is kept, (N,) bool; what cannot be read is not."""
    return np.array([s is not None and s >= least for s in scores])


def against_truth(
    scores: Sequence[float | None], right: Sequence[bool], *, least: float
) -> dict[str, tuple[list[float], list[float] | None]]:
    """A judge row by row: {measure: (values, weights)}, whose weighted means are purity, recall, yield, and the share
    of what is wrong that is rejected.

    "auc": for each good row the share of bad ones with a lower score (ties half). Measures that nothing defines are
    left out.
    """
    good, kept = np.asarray(right, bool), passes(scores, least)
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


def several_answers(teacher: Teacher, rows: Sequence[dict], *, each: int) -> list[dict]:
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


def record(run, dataset: str, name: str, rows: Sequence[dict], scores: Sequence[float | None], *, least: float) -> None:
    """A judge's verdicts on rows with hidden truth."""
    for metric, (values, weights) in against_truth(scores, [truth.valid(row) for row in rows], least=least).items():
        run.items(dataset, name, metric, [row["id"] for row in rows], values, weights)
