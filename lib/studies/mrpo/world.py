"""The world of an MRPO run as one record: a model of which the last blocks train, the candidate answers, and what is
known of them.

Only the last blocks train (`lib.engine.trunk`), so a reference made here is a set of weights for them, and its
log-probs of every candidate are one small matrix (`lib.studies.mrpo.scores`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.engine import adapters, trunk
from lib.engine.head import Head, head_of
from lib.harness import seeding
from lib.studies.mrpo.candidates import Candidates

Weights = dict[str, Tensor]


class World(NamedTuple):
    """What all arms share; the dicts at the end fill up as references are made and scored."""

    cfg: Any  # the run's settings
    run: Any  # where results go
    model: Any
    tokenizer: Any
    splits: dict[str, Candidates]  # by name: train, validation, test
    stop: list[int]  # token ids that end an answer
    top: Any  # the model's last blocks as a model of their own
    head: Head
    linears: dict[str, nn.Linear]  # what trains, layers of the last blocks or the adapters beside them
    pieces: dict[str, list]  # by split: what the frozen blocks make of every candidate
    tokens: dict[str, Tensor]  # by split: lengths (N, n) of the candidates
    weights: dict[str, Weights]  # by reference
    matrices: dict[tuple[str, str], Tensor]  # (reference, split) -> log-probs (N, n), NaN where nobody asked yet
    counts: dict[tuple[str, str], Tensor]  # the same of token counts, for references with a tokenizer of their own
    base_answers: dict[str, list]  # what the base writes to the test prompts of a category: the same for every task


def build(cfg, run, model, tokenizer, splits: dict[str, Candidates], *, stop_ids: Sequence[int]) -> World:
    """The world at its start: the frozen blocks read every candidate once. ValueError if no layer bears the name that
    `targets` asks for."""
    wanted = None if cfg.targets == "all" else cfg.items_of("targets")
    names = adapters.targets(model, blocks=cfg.blocks, names=wanted)
    if cfg.rank:
        g = seeding.torch_generator(cfg.seed, "adapter")
        linears = adapters.add(model, names, rank=cfg.rank, alpha=cfg.alpha, generator=g)
    else:
        linears = {n: model.get_submodule(n) for n in names}
    lower, top = trunk.split(model, cfg.blocks)
    pieces = {name: trunk.states(lower, c.rows(), batch=cfg.eval_batch) for name, c in splits.items()}
    return World(
        cfg=cfg,
        run=run,
        model=model,
        tokenizer=tokenizer,
        splits=splits,
        stop=list(stop_ids),
        top=top,
        head=head_of(top),
        linears=linears,
        pieces=pieces,
        tokens={name: lengths(c.answers) for name, c in splits.items()},
        weights={"base": snapshot(linears)},
        matrices={},
        counts={},
        base_answers={},
    )


def lengths(answers: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Token counts (N, n) of answers."""
    return torch.tensor([[len(a) for a in row] for row in answers], dtype=torch.float32)


def snapshot(linears: Mapping[str, nn.Linear]) -> Weights:
    """The weights of these layers as they are."""
    return {name: m.weight.detach().clone() for name, m in linears.items()}


@torch.no_grad()
def load(world: World, weights: Weights) -> None:
    """Put weights into the top, and so into the whole model."""
    for name, m in world.linears.items():
        m.weight.copy_(weights[name])


@contextmanager
def standing_in(world: World) -> Iterator[None]:
    """with standing_in(world): other weights may be loaded; afterwards the policy stands as before."""
    before = snapshot(world.linears)
    try:
        yield
    finally:
        load(world, before)
