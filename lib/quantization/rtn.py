"""Round to nearest (RTN): each group of consecutive input channels of one output row gets its own uniform grid.

Equal to GPTQ's grid rather than AWQ's: the range is stretched to hold zero. Without that, an all-positive group clamps
its zero-point and loses its values altogether.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lib.quantization.blocks import block_linears, check_covered
from lib.quantization.format import Quantized, check_format

TINY = 1e-12  # smallest step: keeps w / s finite in a group of zeros


def levels(bits: int, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest code: 0 .. 2^b - 1, or -2^(b-1) .. 2^(b-1) - 1 if symmetric."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def grid(w: Tensor, *, bits: int, symmetric: bool, scales: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
    """Step and zero-point of each group, w (..., g) -> (..., 1).

    s = (max(w, 0) - min(w, 0)) / (2^b - 1), z = round(-min(w, 0) / s); symmetric: s = max|w| / (2^(b-1) - 1), z = None.
    scales: the type steps are stored in. They are rounded to it here, before anything is rounded to them, so that the
    weights a model is trained or measured with are those that a file holds.
    """
    low, high = w.amin(-1, keepdim=True).clamp_(max=0), w.amax(-1, keepdim=True).clamp_(min=0)
    scale = torch.maximum(high, -low).div_(2 ** (bits - 1) - 1) if symmetric else (high - low).div_(2**bits - 1)
    scale = scale.clamp_min_(TINY).to(scales or w.dtype).to(w.dtype)
    return scale, None if symmetric else (-low).div_(scale).round_().clamp_(max=2**bits - 1)


def to_codes(w: Tensor, scale: Tensor, zero: Tensor | None, *, bits: int, symmetric: bool) -> Tensor:
    """q = clamp(round(w / s) + z), still floating point; every quantizer here rounds through this line."""
    codes = torch.div(w, scale).round_()
    if zero is not None:
        codes.add_(zero)
    return codes.clamp_(*levels(bits, symmetric))


def from_codes_(codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """w_hat = (q - z) s, written over the codes."""
    if zero is not None:
        codes.sub_(zero)
    return codes.mul_(scale)


def _grouped(w: Tensor, bits: int, group: int | None) -> Tensor:
    if w.ndim != 2 or not w.is_floating_point():
        raise ValueError(f"a weight is a floating-point matrix (out, in), not {w.dtype} of shape {tuple(w.shape)}")
    group = check_format(bits, group, w.shape[1])
    # float64 stays, so that formulas can be checked to the last digit
    return w.detach().to(torch.promote_types(w.dtype, torch.float32)).reshape(w.shape[0], -1, group)


def quantize(
    w: Tensor, *, bits: int, group: int | None, symmetric: bool, scales: torch.dtype | None = None
) -> Quantized:
    """q = clamp(round(w / s) + z, 0, 2^b - 1), s and z per group as in `grid`: w (out, in) -> codes, scales,
    zero-points.

    group: consecutive input channels that share a scale, None or -1 for the whole row. scales: the type they are stored
    in, float32 (or that of a finer w) if None. ValueError if bits is not 2..8, if group does not divide the input
    channels, or if w is not finite. Sources: arXiv 2210.17323 (grid), 2306.00978 (groups).
    """
    groups = _grouped(w, bits, group)
    scale, zero = grid(groups, bits=bits, symmetric=symmetric, scales=scales)
    if not torch.isfinite(scale).all():
        raise ValueError("the weight holds values that are not finite and cannot be quantized")
    codes = to_codes(groups, scale, zero, bits=bits, symmetric=symmetric)
    scale, zero = scale.squeeze(-1).to(scales or scale.dtype), None if zero is None else zero.squeeze(-1)
    return pack(codes.view(w.shape), scale, zero, bits=bits)


def pack(codes: Tensor, scale: Tensor, zero: Tensor | None, *, bits: int) -> Quantized:
    """Floating-point codes (out, in) with scale and zero (out, in/g) -> Quantized."""
    codes = codes.to(torch.int8 if zero is None else torch.uint8)
    return Quantized(codes, scale, zero, bits, codes.shape[1] // scale.shape[1])


def fake_quant(
    w: Tensor, *, bits: int, group: int | None, symmetric: bool, scales: torch.dtype | None = None
) -> Tensor:
    """w_hat = (q - z) s as floating point (out, in), bit-identical to quantize(...).dequantize() but without the codes.

    Meant for every training step: six in-place passes after the two that find each group's range. Carries no gradient;
    see `ste.straight_through`. Errors as `quantize`, except that values which are not finite are passed on.
    """
    groups = _grouped(w, bits, group)
    scale, zero = grid(groups, bits=bits, symmetric=symmetric, scales=scales)
    return from_codes_(to_codes(groups, scale, zero, bits=bits, symmetric=symmetric), scale, zero).view(w.shape)


@torch.no_grad()
def apply_rtn(
    model: nn.Module,
    *,
    bits: int,
    group: int | None,
    symmetric: bool,
    scales: torch.dtype | None = None,
    track: Callable[[Iterable, str], Iterable] = lambda it, desc: it,
) -> dict[str, Quantized]:
    """RTN on every linear layer inside the decoder blocks; the model then holds the dequantized weights in its own
    dtype."""
    check_covered(model)
    linears = block_linears(model)
    for linear in linears.values():
        check_format(bits, group, linear.in_features)
    result = {}
    for name, linear in track(linears.items(), f"RTN {bits} bits"):
        result[name] = quantize(linear.weight, bits=bits, group=group, symmetric=symmetric, scales=scales)
        linear.weight.copy_(result[name].dequantize(linear.weight.dtype))
    return result
