"""Several processes, one model: torch's FSDP2 around the blocks, and the few sums that training then needs.

Each process holds its rows of every block's weights, latents and moments, gathers a block when it is used, and takes
its part of every batch (`training.fit` does). Whatever else a process does, such as scoring, all do alike. In one
process everything here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lib.quantization.blocks import block_linears, decoder_blocks


def ranks() -> tuple[int, int]:
    """(which process this is, how many there are)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def join() -> None:
    """Meet the other processes of this run, where the runner has begun several (`lib.harness.ranks`); once, before a
    model is loaded. On cuda each takes the GPU of its number."""
    told = os.environ.get("PLUMBLINE_RANKS")
    if not told or dist.is_initialized():
        return
    rank, size = (int(x) for x in told.split(" of "))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    store = f"file://{os.environ['PLUMBLINE_STORE']}"
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", init_method=store, rank=rank, world_size=size)


def check(model: nn.Module, processes: int) -> None:
    """ValueError where the rows of a block's weights do not divide among so many processes."""
    layers = block_linears(model)
    if odd := [f"{n} ({m.out_features} rows)" for n, m in layers.items() if m.out_features % processes]:
        raise ValueError(f"{processes} processes do not divide the rows of {', '.join(odd[:3])}")


@lru_cache
def mesh(kind: str, size: int):
    """All processes in a row, on this kind of device."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(kind, (size,))


def shard(model, trained: Iterable[str]):
    """Give every process its rows of the blocks' weights, in place. trained: names of the linears that will learn.

    ValueError where rows do not divide among the processes. Call it before anything is trained or scored.
    """
    rank, size = ranks()
    if size == 1:
        return model
    from torch.distributed.fsdp import fully_shard

    check(model, size)
    layers = block_linears(model)
    for name in trained:
        layers[name].weight.requires_grad_(True)  # gathered weights are what they were at the first use
    for block in decoder_blocks(model).values():
        fully_shard(block, mesh=mesh(model.device.type, size), reshard_after_forward=True)
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    model.base_model(input_ids=ids, use_cache=False)  # gathered once outside of inference mode, they can have gradients
    return model


def local(p: Tensor) -> Tensor:
    """This process's rows of a weight."""
    return p.to_local() if hasattr(p, "to_local") else p


def part(x: Tensor, like: Tensor) -> Tensor:
    """This process's rows of x, which is whole, as the weight `like` is divided."""
    return x[rows(like)] if hasattr(like, "to_local") and not hasattr(x, "to_local") else local(x)


def full(p: Tensor) -> Tensor:
    """The whole of a weight, on every process; all must ask."""
    return p.full_tensor() if hasattr(p, "full_tensor") else p


def rows(p: Tensor) -> slice:
    """Which rows of the whole weight those are."""
    own = len(local(p))
    return slice(0, own) if not hasattr(p, "to_local") else slice(ranks()[0] * own, (ranks()[0] + 1) * own)


def share(indices: Sequence[int]) -> list[int]:
    """This process's part of a batch. ValueError where it does not divide."""
    rank, size = ranks()
    if len(indices) % size:
        raise ValueError(f"a batch of {len(indices)} does not divide among {size} processes")
    return list(indices[rank::size])


def summed(x: Tensor) -> Tensor:
    """The sum over all processes."""
    if ranks()[1] > 1:
        dist.all_reduce(x)
    return x


def whole(x: Tensor, like: Tensor) -> Tensor:
    """All rows of what each process has its rows of, as the weight `like` is divided; on every process."""
    if not hasattr(like, "to_local"):
        return x
    parts = [torch.empty_like(x) for _ in range(ranks()[1])]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
