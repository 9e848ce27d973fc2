"""Training through a quantizer: latent weights in full precision, quantized weights in every forward pass."""

from collections.abc import Callable

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, quantizer):
        return quantizer(w)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def straight_through(w: Tensor, quantizer: Callable[[Tensor], Tensor]) -> Tensor:
    """w_q = Q(w) forward, dL/dw = dL/dw_q backward; scales and zero-points follow w and carry no gradient.

    w of any shape that Q takes. The forward is Q(w) bit for bit for every Q; in floating point w + stopgrad(Q(w) - w)
    is not.
    Unlike LLM-QAT nothing is zeroed where |w| >= 2. Source: AsymWeightQuantizer of the TSLD release.
    """
    return _StraightThrough.apply(w, quantizer)


def codes_changed(before, after) -> float:
    """Share of weights whose level q - z differs, in [0, 1]: how many steps from zero the weight stands.

    A zero-point that moves by one gives every code of its group another name and leaves the weights where they are, so
    codes alone would count whole groups. The scales may have moved as well and are not compared.
    """
    if before.codes.shape != after.codes.shape:
        raise ValueError(
            f"codes of shapes {tuple(before.codes.shape)} and {tuple(after.codes.shape)} cannot be compared"
        )
    return (_levels(before) != _levels(after)).double().mean().item()


def _levels(q) -> Tensor:
    """q - z as whole numbers (out, in); the codes themselves where there is no zero-point (symmetric, NF4)."""
    zero, codes = getattr(q, "zero", None), q.codes.to(torch.int32)
    return codes if zero is None else codes - zero.to(torch.int32).repeat_interleave(q.group, 1)
