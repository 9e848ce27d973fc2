"""The auxiliary model R of attribute control: samples with the oracle's verdicts, and the steps that teach R from
them.

R reads the final hidden states of the model that drew its samples, so both it and those states are frozen while the
language model takes its steps. Formulas: `lib.constraint.nado`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib import constraint
from lib.constraint.nado import Nado, expected_success
from lib.engine import latents, trunk
from lib.engine.generation import Completion, Sampling, generate, recorded
from lib.engine.logprobs import CHUNK, sum_logprob
from lib.harness import seeding
from lib.harness.progress import track
from lib.scoring.toxicity import checked
from lib.studies.attribute_control.world import Row, World, text_of


class Samples(NamedTuple):
    """Answers with the oracle's verdicts: rows are (prompt ids, answers' ids); the model's own come first, then lines
    of the corpus."""

    rows: list[Row]
    fine: Tensor  # (N,) in the order of the answers, 1 where the score is below one half
    done: list[Completion]  # the model's own
    pieces: list[list[Tensor]]  # what the top reads, for every row


def new_nado(world: World) -> Nado:
    """One that changes nothing yet."""
    generator = torch.Generator().manual_seed(0)
    nado = Nado(world.head.weight, world.cfg.layers, style=world.cfg.style, generator=generator)
    return nado.to(world.head.device)


def _drawn(world: World, what: str, n: int, k: int) -> list[int]:
    """k of n places, by the seed's draw named `what`."""
    return torch.randperm(n, generator=seeding.torch_generator(world.cfg.seed, what))[:k].tolist()


def collect(world: World, name: str, *, n: int, prompts: int, mixed: int = 0) -> Samples:
    """n answers to each of as many of the related prompts, drawn from the model as it is (to the power tau) and
    labelled.

    mixed: related lines of the corpus besides: a clean model writes nothing from which R could learn what to avoid.
    """
    g = seeding.torch_generator(world.cfg.seed, f"samples {name}", str(world.head.device))
    asked = [world.asked[i] for i in _drawn(world, f"prompts {name}", len(world.asked), prompts)]
    done = generate(
        world.model,
        asked,
        sampling=Sampling(1 / world.cfg.tau, g, n=n),
        max_new_tokens=world.cfg.tokens,
        stop_ids=world.stop,
        batch=world.cfg.generation_batch,
        watch=world.below,
    )
    related = [i for i, r in enumerate(world.related) if r]
    extra = [related[i] for i in _drawn(world, f"lines {name}", len(related), mixed)]
    texts = [*(text_of(world, c.tokens) for c in done), *(world.lines[i].text for i in extra)]
    fine = (checked(world.oracle(texts)) < 0.5).double()
    each = [done[i * n : (i + 1) * n] for i in range(len(asked))]
    rows = [(p, [c.tokens for c in row]) for p, row in zip(asked, each)]
    pieces = [*(recorded(row) for row in each), *(world.pieces[i] for i in extra)]
    return Samples([*rows, *(world.rows[i] for i in extra)], fine, done, pieces)


@torch.inference_mode()
def hidden(world: World, rows, pieces, *, answers: int = 0) -> list[tuple]:
    """(final hidden states (M, D), tokens (M,), whose they are (M,), how many answers) of rows, `eval_batch` rows
    at a time, or about as many answers."""
    out, starts = [], list(range(0, len(rows), world.cfg.eval_batch))
    if answers:
        starts, held = [0], 0
        for i, (_, several) in enumerate(rows):
            if held >= answers:
                starts, held = [*starts, i], 0
            held += len(several)
    for i, j in zip(starts, [*starts[1:], len(rows)]):
        packed, h = trunk.top_states(world.top, rows[i:j], pieces[i:j])
        out.append((h.clone(), packed.target, packed.branch, packed.branches))
    return out


def learned(world: World, nado: Nado, name: str) -> dict[str, float]:
    """One iteration's labels and what R learns from them: sample as the settings say, then `teach`."""
    cfg = world.cfg
    return teach(world, nado, collect(world, name, n=cfg.each, prompts=cfg.n_asked, mixed=cfg.mixed), name)


