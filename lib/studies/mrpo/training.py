"""The steps of MRPO's policies and references: the same data order, batch and schedule whatever the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lib.engine import latents, training, trunk
from lib.engine.logprobs import check_finite, mean_logprob, token_kl
from lib.harness import seeding
from lib.losses import Preference
from lib.studies.mrpo.candidates import Choice
from lib.studies.mrpo.scores import of_pairs
from lib.studies.mrpo.world import World, load, standing_in

Loss = Callable[[Tensor, Tensor, list[int]], Preference]  # (policy's chosen, rejected (B,), which pairs)


class Teacher(NamedTuple):
    """Adds weight KL(teacher || policy) per token of the chosen answers ("our KD")."""

    states: Sequence[Tensor]  # final hidden states (T, D) of a second model on each chosen answer
    weight: float


def fit(
    world: World,
    picks: Sequence[Choice],
    loss: Loss,
    *,
    lr: float,
    steps: int,
    start: str = "base",
    desc: str,
    teacher: Teacher | None = None,
    whole: bool = False,
) -> list[dict]:
    """Train the top from the stored weights `start` on preferences of split "train"; returns the curve.

    whole: the loss is of a whole batch, so that it may not be taken in parts of `micro` pairs.
    """
    cfg, rows, pieces = world.cfg, world.splits["train"].rows(), world.pieces["train"]

    def objective(indices):
        (packed, hidden), w, l = of_pairs(world, rows, pieces, [picks[i] for i in indices])
        check_finite(torch.stack([w, l], 1), indices)
        out = loss(w, l, list(indices))
        total = out.loss.sum()
        if teacher is not None:
            of_chosen = packed.branch % 2 == 0
            states = torch.cat([teacher.states[i] for i in indices]).to(hidden.device)
            kl = token_kl(hidden[of_chosen], states, world.head)
            total = total + teacher.weight * mean_logprob(kl, packed.branch[of_chosen] // 2, len(indices)).sum()
        return total, {
            "margin": (out.chosen - out.rejected).sum().item(),
            "chosen logprob": w.sum().item(),
            "rejected logprob": l.sum().item(),
        }

    load(world, world.weights[start])
    lengths = [len(rows[c.row][0]) + len(rows[c.row][1][c.chosen]) + len(rows[c.row][1][c.rejected]) for c in picks]
    order = seeding.torch_generator(cfg.seed, "order")
    return training.fit(
        latents.Latent(world.linears, partial(latents.Full, quantizer=None)),
        training.epochs(len(picks), min(cfg.batch, len(picks)), order, lengths=lengths),
        objective,
        training.AdamW(lr, cfg.warmup, cfg.clip),
        steps=steps,
        micro=cfg.batch if whole else cfg.micro,
        desc=desc,
    )


def steps(world: World, n: int) -> int:
    """Optimizer steps of `epochs` passes over n pairs."""
    return max(1, round(world.cfg.epochs * n / world.cfg.batch))


@torch.inference_mode()
def chosen_states(world: World, reference: str, picks: Sequence[Choice]) -> list[Tensor]:
    """Final hidden states (T, D) of a stored model on each chosen answer of split "train"."""
    rows, pieces, out = world.splits["train"].rows(), world.pieces["train"], []
    with standing_in(world):
        load(world, world.weights[reference])
        for c in picks:
            (prompt, answers), piece = rows[c.row], pieces[c.row]
            _, hidden = trunk.top_states(world.top, [(prompt, [answers[c.chosen]])], [[piece[0], piece[1 + c.chosen]]])
            out.append(hidden.cpu())
    return out
