"""RMSNorm as one step of the gradient, equal to the model's own forward to the bit.

Autograd keeps what lies between a norm's input and output in float32, 10 bytes a value; here the input alone is kept,
and the rest is formed again in fewer passes. Whether a module computes what is written here is not looked up but tried
when a model is loaded.
"""

from __future__ import annotations

import inspect
from types import MethodType

import torch
from torch import Tensor, nn

ROWS = 3  # of the made-up input on which a module is compared


class RMSNorm(torch.autograd.Function):
    """y = w x r with r = 1 / sqrt(mean(x^2) + eps), x (..., D), w (D,), computed in float32; arXiv 1910.07467, eq. 4.

    With n = x r and g = w dy: dx = r (g - n mean(g n)).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        r = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, r)
        return weight * (wide * r).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, r = ctx.saved_tensors
        wide, n = grad.to(r.dtype), x.to(r.dtype) * r
        d_weight = (wide * n).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        g = wide.mul_(weight.to(r.dtype)) if grad.dtype != r.dtype else wide * weight
        share = torch.linalg.vecdot(g, n)[..., None].div_(n.shape[-1])
        return g.sub_(n.mul_(share)).mul_(r).to(x.dtype), d_weight, None


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    return RMSNorm.apply(x, module.weight, module.variance_epsilon)


def use(model: nn.Module) -> int:
    """Give every norm of `model` that computes this the one-step form, in place; how many there are."""
    norms = [m for m in model.modules() if hasattr(m, "variance_epsilon") and _alone(m) and _equal(m)]
    for norm in norms:
        norm.forward = MethodType(_norm, norm)
    return len(norms)


def remove(model: nn.Module) -> None:
    """Give every norm its own forward back, in place: what a model does without us."""
    for norm in model.modules():
        if getattr(norm.__dict__.get("forward"), "__func__", None) is _norm:
            del norm.forward


def _alone(norm: nn.Module) -> bool:
    """Whether its input is all that it takes: some norms have a gate beside it."""
    return len(inspect.signature(type(norm).forward).parameters) == 2


@torch.no_grad()
def _equal(norm: nn.Module) -> bool:
    weight = getattr(norm, "weight", None)
    if weight is None or not weight.dtype.is_floating_point:
        return False
    x = torch.randn(ROWS, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    try:
        return torch.equal(type(norm).forward(norm, x), _norm(norm, x))
    except (AttributeError, RuntimeError, TypeError):  # another module under this name
        return False
