"""NF4 (arXiv 2305.14314): 16 levels at the quantiles of a normal distribution, one absolute maximum per block of
weights."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor, nn

from lib.quantization.blocks import block_linears, check_covered

OFFSET = 0.9677083  # the outermost probability: keeps the end levels finite; from the release


def nf4_table() -> Tensor:
    """The 16 levels, float32, rising from -1 to 1: 8 positive and 7 negative normal quantiles and 0, divided by the
    largest.

    positive: ppf(linspace(OFFSET, 1/2, 9)) without the last; negative: -ppf(linspace(OFFSET, 1/2, 8)) without the last.
    """
    positive = norm.ppf(np.linspace(OFFSET, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(OFFSET, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([positive, [0.0], negative]))
    return torch.tensor(levels / levels.max(), dtype=torch.float32)


@dataclass(frozen=True)
class NF4:
    """A weight as bitsandbytes stores it: packed (two codes a byte, the first in the high nibble), state (its
    scales)."""

    packed: Tensor
    state: Any = field(repr=False)
    shape: tuple[int, int]
    block: int
    bits: int = 4

    @property
    def codes(self) -> Tensor:
        """Indices into the table, (out, in) uint8."""
        both = self.packed.flatten()
        return torch.stack([both >> 4, both & 15], 1).flatten()[: self.shape[0] * self.shape[1]].view(self.shape)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """table[code] * absmax of the block, (out, in)."""
        flat = _bitsandbytes().dequantize_4bit(self.packed, self.state).flatten()
        return flat[: self.shape[0] * self.shape[1]].view(self.shape).to(dtype)

    @property
    def bits_per_weight(self) -> float:
        """4 + 32 / block; double-quantized: 4 + 8 / block + 32 / (256 block)."""
        return self.bits + (8 + 32 / 256 if self.state.nested else 32) / self.block


def quantize(w: Tensor, *, block: int, double_quant: bool) -> NF4:
    """index = nearest level to w / a, a = max|w| over `block` consecutive weights of the flattened matrix (out, in).

    double_quant stores the a's themselves in 8 bits, blocks of 256, after taking off their mean. Runs on CPU and GPU.
    """
    if w.ndim != 2:
        raise ValueError(f"a weight is a matrix (out, in), not of shape {tuple(w.shape)}")
    if block not in (32, 64, 128, 256, 512, 1024):
        raise ValueError(f"block must be a power of two from 32 to 1024, not {block!r}")
    # flat: the CPU kernel of bitsandbytes 0.50 reads the wrong absmax where a row is no multiple of the block; even: it
    # compiles a fallback for odd numbers, and for blocks over 1024, which takes a C++ compiler and many seconds
    flat = nn.functional.pad(w.detach().float().flatten(), (0, w.numel() % 2))
    packed, state = _bitsandbytes().quantize_4bit(
        flat, blocksize=block, compress_statistics=double_quant, quant_type="nf4"
    )
    return NF4(packed, state, (w.shape[0], w.shape[1]), block)


def fake_quant(w: Tensor, *, block: int, double_quant: bool) -> Tensor:
    """w_hat as float32 (out, in): what training through NF4 needs with `ste.straight_through`."""
    return quantize(w, block=block, double_quant=double_quant).dequantize()


@torch.no_grad()
def apply_nf4(
    model: nn.Module,
    *,
    block: int = 64,
    double_quant: bool = True,
    track: Callable[[Iterable, str], Iterable] = lambda it, desc: it,
) -> dict[str, NF4]:
    """NF4 on every linear layer inside the decoder blocks; the model then holds the dequantized weights in its own
    dtype."""
    check_covered(model)
    result = {}
    for name, linear in track(block_linears(model).items(), "NF4"):
        result[name] = quantize(linear.weight, block=block, double_quant=double_quant)
        linear.weight.copy_(result[name].dequantize())
    return result


def _bitsandbytes():
    # its import complains about an optional kernel package that nothing here calls
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        import bitsandbytes.functional
    finally:
        logger.setLevel(level)
    return bitsandbytes.functional
