"""Weights laid out once as the processor's products read them, while many small products follow: decoding on a CPU.

oneDNN lays a weight out anew at every product, which few rows do not pay back: laid out beforehand, products of 1 to 96
rows take 0.5 to 0.9 of the time in bfloat16, and the numbers are the same. It takes a second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from lib.engine import twins

PAYS = 32  # products of each weight from which on the layout, about ten of them, is paid back


def can(weight: Tensor) -> bool:
    """Whether this machine has a layout of its own for products with this weight."""
    return (
        not isinstance(weight, FakeTensor)  # shapes alone (`lib.engine.memory`)
        and not hasattr(weight, "to_local")  # one process's rows (`lib.engine.sharding`)
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def product(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """x W^T + b as a function of x (..., in), for a weight (out, in) that `can`, laid out for that many rows."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


@contextmanager
def prepacked(model, rows: int, *, products: int) -> Iterator[None]:
    """Inside, `model`'s linear layers multiply by weights laid out for about `rows` rows, without gradients; where
    `products` are too few to pay that back, or the machine has no such layout, everything stays as it is. Weights must
    not change inside."""
    twins.use(model)  # its weights may lie on the host
    head, chosen = model.get_output_embeddings(), []
    if products >= PAYS:
        chosen = [
            m
            for m in model.modules()
            if type(m) is nn.Linear and m is not head and "forward" not in m.__dict__ and can(m.weight)
        ]
    try:
        for m in chosen:
            m.__dict__["forward"] = product(m.weight, m.bias, rows)
        yield
    finally:
        for m in chosen:
            m.__dict__.pop("forward", None)


def logits(head, rows: int, *, products: int) -> Callable[[Tensor], Tensor]:
    """`head.logits` (`lib.engine.head`), by a weight laid out beforehand where that pays."""
    if products < PAYS or not head.plain or not can(head.weight):
        return head.logits
    return product(head.weight, None, rows)
