"""Grouped-query attention without repeating keys and values: the one attention every model here runs.

transformers' `sdpa` copies keys and values once per query head of a group as soon as there is a mask, which is most of
the memory traffic of decoding. Here the query heads of a group become extra query positions of their shared key-value
head, so the fused kernels of torch read each key once, on CPU and on CUDA alike. Same numbers up to rounding.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.engine.cuts import Cut, Part

NAME = "plumbline"
# keys up to which a CPU's gradient takes plain products: half the time of the fused one at 100 keys, equal at 250
SHORT = 192


class Layout(NamedTuple):
    """Who may see whom, (B, 1, Q, K) bool; positions of queries (B, Q) and keys (B, K); the rows in parts; masks that
    layers have in common, as they are added to the scores."""

    mask: Tensor
    query: Tensor
    key: Tensor
    cut: Cut | None
    added: dict[tuple, tuple[Tensor, Tensor]]


_LAYOUT: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def layout(mask: Tensor, query: Tensor, key: Tensor, *, model, cut: Cut | None = None):
    """A forward of `model` whose slots are no plain sequence: mask (B, 1, Q, K) bool, who may see whom at all; query
    (B, Q) and key (B, K), their positions; cut, the same rows in parts. Gives the `attention_mask` to call the model
    with.

    With our attention whatever a layer restricts further (a sliding window, a chunk) counts in positions, not in slots.
    For sdpa and eager the mask is all that the layers get; ValueError for an attention that reads no such mask.
    """
    kind = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if kind != NAME:
        yield _handed(mask, kind, model)
        return
    with _within(Layout(mask, query, key, cut, {})):
        # a mask of two axes: without any, transformers would take restarting positions for sequences of its own
        yield torch.ones(mask.shape[0], mask.shape[-1], dtype=torch.bool, device=mask.device)


def again() -> tuple:
    """For a checkpointed block (`torch.utils.checkpoint`): contexts of its forward and of the forward that is done
    again, which finds the layout of the first."""
    return nullcontext(), _within(_LAYOUT.get())


@contextmanager
def _within(here: Layout | None):
    token = _LAYOUT.set(here)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def _handed(mask: Tensor, kind: str | None, model) -> Tensor:
    """The mask as another attention reads it: sdpa as it is, eager as what is added to the scores."""
    if kind in (None, "sdpa"):
        return mask
    if kind != "eager":
        raise ValueError(
            f"packed rows are read by our attention, by sdpa or by eager, {name_of(model)} has {kind}: "
            "load it with lib.engine.models.load, or call model.set_attn_implementation('sdpa')"
        )
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(model.dtype).min
    )


def _mask(batch_size: int, q_length: int, kv_length: int, *args, mask_function=None, **kwargs) -> Tensor | None:
    """The form in which transformers asks for a mask: a rule (`mask_function`) of query and key index, which inside a
    `layout` are positions."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    mask_function = causal_mask_function if mask_function is None else mask_function
    here = _LAYOUT.get()
    if here is None:
        return sdpa_mask(batch_size, q_length, kv_length, *args, mask_function=mask_function, **kwargs)
    if mask_function is causal_mask_function:
        return here.mask
    rows = torch.arange(len(here.mask), device=here.mask.device)[:, None, None, None]
    query, key = here.query[:, None, :, None], here.key[:, None, None, :]
    return here.mask & mask_function(rows, torch.zeros_like(rows), query, key)


def shares_prompt(model) -> bool:
    """Whether branches of a prompt may go through one forward of this model; `lib.engine.architecture` finds out at
    load."""
    return getattr(model, "shares_prompt", True)


def name_of(model) -> str:
    """The architecture, as messages name it."""
    config = getattr(model, "config", None)
    return f"{type(model).__name__} ({getattr(config, 'model_type', 'no model type')})"


