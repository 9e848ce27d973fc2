"""Log-probs of candidate answers in MRPO's world: under the policy as it stands, and under stored references, each
computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.engine import trunk
from lib.engine.logprobs import check_finite, sum_logprob, token_logprobs
from lib.harness import seeding
from lib.losses import references
from lib.studies.mrpo.candidates import Choice, gather
from lib.studies.mrpo.world import World, load, standing_in


@torch.inference_mode()
def under_top(world: World, rows, pieces) -> Tensor:
    """Summed log-probs of the answers of (prompt, answers) rows, one after the other, under the top as it stands."""
    out, batch = [], world.cfg.eval_batch
    for i in range(0, len(rows), batch):
        packed, hidden = trunk.top_states(world.top, rows[i : i + batch], pieces[i : i + batch])
        tokens = token_logprobs(hidden, world.head, packed.target)
        out.append(sum_logprob(tokens, packed.branch, packed.branches).cpu())
    return torch.cat(out)


def score(world: World, split: str, keep: Tensor | None = None) -> Tensor:
    """Summed log-probs (N, n) of every candidate, or of those in `keep` (N, n) and NaN elsewhere, under the top as it
    stands."""
    keep = _all(world, split) if keep is None else keep
    out, rows, pieces = torch.full(keep.shape, torch.nan), [], []
    for kept, (prompt, answers), (first, *others) in zip(keep, world.splits[split].rows(), world.pieces[split]):
        if kept.any():
            rows.append((prompt, [a for a, k in zip(answers, kept) if k]))
            pieces.append([first, *(p for p, k in zip(others, kept) if k)])
    out[keep] = check_finite(under_top(world, rows, pieces), keep.nonzero()[:, 0].tolist())
    return out


def of_pairs(world: World, rows, pieces, picks: Sequence[Choice]):
    """((packed, hidden), chosen (B,), rejected (B,)): what the top gives for these pairs."""
    packed, hidden = trunk.top_states(
        world.top,
        [(rows[c.row][0], [rows[c.row][1][c.chosen], rows[c.row][1][c.rejected]]) for c in picks],
        [[pieces[c.row][0], pieces[c.row][1 + c.chosen], pieces[c.row][1 + c.rejected]] for c in picks],
    )
    tokens = token_logprobs(hidden, world.head, packed.target)
    return (packed, hidden), *sum_logprob(tokens, packed.branch, packed.branches).view(-1, 2).unbind(1)


@torch.inference_mode()
def accuracy(world: World, split: str, picks: Sequence[Choice]) -> float:
    """Share of pairs whose chosen answer has the larger log-prob per token under the top as it stands: no reference
    enters."""
    rows, pieces, hits = world.splits[split].rows(), world.pieces[split], 0
    for i in range(0, len(picks), world.cfg.eval_batch):
        part = picks[i : i + world.cfg.eval_batch]
        _, w, l = of_pairs(world, rows, pieces, part)
        lengths = gather(world.tokens[split], part)
        hits += (w.cpu() / lengths[0] > l.cpu() / lengths[1]).sum().item()
    return hits / len(picks)


def matrix(world: World, reference: str, split: str, keep: Tensor | None = None) -> Tensor:
    """Log-probs (N, n) of the candidates in `keep` (all) under a stored model; each is computed once, the others may be
    NaN.

    "mis-scored" has none of its own: the complementary model's, of other texts.
    """
    keep = _all(world, split) if keep is None else keep
    if reference == "mis-scored":
        return _mis_scored(world, split, keep)
    known = world.matrices.setdefault((reference, split), torch.full(keep.shape, torch.nan))
    missing = keep & known.isnan()
    if missing.any():
        with standing_in(world):
            load(world, world.weights[reference])
            known[missing] = score(world, split, missing)[missing]
    return known


def _mis_scored(world: World, split: str, keep: Tensor) -> Tensor:
    order = torch.randperm(keep.numel(), generator=seeding.torch_generator(world.cfg.seed, f"mis-scored {split}"))
    of = torch.zeros(keep.numel(), dtype=torch.bool)
    of[order[keep.flatten()]] = True
    return matrix(world, "complementary", split, of.view_as(keep)).flatten()[order].view_as(keep)


def needed(world: World, split: str, picks: Sequence[Choice]) -> Tensor:
    """Which candidates (N, n) the pairs hold."""
    keep = torch.zeros_like(_all(world, split))
    for c in picks:
        keep[c.row, [c.chosen, c.rejected]] = True
    return keep


def table(world: World, names: Sequence[str], split: str, picks: Sequence[Choice]) -> references.Table:
    """Log-probs and token counts of the pairs under these references, the primary first."""
    keep, rows = needed(world, split, picks), []
    for n in names:
        counts = world.counts.get((n, split), world.tokens[split])
        rows.append((*gather(matrix(world, n, split, keep), picks), *gather(counts, picks)))
    return references.table(rows, names=names)


def _all(world: World, split: str) -> Tensor:
    return torch.ones(world.tokens[split].shape, dtype=torch.bool)
