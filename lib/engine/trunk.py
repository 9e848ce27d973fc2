"""Train only the last blocks of a model: what the frozen blocks below them compute is computed once, however often it
is needed.

`split` gives two models that share the weights of one: the trunk (embeddings and the first blocks) and the top (the
last blocks, final norm and head). Training the top trains the whole model's last blocks; steps and scores cost as much
as the top is deep.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.engine.logprobs import forward, hidden_states, pack
from lib.engine.rows import check_rows
from lib.quantization.blocks import decoder_blocks

Ids = Sequence[int]


def split(model, blocks: int):
    """(trunk, top): the first blocks without the final norm, and the last `blocks` ones; both hold `model`'s own
    weights.

    ValueError unless the model has that many blocks. The top reads `inputs_embeds`; neither keeps a KV cache.
    """
    names = list(decoder_blocks(model))
    if not 1 <= blocks <= len(names):
        raise ValueError(f"the last blocks to train are 1 to {len(names)}, given {blocks}")
    path = names[0].rpartition(".")[0]  # where the ModuleList of blocks hangs
    trunk, top = _part(model, path, slice(0, len(names) - blocks)), _part(model, path, slice(len(names) - blocks, None))
    base = trunk.base_model
    norm = [n for n, m in base.named_children() if n.endswith("norm")]
    if len(norm) != 1:
        raise ValueError(f"{type(base).__name__} has {len(norm)} final norms, one is needed to split it")
    setattr(base, norm[0], nn.Identity())
    return trunk, top


def _part(model, path: str, keep: slice):
    """A model that shares every weight with `model` but has only some of its blocks."""
    shared = {id(p): p for p in [*model.parameters(), *model.buffers()]}
    part = copy.deepcopy(model, memo=dict(shared))  # what is in the memo is taken, not copied
    parent, _, name = path.rpartition(".")
    owner = part.get_submodule(parent)
    setattr(owner, name, nn.ModuleList(list(getattr(owner, name))[keep]))
    part.config = copy.deepcopy(model.config)
    part.config.num_hidden_layers = part.base_model.config.num_hidden_layers = len(getattr(owner, name))
    return part


@torch.inference_mode()
def states(trunk, rows: Sequence[tuple[Ids, Sequence[Ids]]], *, batch: int) -> list[list[Tensor]]:
    """What the top reads, for every (prompt, branches) row: [prompt's (P, D), first branch's (T, D), ...] on the CPU.

    The branches of a row share its prompt and do not see each other, as in `logprobs.pack`.
    """
    check_rows(trunk, [p for p, _ in rows])
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + sum(map(len, rows[i][1])))
    out: list[list[Tensor]] = [[] for _ in rows]
    for i in range(0, len(order), batch):
        part = order[i : i + batch]
        packed = pack([rows[r] for r in part]).to(trunk.device)
        for h, r in zip(forward(trunk, packed).cpu(), part):
            lengths = [len(rows[r][0]), *map(len, rows[r][1])]
            out[r] = [x.clone() for x in h[: sum(lengths)].split(lengths)]
    return out


def end(model, blocks: int) -> nn.Module:
    """The trunk's last module inside `model`: `generate(watch=...)` keeps what it gives, which is what the top
    reads."""
    below = list(decoder_blocks(model).values())[:-blocks]
    return below[-1] if below else model.get_input_embeddings()


def top_states(top, rows: Sequence[tuple[Ids, Sequence[Ids]]], pieces: Sequence[Sequence[Tensor]]):
    """(packed rows, hidden states (M, D) that predict their scored tokens), from the trunk's states of each row's
    pieces."""
    packed = pack(rows).to(top.device)
    embeds = nn.utils.rnn.pad_sequence([torch.cat(list(p)) for p in pieces], batch_first=True).to(top.device)
    return packed, hidden_states(top, packed, embeds)