def teach(world: World, nado: Nado, samples: Samples, name: str) -> dict[str, float]:
    """Fit R to the labels, at every prefix, consistent from token to token; `nado` is left as it is where one label
    is missing."""
    cfg, share, own = world.cfg, 1 - samples.fine.mean().item(), len(samples.done)
    log = {
        "answers": len(samples.fine),
        "attribute in samples": 1 - samples.fine[:own].mean().item(),
        "updated": float(0 < share < 1),
    }
    if not 0 < share < 1:
        return log
    groups, at = hidden(world, samples.rows, samples.pieces, answers=cfg.nado_batch), 0
    log_p = torch.tensor([sum(c.logprobs) for c in samples.done])
    weight = constraint.importance(log_p, log_p if cfg.tau == 1 else _drawn_by(world, groups, own)) * own
    weight = torch.cat([weight, torch.ones(len(samples.fine) - own)])
    parts = []
    for h, target, branch, count in groups:
        fine, own_weight = (x[at : at + count].to(h.device) for x in (samples.fine, weight))
        parts.append((h, target, branch, fine, own_weight))
        at += count
    optimizer = torch.optim.AdamW(nado.parameters(), lr=cfg.nado_lr, weight_decay=0.0)
    order = seeding.torch_generator(cfg.seed, f"nado {name}")
    for _ in track(range(cfg.nado_epochs), f"success rates, {name}"):
        sums = torch.zeros(2)
        for i in torch.randperm(len(parts), generator=order).tolist():
            h, target, branch, fine, own_weight = parts[i]
            bce, gap = nado_losses(world, nado, h, target, branch, fine, own_weight, order)
            optimizer.zero_grad(set_to_none=True)
            (bce + cfg.consistency * gap).backward()
            latents.check_gradients(nado.named_parameters(), f"success rates, {name}")
            optimizer.step()
            sums += torch.stack([bce.detach(), gap.detach()]).cpu() / len(parts)
    return log | {"cross-entropy of R": sums[0].item(), "inconsistency of R": sums[1].item()}


@torch.no_grad()
def _drawn_by(world: World, groups: Sequence[tuple], own: int) -> Tensor:
    """log-probabilities (own,) of the first answers under the law they were drawn by: each token at temperature
    1 / tau."""
    parts = []
    for h, target, branch, count in groups:
        tokens = [
            (world.head.logits(part).float() * world.cfg.tau).log_softmax(-1).gather(-1, which[:, None])[:, 0]
            for part, which in zip(h.split(CHUNK), target.split(CHUNK))
        ]
        parts.append(sum_logprob(torch.cat(tokens), branch, count).cpu())
    return torch.cat(parts)[:own]


def nado_losses(
    world: World,
    nado: Nado,
    h: Tensor,
    target: Tensor,
    branch: Tensor,
    fine: Tensor,
    weight: Tensor,
    order: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(prefix cross-entropy, inconsistency) of R on one group of answers, at a share `consistent` of its tokens."""
    h, target, branch = h.clone(), target.clone(), branch.clone()  # no inference tensors in a graph
    picked = nado(h, target)
    bce = constraint.prefix_bce(picked, branch, fine, weight=weight)
    if not world.cfg.consistency:
        return bce, bce.detach() * 0
    at = constraint.followers(branch)
    some = torch.randperm(len(at), generator=order)[: math.ceil(world.cfg.consistent * len(at))]
    at = at[some.to(at.device)]  # the whole vocabulary at each
    with torch.no_grad():
        log_p = world.head.logits(h[at + 1]).float().log_softmax(-1)
    return bce, constraint.consistency(nado.expected(h[at + 1], log_p), tuple(x[at] for x in picked))


@torch.no_grad()
def targets(world: World, nado: Nado, which: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """(hidden states (T, D) of the model as it is, success rate of the prompt) of lines: what R is read from while
    the model moves on."""
    out, rows, pieces = {}, [world.rows[i] for i in which], [world.pieces[i] for i in which]
    for (h, _, branch, count), at in zip(hidden(world, rows, pieces), range(0, len(rows), world.cfg.eval_batch)):
        h = h.clone()
        first = torch.cat([branch.new_ones(1, dtype=torch.bool), branch[1:] != branch[:-1]])
        rate = expected_success(world.head.logits(h[first]).float().log_softmax(-1), nado(h[first]))[0].exp()
        for k in range(count):
            out[which[at + k]] = (h[branch == k], rate[k])
    return out
