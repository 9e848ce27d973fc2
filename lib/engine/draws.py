"""A token out of each row of logits: the largest, or an exact sample without sorting, from all tokens or a nucleus."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256  # vocabulary entries summed together when drawing a token
TRIES = 8  # draws from the whole vocabulary before one out of the nucleus is made by sorting
ROWS = 16  # logits in float32 at a time: 3 MB at 49k entries, which stays in the processor's cache


def draw(
    logits: Tensor, temperature: float, generator: torch.Generator | None, *, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One token per row of logits (B, V), (B,), and its log-probability at temperature 1 without top-p, (B,).

    temperature 0 takes the largest. Otherwise an exact sample, by inverting the cumulative distribution: no sort, no
    noise of the vocabulary's size, one random number a row (some more with top-p). Raises FloatingPointError naming the
    rows whose logits are not finite.
    """
    u = None
    if temperature > 0:
        device = logits.device if generator is None else generator.device
        each = 1 if top_p == 1 else TRIES + 1
        u = torch.rand(len(logits), each, dtype=torch.float64, generator=generator, device=device).to(logits.device)
    parts = [slice(i, i + ROWS) for i in range(0, len(logits), ROWS)]
    tokens, norms = zip(*(_draw(logits[s], temperature, None if u is None else u[s], top_p) for s in parts))
    token, norm = torch.cat(tokens), torch.cat(norms)
    if not torch.isfinite(norm).all():
        raise FloatingPointError(
            f"the model's logits are not finite in rows {(~torch.isfinite(norm)).nonzero()[:, 0].tolist()[:8]}"
        )
    return token, logits.gather(-1, token[:, None])[:, 0] - norm


def _draw(logits: Tensor, temperature: float, u: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """(token, log of the sum of exp(logits)) of a few rows; the float32 copy is overwritten on the way."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    top, token = x.max(-1, keepdim=True)
    if u is not None and top_p < 1:
        token = _nucleus((x - top).div_(temperature).exp_(), u, top_p)[:, None]
    elif u is not None and temperature != 1:
        token = invert((x - top).div_(temperature).exp_(), u)[:, None]
    x = x.sub_(top).exp_()
    norm = top[:, 0] + x.sum(-1).log()
    if u is not None and top_p == 1 and temperature == 1:
        token = invert(x, u)[:, None]
    return token[:, 0], norm


def _nucleus(weight: Tensor, u: Tensor, top_p: float) -> Tensor:
    """A token (B,) of each row in proportion to weight (B, V), out of the smallest set that holds top_p of it (equal
    ones: the first), from u (B, tries + 1).

    No sort, which would take longer than a forward of a small model: a token drawn from all is kept if those before it
    in rank hold less than top_p. What no try has settled is sorted after all.
    """
    total, token = weight.sum(-1), torch.zeros(len(weight), dtype=torch.long, device=weight.device)
    left, place = torch.arange(len(weight), device=weight.device), torch.arange(weight.shape[-1], device=weight.device)
    for k in range(u.shape[1] - 1):
        w = weight if not k else weight[left]
        drawn = invert(w, u[left, k : k + 1])[:, None]
        own = w.gather(-1, drawn)
        before = torch.where((w > own) | ((w == own) & (place < drawn)), w, 0.0).sum(-1)
        token[left] = drawn[:, 0]
        left = left[before >= top_p * total[left]]
        if not len(left):
            return token
    w, order = weight[left].double().sort(dim=-1, descending=True, stable=True)
    w = torch.where(w.cumsum(-1) - w < top_p * w.sum(-1, keepdim=True), w, 0.0)
    token[left] = order.gather(-1, invert(w, u[left, -1:])[:, None])[:, 0]
    return token


def invert(weight: Tensor, u: Tensor) -> Tensor:
    """Index i with probability weight[i] / sum(weight) in each row of (B, V), weight >= 0, from u (B, 1) uniform on [0,
    1): the cumulative sum is inverted first over blocks of the row and then inside one block, in float64."""
    rows = torch.arange(len(weight), device=weight.device)
    if weight.shape[-1] % BLOCK:
        weight = torch.nn.functional.pad(weight, (0, -weight.shape[-1] % BLOCK))
    blocks = weight.view(len(weight), -1, BLOCK)
    total = blocks.sum(-1).double().cumsum(-1)
    u = u * total[:, -1:]
    block = _first_above(total, u)
    before = torch.where(block > 0, total.gather(-1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[rows, block[:, 0]].double().cumsum(-1)
    return (block * BLOCK + _first_above(inside, u - before))[:, 0]


def _first_above(cumulative: Tensor, u: Tensor) -> Tensor:
    """First index whose cumulative sum exceeds u; where rounding leaves none, the last that has weight. (B, N), (B, 1)
    -> (B, 1)."""
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(cumulative, u, right=True), last).clamp_(
        max=cumulative.shape[-1] - 1
    )  # NaN
