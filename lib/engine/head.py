"""The language-model head as one record: what turns final hidden states into logits, and back into their gradient.

M positions, D hidden size, V vocabulary. Not every head is a bare product: Phi adds a bias, Cohere and Granite scale,
Gemma-2 caps. Whoever forms logits takes a weight (V, D) or a `Head`; a whole model's is `head_of(model)`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# config names under which transformers keeps what follows the product; lib.engine.architecture compares at load
FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
MULTIPLIED = ("hyperclovax",)  # model types that multiply by `logits_scaling`; all others divide


class Head(NamedTuple):
    """logits = cap tanh(scale (h W^T + b) / cap), without the cap where there is none."""

    weight: Tensor  # (V, D)
    bias: Tensor | None = None  # (V,)
    scale: float = 1.0
    cap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the logits are h W^T and nothing else."""
        return self.bias is None and self.scale == 1 and self.cap is None

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def learns(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def logits(self, hidden: Tensor) -> Tensor:
        """(M, V) from hidden states (M, D): in their dtype for a plain head, else at least float32."""
        out = hidden @ self.weight.T
        if self.plain:
            return out
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        out = out if self.bias is None else out + self.bias
        out = out if self.scale == 1 else out * self.scale
        return out if self.cap is None else self.cap * torch.tanh(out / self.cap)

    def pull(self, grad: Tensor, logits: Tensor) -> Tensor:
        """The gradient (M, D) of hidden states whose `logits` (M, V) have the gradient `grad` (M, V):
        (grad scale (1 - (logits / cap)^2)) W."""
        if self.cap is not None:
            grad = grad * (1 - (logits / self.cap).square())
        grad = grad if self.scale == 1 else grad * self.scale
        return grad.to(self.weight.dtype) @ self.weight


def as_head(head: Tensor | Head) -> Head:
    """A weight (V, D) as the plain head it is."""
    return Head(head) if isinstance(head, Tensor) else head


def head_of(model) -> Head:
    """The head of a causal language model: weight and bias of its output embeddings, scale and cap of its config.

    ValueError if it has no output embeddings with a weight.
    """
    out = model.get_output_embeddings()
    if getattr(out, "weight", None) is None:
        raise ValueError(f"{type(model).__name__} has no language-model head with a weight: logits cannot be formed")
    config = getattr(model, "config", None)
    if config is None:
        return Head(out.weight, getattr(out, "bias", None))
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    scale = 1.0
    for name in FACTORS:
        scale *= _number(config, name) or 1.0
    scaling = _number(config, "logits_scaling")
    if scaling:
        scale = scale * scaling if config.model_type in MULTIPLIED else scale / scaling
    cap = next((c for c in (_number(config, name) for name in CAPS) if c), None)
    return Head(out.weight, getattr(out, "bias", None), scale, cap)


def _number(config, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
