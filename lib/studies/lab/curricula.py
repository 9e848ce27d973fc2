"""The orders in which LAB's data can be taught, as lists of phases: the paper's, those it argues against, and controls;
and what they are measured by.

Every arm but replay-epochs begins at the same weights and takes the same number of steps of the same number of rows
(LAB, arXiv 2403.01081, section 3.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lib.engine.phases import BETAS, Phase, Row
from lib.engine.training import Stepper
from lib.harness.progress import track
from lib.losses.dpo import dpo
from lib.studies.lab.student import Sheet, Student

PARTS = (
    "knowledge-short",
    "knowledge-long",
    "skills",
)  # KT/1; KT/2: long answers and foundational skills; ST: compositional skills
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
        if branch == "knowledge" and len(row["answer"].split()) <= words:
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
    how = dict(batch=batch, lr=lr, warmup=warmup, decay=a.decay)
    if a.order == ("stacked",):
        return [Phase("stacked", [r for p in PARTS for r in rows[p]], sum(steps[p] for p in PARTS), **how)]
    out = []
    for i, part in enumerate(a.order):
        n = steps[part]
        if a.epochs:  # as many passes over everything in it as the phase alone would make over its own rows
            n = round(n * sum(len(rows[p]) for p in a.order[: i + 1]) / len(rows[part]))
        out.append(Phase(part, rows[part], n, replay=a.replay if i else 0, optimizer=a.optimizer, **how))
    return out


def examiner(student: Student, sheets: Mapping[str, Sheet]) -> Callable[[], list[float]]:
    """What `phases.run` asks after each phase: every question's score, sheet after sheet."""
    return lambda: [float(x) for sheet in sheets.values() for x in student.score(sheet)]


def by_sheet(sheets: Mapping[str, Sheet], scores: Sequence[float]) -> dict[str, np.ndarray]:
    """What an examiner gave, {sheet: (N,)}."""
    ends = np.cumsum([len(sheet.questions) for sheet in sheets.values()])
    return dict(zip(sheets, np.split(np.asarray(scores, float), ends[:-1])))


def folder(root: Path, cfg, sheets: Mapping[str, Sheet]) -> Path:
    """Where finished phases of this run are kept, for arms that begin alike and for a run that was stopped: a folder of
    its settings and its exam."""
    asked = hashlib.sha256(
        repr([[tuple(q) for q in sheet.questions] for sheet in sheets.values()]).encode()
    ).hexdigest()
    return root / f"{cfg.fingerprint()}-{asked[:12]}"


def forgotten(order: Sequence[str], scores: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of every question, the score right after the phase that teaches its group, less the one at the end.

    scores: row 0 of the start model, then one after each phase of `order`. The general group counts from the start; the
    last phase's own is left out.
    """
    out = {GROUPS[0]: scores[0][GROUPS[0]] - scores[-1][GROUPS[0]]}
    for part in (p for p in order[:-1] if p in PARTS):
        out[part] = scores[order.index(part) + 1][part] - scores[-1][part]
    return out


def record(run, arm: str, sheets: Mapping[str, Sheet], order: Sequence[str], scores: Sequence[Sequence[float]]) -> None:
    """An arm's exams: each question's last score ("exam", where every group weighs the same), what was forgotten, and
    the matrix R of means."""
    rows = [by_sheet(sheets, s) for s in scores]
    for name, values in rows[-1].items():
        run.items(f"exam {name}", arm, "accuracy", [q.id for q in sheets[name].questions], values)
    for dataset, metric, parts_ in (
        ("exam", "accuracy", {g: rows[-1][g] for g in GROUPS}),
        ("forgetting", "forgotten", forgotten(order, rows) if len(order) > 1 else {}),
    ):
        if parts_:
            ids = [f"{g} {q.id}" for g in parts_ for q in sheets[g].questions]
            run.items(
                dataset,
                arm,
                metric,
                ids,
                np.concatenate(list(parts_.values())),
                [1 / len(v) for v in parts_.values() for _ in v],
            )
    for i, row in enumerate(rows):
        for name, values in row.items():
            run.metric("after phase", f"{i} {(order[i - 1] if i else 'start')}", arm, name, float(values.mean()))


def steps(cfg) -> dict[str, int]:
    """{part: steps}; ValueError, before any work, for settings that are no numbers or do not fit together."""
    given = cfg.items_of("steps")
    if len(given) != len(PARTS) or not all(s.isascii() and s.isdecimal() and int(s) for s in given):
        raise ValueError(
            f"steps are {len(PARTS)} whole numbers of at least 1, one for each of {', '.join(PARTS)}, given "
            f"{cfg.steps!r}"
        )
    if ends := [a for a in cfg.items_of("watched") if ARMS[a].order[-1] != PARTS[-1]]:
        raise ValueError(
            f"checkpoints are chosen in the phase of {PARTS[-1]}, which is not the last of {ends[0]!r}; watched "
            "are arms that end with it"
        )
    for name in ("preferences", "noises", "shares"):
        for item in cfg.items_of(name):
            try:
                inside = 0 <= float(item) <= 1
            except ValueError:
                inside = False
            if not inside:
                raise ValueError(f"{name} are numbers from 0 to 1, given {item!r}")
    return dict(zip(PARTS, map(int, given)))


def at_most(data: Sequence[dict], n: int, seed: int) -> list[dict]:
    """At most n rows of each skill, drawn at random without replacement; all of knowledge."""
    left, kept = dict.fromkeys((row["leaf"] for row in data), n), set()
    for i in np.random.default_rng([seed, 0xCA9]).permutation(len(data)).tolist():
        leaf = data[i]["leaf"]
        if leaf.startswith("knowledge/") or left[leaf]:
            left[leaf] -= 1
            kept.add(i)
    return [row for i, row in enumerate(data) if i in kept]


def contrast(
    student: Student,
    chosen: Sequence[Row],
    rejected: Sequence[Row],
    batches: Sequence[Sequence[int]],
    *,
    beta: float,
    lr: float,
    warmup: int,
    clip: float,
    micro: int,
    desc: str,
) -> list[dict]:
    """DPO on pairs of rows that were read, one step a batch, from the student as it is, which is the reference too
    (arXiv 2310.02263); the curve."""
    shown = sorted({i for batch in batches for i in batch})
    ref = torch.zeros(2, len(chosen), device=student.top.device)
    with torch.no_grad():
        for at in (shown[k : k + micro] for k in range(0, len(shown), micro)):
            for side, rows in zip(ref, (chosen, rejected)):
                side[at] = student.logp([rows[i] for i in at])
    stepper, curve = Stepper(student.latent, lr=lr, warmup=warmup, clip=clip), []
    for group in stepper.optimizer.param_groups:
        group["betas"] = BETAS  # as in the phases it is compared with

    def loss(which: Sequence[int]) -> tuple[torch.Tensor, dict[str, float]]:
        at = list(which)
        both = student.logp([*(chosen[i] for i in at), *(rejected[i] for i in at)])
        found = dpo(*both.split(len(at)), ref[0][at], ref[1][at], beta=beta)
        return found.loss.sum(), {"margin": (found.chosen - found.rejected).sum().item()}

    for batch in track(batches, desc):
        curve.append(stepper.step(batch, loss, micro=micro, desc=desc))
    return curve
