"""Grouped-query attention without repeating keys and values: the one attention every model here runs.

transformers' `sdpa` copies keys and values once per query head of a group as soon as there is a mask, which is most of
the memory traffic of decoding. Here the query heads of a group become extra query positions of their shared key-value
head, so the fused kernels of torch read each key once, on CPU and on CUDA alike. Same numbers up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NAME = "plumbline"
# keys up to which a CPU's gradient takes plain products: half the time of the fused one at 100 keys, equal at 250
SHORT = 192


class _Short(torch.autograd.Function):
    """The fused forward, so that values are those of scoring; the gradient through plain products, with scores formed
    anew.

    With P = softmax(q k^T scale + mask) and O = P v: dS = P (dO v^T - rowsum(dO O)), dq = dS k scale, dk = dS^T q
    scale, dv = P^T dO.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask, scale):
        out = F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
        ctx.save_for_backward(query, key, value, mask, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key, value, mask, out = ctx.saved_tensors
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=grad.dtype).masked_fill(~mask, torch.finfo(grad.dtype).min)
        scaled = query * ctx.scale
        scores = scaled @ key.transpose(-1, -2)
        p = (scores if mask is None else scores + mask).softmax(-1)
        ds = (grad @ value.transpose(-1, -2)).sub_((grad * out).sum(-1, keepdim=True)).mul_(p)
        return (ds @ key).mul_(ctx.scale), ds.transpose(-1, -2) @ scaled, p.transpose(-1, -2) @ grad, None, None


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool, scale: float | None
) -> Tensor:
    """softmax(q k^T scale + mask) v, query (B, H, Q, D), key and value (B, H/G, K, D) -> (B, H, Q, D).

    mask (B or 1, 1, Q, K), bool (True: allowed) or additive; `causal` (Q = K) only without one.
    """
    b, h, q, d = query.shape
    groups = h // key.shape[1]
    if groups == 1:
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)
    if mask is None and causal:
        mask = torch.ones(q, key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
    folded = query.reshape(b, h // groups, groups * q, d)
    if mask is not None:
        mask = mask.expand(-1, groups, -1, -1).reshape(mask.shape[0], 1, groups * q, mask.shape[-1])
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if learns and query.device.type == "cpu" and key.shape[2] <= SHORT:
        out = _Short.apply(folded, key, value, mask, d**-0.5 if scale is None else scale)
    else:
        out = F.scaled_dot_product_attention(folded, key, value, mask, scale=scale)
    return out.view(b, h, q, d)


def _forward(
    module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, position_bias=None, **kwargs
):
    """The form transformers calls."""
    if dropout or position_bias is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout,
            scaling,
            is_causal,
            position_bias=position_bias,
            **kwargs,
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = bool(causal) and attention_mask is None and query.shape[2] > 1
    if causal and key.shape[2] > query.shape[2]:  # an empty static cache: as transformers' sdpa does
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    out = grouped_attention(query, key, value, attention_mask, causal=causal, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def use(model) -> None:
    """Make `model` attend through `grouped_attention`; masks are built as for `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
