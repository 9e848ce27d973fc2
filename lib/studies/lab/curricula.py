"""The orders in which LAB's data can be taught, as lists of phases: the paper's, those it argues against, and controls.

Every arm but replay-epochs begins at the same weights and takes the same number of steps of the same number of rows
(LAB, arXiv 2403.01081, section 3.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib.data import text
from lib.engine.packing import Row
from lib.engine.phases import Phase
from lib.studies.lab.student import Exam

# KT/1; KT/2: long answers and foundational skills; ST: compositional skills
PARTS = ("knowledge-short", "knowledge-long", "skills")
GROUPS = ("general", *PARTS)  # of exam questions; 0: what the start model can, the others by the part that teaches them


class Arm(NamedTuple):
    """How an arm teaches: in what order, what it replays, what the rate does after warm-up, and how long each phase
    is."""

    order: tuple[str, ...] = PARTS  # one name "stacked": all at once
    replay: float | str = 0
    decay: str = "constant"
    optimizer: str = "restart"
    # steps in proportion to the rows that a phase holds, replayed ones too, instead of the same for every arm
    epochs: bool = False


ARMS = {
    "stacked": Arm(("stacked",)),
    "phased": Arm(),
    "replay-all": Arm(replay="all"),
    **{f"replay-{p}%": Arm(replay=p / 100) for p in (1, 3, 10, 30)},
    "reversed": Arm(PARTS[::-1], replay="all"),
    "cosine": Arm(replay="all", decay="cosine"),
    "carried": Arm(replay="all", optimizer="carry"),
    "replay-epochs": Arm(replay="all", epochs=True),
}


def parts(data: Sequence[dict], *, words: int) -> dict[str, list[dict]]:
    """LAB's three buckets: knowledge whose answer has at most `words` words; longer knowledge, and foundational skills;
    compositional skills."""
    out: dict[str, list[dict]] = {name: [] for name in PARTS}
    for row in data:
        branch = row["leaf"].split("/")[0]
        if branch == "knowledge" and text.count(row["answer"]) <= words:
            out[PARTS[0]].append(row)
        else:
            out[PARTS[2 if branch == "compositional_skills" else 1]].append(row)
    return out


def phases(
    arm: str, rows: Mapping[str, Sequence[Row]], *, steps: Mapping[str, int], batch: int, lr: float, warmup: float
) -> list[Phase]:
    """The arm's phases over PARTS' rows; `steps` of each part, which "stacked" takes all in one. ValueError for an arm
    that is none, or a part without rows."""
    if arm not in ARMS:
        raise ValueError(f"an arm is one of {', '.join(ARMS)}, given {arm!r}")
    empty = next((p for p in PARTS if not rows.get(p)), None)
    if empty:
        raise ValueError(
            f"every part of {', '.join(PARTS)} needs rows, {empty} has none: make more calls, or keep more of "
            "what the judges see"
        )
    a = ARMS[arm]
    how: dict[str, Any] = dict(batch=batch, lr=lr, warmup=warmup, decay=a.decay)
    if a.order == ("stacked",):
        return [Phase("stacked", [r for p in PARTS for r in rows[p]], sum(steps[p] for p in PARTS), **how)]
    out = []
    for i, part in enumerate(a.order):
        n = steps[part]
        if a.epochs:  # as many passes over everything in it as the phase alone would make over its own rows
            n = round(n * sum(len(rows[p]) for p in a.order[: i + 1]) / len(rows[part]))
        out.append(Phase(part, rows[part], n, replay=a.replay if i else 0, optimizer=a.optimizer, **how))
    return out


def journal(root: Path, cfg, exams: Mapping[str, Exam]) -> Path:
    """Where finished phases of this run are kept, for arms that begin alike and for a run that was stopped: a folder of
    its settings and its exams."""
    asked = repr([[tuple(q) for q in exam.questions] for exam in exams.values()])
    return root / f"{cfg.fingerprint()}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
