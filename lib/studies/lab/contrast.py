"""Contrastive post-training (arXiv 2310.02263): DPO on a teacher's best and worse answers, shown in an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lib.engine.packing import Row
from lib.engine.phases import BETAS
from lib.engine.training import AdamW, Stepper
from lib.harness.progress import track
from lib.losses.dpo import dpo
from lib.studies.lab.student import Student


class Contrast(NamedTuple):
    """The strength of DPO, its peak rate, steps of warm-up, and the norm that gradients are clipped to; micro: pairs a
    forward."""

    beta: float
    lr: float
    warmup: int
    clip: float
    micro: int
    optimizer: str = "none"  # `AdamW`'s kind


def tune(
    student: Student,
    chosen: Sequence[Row],
    rejected: Sequence[Row],
    batches: Sequence[Sequence[int]],
    how: Contrast,
    *,
    desc: str,
) -> list[dict]:
    """DPO on pairs of rows that were read, one step a batch, from the student as it is, which is the reference too
    (arXiv 2310.02263); the curve."""
    shown = sorted({i for batch in batches for i in batch})
    ref = torch.zeros(2, len(chosen), device=student.top.device)
    with torch.no_grad():
        for at in (shown[k : k + how.micro] for k in range(0, len(shown), how.micro)):
            for side, rows in zip(ref, (chosen, rejected)):
                side[at] = student.logp([rows[i] for i in at])
    rule = AdamW(
        how.lr, how.warmup, how.clip, betas=BETAS, kind=how.optimizer
    )  # BETAS as in the phases it is compared with
    stepper, curve = Stepper(student.latent, rule), []

    def loss(which: Sequence[int]) -> tuple[torch.Tensor, dict[str, float]]:
        at = list(which)
        both = student.logp([*(chosen[i] for i in at), *(rejected[i] for i in at)])
        w, l = both.split(len(at))
        found = dpo(w, l, ref[0][at], ref[1][at], beta=how.beta)
        return found.loss.sum(), {"margin": (found.chosen - found.rejected).sum().item()}

    for batch in track(batches, desc):
        curve.append(stepper.step(batch, loss, micro=how.micro, desc=desc))
    return curve
