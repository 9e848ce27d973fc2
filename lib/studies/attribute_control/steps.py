"""The language model's steps in attribute control: cross-entropy on the corpus, and the KL to the closest distribution
that satisfies the constraint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lib.constraint.nado import Nado, head_kl
from lib.engine import latents, training, trunk
from lib.engine.logprobs import mean_logprob, token_logprobs
from lib.harness import seeding
from lib.harness.progress import track
from lib.scoring.toxicity import checked
from lib.studies.attribute_control.auxiliary import targets
from lib.studies.attribute_control.forum import Line
from lib.studies.attribute_control.world import Oracle, World


def new_stepper(world: World, steps: int) -> training.Stepper:
    """A fresh optimizer on the model as it is."""
    latent = latents.Latent(world.linears, partial(latents.Full, quantizer=None))
    cfg = world.cfg
    rule = training.AdamW(cfg.lr, cfg.warmup, cfg.clip, horizon=steps, kind=cfg.optimizer)
    return training.Stepper(latent, rule)


def batches_of(world: World, keep: Sequence[int]) -> list[list[int]]:
    """`epochs` passes over the kept lines, as many steps for every arm: the whole corpus counts them."""
    steps = max(1, round(world.cfg.epochs * len(world.lines) / world.cfg.batch))
    order = seeding.torch_generator(world.cfg.seed, "order")
    stream = training.epochs(len(keep), min(world.cfg.batch, len(keep)), order)
    return [[keep[i] for i in next(stream)] for _ in range(steps)]


def train(
    world: World,
    stepper: training.Stepper,
    batches: Sequence[Sequence[int]],
    *,
    nado: Nado | None,
    lam: float,
    gated: bool,
    desc: str,
) -> list[dict]:
    """Steps on corpus cross-entropy + lam KL(p, closest), both means over a line's tokens; the KL on related lines
    only if `gated`."""
    steered = lam > 0 and nado is not None

    def used(i):
        return steered and (world.related[i] or not gated)

    frozen = targets(world, nado, sorted({i for b in batches for i in b if used(i)})) if nado and steered else {}

    def objective(indices):
        packed, h = trunk.top_states(world.top, [world.rows[i] for i in indices], [world.pieces[i] for i in indices])
        ce = -mean_logprob(token_logprobs(h, world.head, packed.target), packed.branch, packed.branches)
        total, logged = ce.sum(), {"cross-entropy": ce.sum().item()}
        if held := [k for k, i in enumerate(indices) if used(i)]:
            mine = (packed.branch[:, None] == torch.tensor(held, device=h.device)).any(1)
            features = torch.cat([frozen[indices[k]][0] for k in held])
            rate = torch.cat([frozen[indices[k]][1].expand(len(frozen[indices[k]][0])) for k in held])
            bound = dict(delta=world.cfg.delta, floor=world.cfg.floor)
            log_w = partial(_log_weights, nado, features, rate, bound)
            kl = head_kl(h[mine], world.head, log_w, direction=world.cfg.direction)
            kl = mean_logprob(kl, packed.branch[mine], packed.branches).nan_to_num(0.0)  # lines outside the gate: 0 / 0
            total, logged = total + lam * kl.sum(), logged | {"kl": kl.sum().item()}
        return total, logged

    return [stepper.step(b, objective, micro=world.cfg.micro, desc=desc) for b in track(batches, desc)]


def _log_weights(nado: Nado, features: Tensor, rate: Tensor, bound: dict, s: slice) -> Tensor:
    return nado.weights(features[s], rate[s], **bound)


def clean(lines: Sequence[Line], oracle: Oracle) -> list[int]:
    """The lines that filtering keeps: those whose text the oracle lets pass, and no question about a text that has the
    attribute."""
    scores = checked(oracle([x.text for x in lines]))
    keep = [
        i
        for i, (x, s) in enumerate(zip(lines, scores.tolist()))
        if s < 0.5 and not (x.domain == "detection" and x.toxic)
    ]
    if not keep:
        raise ValueError(f"filtering leaves none of {len(lines)} lines")
    return keep


def slices(batches: Sequence[Sequence[int]], k: int) -> list[Sequence[Sequence[int]]]:
    """The steps of k iterations, as even as they come."""
    if not 1 <= k <= len(batches):
        raise ValueError(f"iterations are 1 to the number of steps, {len(batches)}, given {k}")
    ends = [round(i * len(batches) / k) for i in range(k + 1)]
    return [batches[a:b] for a, b in zip(ends, ends[1:])]
