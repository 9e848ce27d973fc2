"""What a quantized weight is: integer codes on a grid, one scale and zero-point for every group of input channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

BITS = range(2, 9)


@dataclass(frozen=True)
class Quantized:
    """w_hat = (codes - zero) * scale, group by group.

    codes (out, in) uint8, or int8 if symmetric; scale (out, in/group) in the type it is stored in; zero (out, in/group)
    whole numbers, None if symmetric; group in weights.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int
    group: int

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """(codes - zero) * scale in float32 or in a finer dtype of the scale, then cast: (out, in)."""
        scale = self.scale.to(torch.promote_types(self.scale.dtype, torch.float32)).unsqueeze(-1)
        codes = self.codes.view(*self.scale.shape, self.group).to(scale.dtype)
        if self.zero is not None:
            codes.sub_(self.zero.unsqueeze(-1))
        return codes.mul_(scale).view(self.codes.shape).to(dtype)

    def to(self, device: torch.device | str) -> Quantized:
        """The same, elsewhere."""
        zero = None if self.zero is None else self.zero.to(device)
        return replace(self, codes=self.codes.to(device), scale=self.scale.to(device), zero=zero)

    @property
    def bits_per_weight(self) -> float:
        """Storage b + (s + b) / g with a scale of s bits and, if asymmetric, a b-bit zero-point for each group."""
        return self.bits + (8 * self.scale.element_size() + (0 if self.zero is None else self.bits)) / self.group


def check_format(bits: int, group: int | None, in_features: int) -> int:
    """Return the group size in weights (None or -1: a whole row); ValueError if bits or group cannot be used."""
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in BITS:
        raise ValueError(f"bits must be a whole number from {BITS[0]} to {BITS[-1]}, not {bits!r}")
    if group is None or group == -1:
        return in_features
    if isinstance(group, bool) or not isinstance(group, int) or group < 1:
        raise ValueError(f"group must be a positive whole number, or None or -1 for a whole row, not {group!r}")
    if in_features % group:
        raise ValueError(f"group {group} does not divide the {in_features} input channels; -1 takes a whole row")
    return group