class _Short(torch.autograd.Function):
    """Attention over few keys on a CPU: values as in scoring, the gradient through plain products.

    With P = softmax(q k^T scale + mask) and O = P v: dS = P (dO v^T - rowsum(dO O)), dq = dS k scale, dk = dS^T q
    scale, dv = P^T dO. P is kept where the forward formed it, and formed where it was fused.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask, scale):
        p = _weights(query, key, mask, scale) if _plain(query) else None
        out = F.scaled_dot_product_attention(query, key, value, mask, scale=scale) if p is None else p @ value
        ctx.save_for_backward(query, key, value, mask, out, p)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key, value, mask, out, p = ctx.saved_tensors
        p = _weights(query, key, mask, ctx.scale) if p is None else p
        ds = (grad @ value.transpose(-1, -2)).sub_((grad * out).sum(-1, keepdim=True)).mul_(p).mul_(ctx.scale)
        return ds @ key, ds.transpose(-1, -2) @ query, p.transpose(-1, -2) @ grad, None, None


def _plain(query: Tensor) -> bool:
    """Whether plain products are quicker than the fused kernel: in bfloat16 without AMX half its time at 100 keys, as
    long at 400, and what comes out of a model is no further from float32."""
    return query.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    scores = (query * scale) @ key.contiguous().transpose(-1, -2)
    return (scores if mask is None else scores.add_(mask)).softmax(-1)


def _few_keys(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if _plain(query):
        return _weights(query, key, mask, scale) @ value
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)


def _added(mask: Tensor, groups: int, dtype: torch.dtype, part: Part | None = None) -> Tensor:
    """A mask (B, 1, Q, K), or a part's share of it, as it is added to the scores (B, H, groups Q, K) of folded
    queries; inside a `layout` made once for all layers that have the mask in common."""
    here = _LAYOUT.get()
    known = {} if here is None else here.added
    key = (id(mask), id(part), groups, dtype)
    if key not in known:
        added = mask if part is None else part.mask(mask)
        if added.dtype == torch.bool:
            zero = torch.zeros(added.shape, dtype=dtype, device=mask.device)
            added = zero.masked_fill_(~added, torch.finfo(dtype).min)
        n, _, q, k = added.shape
        folded = added.expand(-1, groups, -1, -1).reshape(n, 1, groups * q, k)
        known[key] = (mask, folded)  # the mask is kept: another could come to its id
    return known[key][1]


def _folded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Attention of folded queries (B, H, groups Q, D), by whichever kernel is quickest here."""
    if query.device.type != "cpu" or key.shape[2] > SHORT:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return (_Short.apply if learns else _few_keys)(query, key, value, mask, scale)


def _apart(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None, cut: Cut) -> Tensor:
    """`grouped_attention` of rows in parts, each of which sees the keys of its own alone."""
    b, h, q, d = query.shape
    heads = key.shape[1]
    flat_q, flat_k, flat_v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # (B L, heads, D)
    out = []
    for part in cut.parts:
        (n, t), k = part.query.shape, part.key.shape[1]
        own = flat_q.index_select(0, part.query.flatten()).view(n, t, heads, h // heads, d)
        folded = own.permute(0, 2, 3, 1, 4).reshape(n, heads, -1, d)
        keys, values = (
            x.index_select(0, part.key.flatten()).view(n, k, heads, -1).transpose(1, 2) for x in (flat_k, flat_v)
        )
        got = _folded(folded, keys, values, _added(mask, h // heads, query.dtype, part), scale)
        out.append(got.view(n, heads, h // heads, t, -1).permute(0, 3, 1, 2, 4).reshape(n * t, h, -1))
    return torch.cat(out).index_select(0, cut.back).view(b, q, h, -1).transpose(1, 2)


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool, scale: float | None
) -> Tensor:
    """softmax(q k^T scale + mask) v, query (B, H, Q, D), key and value (B, H/G, K, D) -> (B, H, Q, D).

    mask (B or 1, 1, Q, K), bool (True: allowed) or additive; `causal` (Q = K) only without one. Inside a `layout` that
    knows its rows in parts a CPU attends part by part.
    """
    b, h, q, d = query.shape
    groups, on_cpu, here = h // key.shape[1], query.device.type == "cpu", _LAYOUT.get()
    if on_cpu and here is not None and here.cut is not None and mask is not None and mask.shape == here.mask.shape:
        return _apart(query, key, value, mask, scale, here.cut)
    if groups == 1 and not (on_cpu and key.shape[2] <= SHORT):
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)
    if mask is None and causal:
        mask = torch.ones(q, key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
    mask = mask if mask is None else _added(mask, groups, query.dtype)
    return _folded(query.reshape(b, h // groups, groups * q, d), key, value, mask, scale).view(b, h, q, -1)


def scored_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    causal: bool,
    scale: float | None,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(cap tanh(q k^T scale / cap) + mask) v by plain products, shapes as in `grouped_attention`.

    sinks (H,): one more score a head that takes its share of the softmax and gives nothing.
    """
    b, h, q, d = query.shape
    groups = h // key.shape[1]
    folded = query.reshape(b, h // groups, groups, q, d)
    scores = torch.einsum("bhgqd,bhkd->bhgqk", folded, key) * (d**-0.5 if scale is None else scale)
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    if mask is None and causal:
        mask = torch.ones(q, key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
    if mask is not None:
        mask = mask[:, :, None]
        low = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, low) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        extra = sinks.to(scores.dtype).view(1, h // groups, groups, 1, 1).expand(b, -1, -1, q, 1)
        scores = torch.cat([scores, extra], -1)
    p = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    out = torch.einsum("bhgqk,bhkd->bhgqd", p if sinks is None else p[..., :-1], value)
    return out.reshape(b, h, q, -1)


def _forward(
    module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, position_bias=None,
    softcap=None, s_aux=None, **kwargs,
):  # fmt: skip
    """The form transformers calls. A cap on the scores (Gemma-2) or sinks (gpt-oss) need the scores themselves."""
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
    if softcap is not None or s_aux is not None:
        out = scored_attention(
            query, key, value, attention_mask, causal=causal, scale=scaling, cap=softcap, sinks=s_aux
        )
    else:
        out = grouped_attention(query, key, value, attention_mask, causal=causal, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def use(model) -> None:
    """Make `model` attend through `grouped_attention`; masks are built as for `sdpa`, and inside a `layout` for it."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)
