"""The world of an attribute-control run as one record: a language model of which the last blocks learn, the corpus it
learns, and the oracle of the attribute it is kept away from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.data import continuation, plain
from lib.engine import trunk
from lib.engine.head import Head, head_of
from lib.engine.models import end_of_turn
from lib.quantization import block_linears
from lib.studies.attribute_control.forum import Line

Oracle = Callable[[Sequence[str]], Tensor]  # texts -> scores in [0, 1] of having the attribute
Weights = dict[str, Tensor]
Row = tuple[list[int], list[list[int]]]  # (prompt, answers) as `logprobs.pack` takes them


class World(NamedTuple):
    """What all arms share; `known` fills up as lines are read."""

    cfg: Any  # the run's settings
    model: Any
    tokenizer: Any
    stop: list[int]  # token ids that end an answer
    end: int  # the one that a taught answer ends in
    oracle: Oracle
    lower: Any  # the frozen blocks
    top: Any  # the last blocks as a model of their own
    below: Any  # where `generate` records what the top reads
    head: Head
    linears: dict[str, nn.Linear]  # what learns
    start: Weights
    lines: list[Line]
    rows: list[Row]  # of the lines
    pieces: list[list[Tensor]]  # what the frozen blocks make of the lines
    related: list[bool]
    asked: list[list[int]]  # prompts of the related part, to sample from
    known: dict[Line, list[Tensor]]  # what the frozen blocks make of any line


def build(
    cfg, model, tokenizer, *, lines: Sequence[Line], asked: Sequence[str], oracle: Oracle, stop_ids: Sequence[int]
) -> World:
    """The world at its start: the frozen blocks read every line once."""
    if not lines or not asked:
        raise ValueError(
            f"a corpus and prompts of its related part are needed, given {len(lines)} lines and {len(asked)} prompts"
        )
    lower, top = trunk.split(model, cfg.blocks)
    linears = block_linears(top)
    world = World(
        cfg=cfg,
        model=model,
        tokenizer=tokenizer,
        stop=list(stop_ids),
        end=end_of_turn(tokenizer, stop_ids),
        oracle=oracle,
        lower=lower,
        top=top,
        below=trunk.end(model, cfg.blocks),
        head=head_of(top),
        linears=linears,
        start=weights_of(linears),
        lines=list(lines),
        rows=[],
        pieces=[],
        related=[x.domain == "forum" for x in lines],
        asked=[],
        known={},
    )
    rows = [row_of(world, x) for x in lines]
    return world._replace(rows=rows, pieces=read(world, lines), asked=[token_ids(world, p) for p in asked])


def token_ids(world: World, text: str) -> list[int]:
    """Token ids of plain text: no chat template, what the tokenizer puts in front stays."""
    return plain(world.tokenizer, text)


def row_of(world: World, line: Line) -> Row:
    """(prompt, [text and end]) as `logprobs.pack` takes it."""
    prompt, text = continuation(world.tokenizer, line.prompt, line.text, end=world.end)
    return prompt, [text]


def text_of(world: World, tokens: Sequence[int]) -> str:
    """The text of these tokens, without special ones."""
    return world.tokenizer.decode(list(tokens), skip_special_tokens=True)


def read(world: World, lines: Sequence[Line]) -> list[list[Tensor]]:
    """What the top reads of each line; the frozen blocks see a line once."""
    new = list(dict.fromkeys(x for x in lines if x not in world.known))
    if new:
        states = trunk.states(world.lower, [row_of(world, x) for x in new], batch=world.cfg.eval_batch)
        world.known.update(zip(new, states))
    return [world.known[x] for x in lines]


def weights_of(linears: dict[str, nn.Linear]) -> Weights:
    """The weights of these layers as they are."""
    return {n: m.weight.detach().clone() for n, m in linears.items()}


def snapshot(world: World) -> Weights:
    """The weights that learn, as they are."""
    return weights_of(world.linears)


@torch.no_grad()
def load(world: World, weights: Weights) -> None:
    """Put weights into the model."""
    for n, m in world.linears.items():
        m.weight.copy_(weights[n])
