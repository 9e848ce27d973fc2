"""AWQ (arXiv 2306.00978): scale salient input channels up before rounding, undo it in the operation before; then clip.

Source of the procedure: llm-awq (auto_scale, auto_clip). Deviations, all repairs of reported defects: "no scaling" is
always a candidate, the grid reaches ratio 1, a loss that is not finite stops the search, and every block is checked to
be unchanged.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.quantization.blocks import ROWS, BlockStream, block_linears, check_covered, first, linears
from lib.quantization.format import Quantized, check_format
from lib.quantization.rtn import apply_rtn, fake_quant

# (operation before, layers that read its output, module whose output is compared). A GPT-NeoX block's dense_4h_to_h
# reads an activation that cannot take the scale without a new module, so it is only clipped; so is an o_proj behind
# grouped heads.
MAPPINGS = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn"),
    ("self_attn.v_proj", ("self_attn.o_proj",), "self_attn.o_proj"),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), "mlp"),
    ("mlp.up_proj", ("mlp.down_proj",), "mlp.down_proj"),
    ("input_layernorm", ("attention.query_key_value",), "attention"),
    ("post_attention_layernorm", ("mlp.dense_h_to_4h",), "mlp"),
)
NOT_CLIPPED = ("q_proj", "k_proj", "query_key_value")  # attention scores are too sensitive to the largest weights
SCALINGS = ("activation", "duo")


@dataclass(frozen=True)
class Choice:
    """What the search chose for one mapping; ratio None is no scaling; losses are mean squared errors of the parent's
    output."""

    block: str
    layers: tuple[str, ...]
    ratio: float | None
    loss: float
    loss_unscaled: float


class Effort(NamedTuple):
    """What is tried."""

    scaling: str = "activation"  # one of SCALINGS
    grid: int = 20  # exponents of a scale, and shrinkages of a limit
    clip: bool = True
    max_shrink: float = 0.5  # the smallest limit tried, as a share taken off
    tokens: int = 512  # of the calibration, for the losses


@dataclass(frozen=True)
class Search:
    """Choices in order, and by layer name the largest |w| each group may keep, (out, in/group)."""

    choices: list[Choice]
    limits: dict[str, Tensor]


def mappings(block: nn.Module) -> list[tuple[str, tuple[str, ...], str]]:
    """The rows of MAPPINGS this block has; ValueError if there are none. v -> o needs equal shapes (no grouped
    queries)."""
    modules = dict(block.named_modules())
    found: list[tuple[str, tuple[str, ...], str]] = []
    for before, layers, parent in MAPPINGS:
        if before not in modules or parent not in modules or any(layer not in modules for layer in layers):
            continue
        if before.endswith("v_proj") and modules[before].weight.shape != modules[layers[0]].weight.shape:
            continue
        found.append((before, layers, parent))
    if not found:
        raise ValueError(
            f"AWQ knows Llama-like and GPT-NeoX-like blocks; {type(block).__name__} has neither's layer names. "
            "Use RTN or GPTQ"
        )
    return found


def scale_(before: Any, layers: Iterable[nn.Linear], s: Tensor) -> None:
    """W <- W diag(s) in the layers, and weight and bias <- / s in the operation before: the function stays the same. s
    (in,)."""
    before.weight.div_(s[:, None] if before.weight.ndim == 2 else s)
    if getattr(before, "bias", None) is not None:
        before.bias.div_(s)
    for layer in layers:
        layer.weight.mul_(s)


def candidates(x_mean: Tensor, w_mean: Tensor, *, scaling: str, grid: int) -> list[tuple[float | None, Tensor]]:
    """(ratio, s) to try, the identity first. x_mean = mean |x|, w_mean = mean of |w| / max|w| of its group, both (in,).

    activation: s = max(x_mean^r, 1e-4); duo: s = x_mean^r / (w_mean^(1-r) + 1e-4); then s / sqrt(max s min s); r = 0,
    1/grid .. 1.
    """
    result: list[tuple[float | None, Tensor]] = [(None, torch.ones_like(x_mean))]
    for k in range(grid + 1):
        r = k / grid
        s = x_mean.pow(r)
        if scaling == "duo":
            s = s / (w_mean.pow(1 - r) + 1e-4)
        s = s.clamp(min=1e-4)
        result.append((r, s / (s.max() * s.min()).sqrt()))
    return result


def best_scale(
    layers: list[nn.Linear], objective: Callable[[], float], tries: list[tuple[float | None, Tensor]], quantizer
) -> tuple[float | None, Tensor, float, float]:
    """argmin over s of objective() with W' = Q(W diag(s)) diag(s)^-1 in the layers; returns (ratio, s, loss, loss of
    the first).

    The weights are as before on return. Ties go to the earlier candidate. RuntimeError if a loss is not finite.
    """
    original = [layer.weight.clone() for layer in layers]
    losses = []
    try:
        for ratio, s in tries:
            for layer, w in zip(layers, original):
                layer.weight.copy_(quantizer(w.to(s.dtype) * s) / s)
            losses.append(objective())
            if not losses[-1] < float("inf"):
                raise RuntimeError(
                    f"AWQ: the loss at ratio {ratio} is {losses[-1]}; the model or the calibration is not finite"
                )
    finally:
        for layer, w in zip(layers, original):
            layer.weight.copy_(w)
    best = min(range(len(tries)), key=losses.__getitem__)
    return *tries[best], losses[best], losses[0]


def best_limits(
    w: Tensor, gram: Tensor, quantizer: Callable[[Tensor], Tensor], *, grid: int, max_shrink: float
) -> Tensor:
    """Per row and group, the M_i = max|w| (1 - i/grid), i/grid < max_shrink, that minimises the group's output error.

    error = mean over tokens of (x_g . (Q(clamp(w, -M_i, M_i)) - w))^2 = d' G d, with gram G = sum x_g x_g' (in/g, g,
    g) and Q the quantizer.
    w (out, in) -> (out, in/g).
    """
    groups = w.view(w.shape[0], gram.shape[0], gram.shape[1])
    peak = groups.abs().amax(-1, keepdim=True)
    best = torch.full_like(peak, float("inf"))
    limits = peak.clone()
    for i in range(max(1, round(grid * max_shrink))):
        limit = peak * (1 - i / grid)
        clipped = groups.clamp(-limit, limit).view(w.shape)
        d = (quantizer(clipped).view_as(groups) - groups).transpose(0, 1)
        error = (torch.bmm(d, gram) * d).sum(-1).t().unsqueeze(-1)
        better = error < best
        best, limits = torch.where(better, error, best), torch.where(better, limit, limits)
    if not torch.isfinite(best).all():
        raise RuntimeError("AWQ: the clip error is not finite; the model or the calibration is not finite")
    return limits.squeeze(-1)


@torch.no_grad()
def search(
    model: nn.Module,
    calibration: Iterable[tuple[Tensor, Tensor]],
    *,
    bits: int,
    group: int | None,
    symmetric: bool,
    scales: torch.dtype | None = None,
    how: Effort = Effort(),  # noqa: B008  a tuple
    device: torch.device | str | None = None,
    track: Callable[[Iterable, str], Iterable] = lambda it, desc: it,
) -> Search:
    """s* = argmin || Q(W diag(s)) diag(s)^-1 X - W X || of the parent's output, for every mapping of every block.

    Scales the model in place without changing its function (keep it in float32: the scales are lost in part in
    bfloat16) and rounds nothing. calibration: pairs (input_ids (B, T), attention_mask (B, T)); mean |x| and clip errors
    use all its tokens, the losses its first `tokens`, rounded up to chunks of 512. Blocks are fed by the unquantized
    blocks before them. scales as in `rtn.quantize`. device: where one block at a time works, for a model that is kept
    elsewhere.
    """
    scaling, grid, clip, max_shrink, tokens = how
    if scaling not in SCALINGS:
        raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, not {scaling!r}")
    if grid < 1 or not 0 <= max_shrink < 1:
        raise ValueError(f"grid must be at least 1 and max_shrink in [0, 1); given {grid} and {max_shrink}")
    check_covered(model)
    groups = {name: check_format(bits, group, layer.in_features) for name, layer in block_linears(model).items()}

    quantizer = partial(fake_quant, bits=bits, group=group, symmetric=symmetric, scales=scales)

    stream = BlockStream(model, calibration, device=device)
    for _, block in stream.blocks:
        mappings(block)
    chunks = range(min(len(stream.hidden), max(1, -(-tokens // ROWS))))
    total = sum(int(keep.sum()) for keep in stream.keep)
    found = Search([], {})
    for index in track(range(len(stream.blocks)), f"AWQ {bits} bits"):
        name = stream.blocks[index][0]
        with stream.at_work(index) as block:
            layers = linears(block)
            width = {layer: groups[f"{name}.{layer}"] for layer in layers}
            rows = mappings(block)
            calls = _calls(stream, index, {parent for *_, parent in rows}, chunks)
            outputs, sums = stream.watch(index, lambda x: _moments(x, group if clip else 1))
            for before, readers, parent in rows:
                module = block.get_submodule(parent)
                mine = [layers[reader] for reader in readers]
                objective = _objective(module, calls[parent], [stream.keep[c] for c in chunks])
                x_mean = sums[readers[0]][:, -1] / total
                w_mean = _relative_magnitude(mine, width[readers[0]]).to(x_mean.dtype)
                tries = candidates(x_mean, w_mean, scaling=scaling, grid=grid)
                ratio, s, loss, unscaled = best_scale(mine, objective, tries, quantizer)
                scale_(block.get_submodule(before), mine, s)
                for reader in readers:  # the inputs are now x / s, and so are their moments
                    sums[reader] = _rescale(sums[reader], s)
                found.choices.append(Choice(name, readers, ratio, loss, unscaled))
            _check_unchanged(name, stream.forward(index, [0])[0], outputs[0])
            for layer, module in layers.items() if clip else ():
                if not layer.endswith(NOT_CLIPPED):
                    w = module.weight.to(sums[layer].dtype)
                    gram = sums[layer][:, :-1].reshape(-1, width[layer], width[layer])
                    limits = best_limits(w, gram, quantizer, grid=grid, max_shrink=max_shrink)
                    found.limits[f"{name}.{layer}"] = limits
        stream.hidden = outputs
    return found


@torch.no_grad()
def clip_(model: nn.Module, limits: dict[str, Tensor]) -> None:
    """w <- clamp(w, -M, M) per row and group, in place. limits as returned by `search`."""
    layers = block_linears(model)
    for name, limit in limits.items():
        w = layers[name].weight
        groups = w.view(w.shape[0], limit.shape[1], -1)
        most = limit.unsqueeze(-1).to(w)
        groups.clamp_(-most, most)


def transform(
    model: nn.Module,
    calibration: Iterable[tuple[Tensor, Tensor]],
    *,
    bits: int,
    group: int | None,
    symmetric: bool,
    scales: torch.dtype | None = None,
    how: Effort = Effort(),  # noqa: B008  a tuple
    device: torch.device | str | None = None,
    track: Callable[[Iterable, str], Iterable] = lambda it, desc: it,
) -> Search:
    """`search`, then `clip_`: the model holds AWQ's weights before rounding, so that RTN on them is AWQ.

    This is where latent-weight training from AWQ starts: straight_through with plain RTN. Arguments as in `search`.
    """
    form: dict[str, Any] = dict(bits=bits, group=group, symmetric=symmetric, scales=scales)
    found = search(model, calibration, **form, how=how, device=device, track=track)
    clip_(model, found.limits)
    return found


def apply_awq(
    model: nn.Module,
    calibration: Iterable[tuple[Tensor, Tensor]],
    *,
    bits: int,
    group: int | None,
    symmetric: bool,
    scales: torch.dtype | None = None,
    how: Effort = Effort(),  # noqa: B008  a tuple
    device: torch.device | str | None = None,
    track: Callable[[Iterable, str], Iterable] = lambda it, desc: it,
) -> dict[str, Quantized]:
    """`transform`, then RTN: the model holds the dequantized weights in its own dtype. Arguments as in `search`."""
    form: dict[str, Any] = dict(bits=bits, group=group, symmetric=symmetric, scales=scales)
    transform(model, calibration, **form, how=how, device=device, track=track)
    return apply_rtn(model, **form)


def _calls(
    stream: BlockStream, index: int, names: set[str], chunks: Iterable[int]
) -> dict[str, list[tuple[tuple, dict]]]:
    """Arguments of the named modules of block `index` in each chunk."""
    calls: dict[str, list] = {name: [] for name in names}
    block = stream.blocks[index][1]
    hooks = [
        block.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: calls[name].append((args, kwargs)), with_kwargs=True
        )
        for name in names
    ]
    try:
        stream.forward(index, list(chunks))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _objective(module: nn.Module, calls: list[tuple[tuple, dict]], keep: list[Tensor]) -> Callable[[], float]:
    """() -> mean squared error of the module's output against its output now, over the real tokens of the calls."""
    target = [first(module(*args, **kwargs)) for args, kwargs in calls]
    count = sum(int(real.sum()) for real in keep)

    def loss() -> float:
        total = 0.0
        for (args, kwargs), want, real in zip(calls, target, keep):
            off = (first(module(*args, **kwargs)) - want).flatten(0, -2)[real]
            total += off.square().mean(-1, dtype=torch.promote_types(off.dtype, torch.float32)).sum().item()
        return total / count

    return loss


