"""Attribute-controlled fine-tuning and what it is compared with, each from the start's weights: plain fine-tuning, the
paper's method in turns, and reinforcement. arXiv 2410.05559, algorithm of section 3."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib import constraint
from lib.constraint.nado import Nado
from lib.engine import trunk
from lib.engine.logprobs import mean_logprob, sum_logprob, token_logprobs
from lib.harness.progress import track
from lib.studies.attribute_control.auxiliary import Samples, collect, hidden, learned, new_nado
from lib.studies.attribute_control.steps import batches_of, new_stepper, slices, train
from lib.studies.attribute_control.world import World, load, snapshot


def check(cfg) -> None:
    """ValueError before any work if there are more iterations than steps, or a weight that is none, or nothing to
    choose one on."""
    steps = max(1, round(cfg.epochs * (cfg.n_related + cfg.n_detection + cfg.n_general) / cfg.batch))
    slices([[]] * steps, cfg.iterations)
    if cfg.weights != "none" and cfg.corpus != "composed":
        raise ValueError(
            f"weights are chosen on the composed corpus, given {cfg.corpus!r}: set WEIGHTS to none, and LAM and "
            "RL_WEIGHTS as you like"
        )
    for name in ("lams", "rl_weights", "weights"):
        for item in (x for x in cfg.items_of(name) if x != "none"):
            try:
                value = float(item)
            except ValueError:
                raise ValueError(f"{name} takes numbers, given {item!r}") from None
            if not value >= 0:
                raise ValueError(
                    f"{'a weight of the policy gradient' if name == 'rl_weights' else 'lambda'} is at least 0, "
                    f"given {item}"
                )


def fine_tune(world: World, *, keep: Sequence[int] | None = None, desc: str) -> list[dict]:
    """Plain fine-tuning on the lines in `keep` (all), from the start."""
    load(world, world.start)
    batches = batches_of(world, list(range(len(world.lines))) if keep is None else keep)
    return train(world, new_stepper(world, len(batches)), batches, nado=None, lam=0.0, gated=True, desc=desc)


class Turn(NamedTuple):
    """What one iteration took: seconds to sample, label and learn R, seconds of the model's steps, and what was logged
    of R."""

    oracle: float
    model: float
    log: dict[str, float]


def controlled(
    world: World, *, lam: float, gated: bool, stale: bool = False, desc: str, partner=None
) -> tuple[list[dict], list[Turn], Nado]:
    """The paper's method, from the start: (curve, turns, the last R). In each iteration sample and learn R, then
    fine-tune towards it.

    stale: from the second iteration on the model's steps use the R of the one before, which is what running both at
    once amounts to; with `partner` (`lib.studies.attribute_control.parallel`) they do run at once, in two processes.
    """
    if lam < 0:
        raise ValueError(f"lambda is at least 0, given {lam}")
    cfg = world.cfg
    load(world, world.start)
    batches = batches_of(world, list(range(len(world.lines))))
    stepper, nado, curve, turns = new_stepper(world, len(batches)), new_nado(world), [], []

    for k, part in enumerate(slices(batches, cfg.iterations)):
        begun = time.perf_counter()
        if stale and k:
            old, nado = nado, new_nado(world)
            nado.load_state_dict(old.state_dict())
            waiting = partner.begin(snapshot(world), nado.state_dict(), k) if partner else None
            log = {} if partner else learned(world, nado, f"iteration {k}")
        else:
            log, waiting, old = learned(world, nado, f"iteration {k}"), None, nado
        between = time.perf_counter()
        curve += train(world, stepper, part, nado=old, lam=lam, gated=gated, desc=f"{desc}, iteration {k}")
        done = time.perf_counter()
        if waiting is not None:
            state, log, spent = waiting()
            nado.load_state_dict(state)
            turns.append(Turn(spent, done - between, log))
        else:
            turns.append(Turn(between - begun, done - between, log))
    return curve, turns, nado


def reinforced(world: World, *, weight: float, beta: float, desc: str) -> list[dict]:
    """The RL baseline: the same corpus steps, and `weight` times a policy gradient with the oracle's verdict as reward
    and a KL to the start.

    As many samples in all as the paper's method labels. One draw serves `rl_draw` steps, its answers weighted by how
    much likelier the policy finds them by now, which keeps the gradient that of the present policy: decoding few
    answers at a time would be most of the work.
    """
    cfg = world.cfg
    load(world, world.start)
    batches = batches_of(world, list(range(len(world.lines))))
    stepper, curve = new_stepper(world, len(batches)), []
    prompts = max(1, round(cfg.iterations * cfg.n_asked / len(batches)))
    together = max(1, min(cfg.rl_draw, len(world.asked) // prompts))
    for step, batch in enumerate(track(batches, desc)):
        part = step % together
        if not part:
            drawn = collect(
                world, f"reinforced {step}", n=cfg.each, prompts=prompts * min(together, len(batches) - step)
            )
            then = _log_probs(world, drawn) if together > 1 else None
            now = snapshot(world)
            load(world, world.start)
            start = _log_probs(world, drawn)
            load(world, now)
        mine = slice(part * prompts, (part + 1) * prompts)
        answers = slice(mine.start * cfg.each, mine.stop * cfg.each)
        rows, pieces, fine = drawn.rows[mine], drawn.pieces[mine], drawn.fine[answers].to(start.device)
        before, old, own = start[answers], None if then is None else then[answers], [True]

        def objective(indices, rows=rows, pieces=pieces, fine=fine, before=before, old=old, batch=batch, own=own):
            packed, h = trunk.top_states(
                world.top, [world.rows[i] for i in indices], [world.pieces[i] for i in indices]
            )
            ce = -mean_logprob(token_logprobs(h, world.head, packed.target), packed.branch, packed.branches)
            total, logged = ce.sum(), {"cross-entropy": ce.sum().item()}
            if own:  # the step's own samples, once, whatever the number of micro-batches
                own.clear()
                packed, h = trunk.top_states(world.top, rows, pieces)
                log_p = sum_logprob(token_logprobs(h, world.head, packed.target), packed.branch, packed.branches)
                surrogate = (
                    constraint.policy_gradient(log_p, fine.to(log_p.dtype), before, beta=beta, then=old).mean()
                    / cfg.tokens
                )
                total = total + weight * len(batch) * surrogate
            return total, logged

        curve.append(
            stepper.step(batch, objective, micro=cfg.micro, desc=desc)
            | {"attribute in samples": 1 - fine.mean().item()}
        )
    return curve


def _log_probs(world: World, s: Samples) -> Tensor:
    """Summed log p of every answer under the model as it is."""
    return torch.cat(
        [sum_logprob(token_logprobs(h, world.head, t), b, n) for h, t, b, n in hidden(world, s.rows, s.pieces)]
    )