def _moments(x: Tensor, group: int | None) -> Tensor:
    """(n, in) -> (in, g + 1): the rows of each group's gram matrix, and in the last column sum |x|."""
    width = x.shape[1] if group in (None, -1) else group
    parts = x.t().reshape(-1, width, x.shape[0])
    gram = torch.bmm(parts, parts.transpose(1, 2)).flatten(0, 1)
    return torch.cat([gram, x.abs().sum(0)[:, None]], 1)


def _rescale(moments: Tensor, s: Tensor) -> Tensor:
    """Moments of x / s from those of x."""
    width = moments.shape[1] - 1
    across = s.view(-1, width).repeat_interleave(width, 0)  # (in, g): the scale of the other channel of each product
    return torch.cat([moments[:, :-1] / across, moments[:, -1:]], 1) / s[:, None]


def _relative_magnitude(layers: list[nn.Linear], width: int) -> Tensor:
    """Mean over output rows of |w| / max|w| of its group, (in,)."""
    w = torch.cat([layer.weight for layer in layers]).abs().float()
    groups = w.view(w.shape[0], -1, width)
    return (groups / groups.amax(-1, keepdim=True).clamp(min=1e-12)).view_as(w).mean(0)


def _check_unchanged(name: str, now: Tensor, before: Tensor) -> None:
    error = ((now - before).float().norm(dim=-1) / before.float().norm(dim=-1).clamp(min=1e-12)).mean().item()
    if not error < torch.finfo(now.dtype).eps ** 0.5:
        raise RuntimeError(
            f"AWQ: scaling changed the output of {name} by {error:.1e}; its norm is not of the form weight * x (+ bias)"
        )
