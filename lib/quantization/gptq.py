"""GPTQ (arXiv 2210.17323): round column by column, each time moving the other weights to make up for the error."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lib.quantization import rtn
from lib.quantization.blocks import BlockStream, block_linears, check_covered, linears
from lib.quantization.format import Quantized, check_format


@torch.no_grad()
def quantize_layer(
    w: Tensor,
    hessian: Tensor,
    *,
    bits: int,
    group: int | None,
    symmetric: bool,
    act_order: bool,
    scales: torch.dtype | None = None,
    block: int = 128,
    damp: float = 0.01,
) -> Quantized:
    """q_i = Q(w_i); e = (w_i - q_i) / U_ii; W[:, i:] -= e U[i, i:], U the upper Cholesky factor of H^-1; algorithm 1.

    w (out, in), hessian H = (2/n) sum x x' (in, in), of any scale. Inputs that were always zero get weight 0; H gets
    damp * mean(diag H) on its diagonal. Each group's grid is RTN's, fitted to the weights as they stand when its first
    column comes up; act_order takes columns by falling diag H and fits all grids beforehand, so that a group is always
    made of neighbouring columns and a file needs no index of groups (g_idx). scales as in `rtn.quantize`. block bounds
    work, not results.
    ValueError for a bad format or shape, RuntimeError if H stays indefinite.
    """
    rows, columns = w.shape
    width = check_format(bits, group, columns)
    if hessian.shape != (columns, columns):
        raise ValueError(
            f"a weight of shape {(rows, columns)} needs a Hessian ({columns}, {columns}), not {tuple(hessian.shape)}"
        )
    dtype = torch.promote_types(w.dtype, torch.float32)
    w, h = w.to(dtype, copy=True), hessian.to(dtype, copy=True)
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0

    order = (
        torch.argsort(h.diagonal(), descending=True, stable=True)
        if act_order
        else torch.arange(columns, device=w.device)
    )
    u = _inverse_factor(h[order][:, order], damp)
    left = w.t()[
        order
    ].contiguous()  # (in, out): a column of w is a row here, contiguous; holds what is still to be rounded
    codes = torch.empty_like(left)
    scale = torch.empty(rows, columns // width, dtype=dtype, device=w.device)
    zero = None if symmetric else torch.empty_like(scale)

    def fit(part, groups):
        s, z = rtn.grid(part.reshape(rows, -1, width), bits=bits, symmetric=symmetric, scales=scales)
        scale[:, groups] = s.squeeze(-1)
        if zero is not None:
            zero[:, groups] = z.squeeze(-1)

    if act_order:
        fit(w, slice(None))
    edge = columns if act_order else width  # a segment never reaches into the next group, whose grid is not yet fitted
    segments = [
        (i, min(i + block, start + edge))
        for start in range(0, columns, edge)
        for i in range(start, start + edge, block)
    ]
    of_column = (order // width).tolist()
    diagonal = u.diagonal().tolist()
    for start, end in segments:
        if not act_order and start % width == 0:
            fit(left[start : start + width].t(), slice(start // width, start // width + 1))
        errors = torch.empty_like(left[start:end])
        for i in range(start, end):
            s, z = scale[:, of_column[i]], None if zero is None else zero[:, of_column[i]]
            codes[i] = rtn.to_codes(left[i], s, z, bits=bits, symmetric=symmetric)
            torch.sub(left[i], rtn.from_codes_(codes[i].clone(), s, z), out=errors[i - start]).div_(diagonal[i])
            left[i + 1 : end].addr_(u[i, i + 1 : end], errors[i - start], alpha=-1)
        left[end:].addmm_(u[start:end, end:].t(), errors, alpha=-1)

    unordered = torch.empty_like(codes)
    unordered[order] = codes
    if not torch.isfinite(scale).all():
        raise RuntimeError("GPTQ: the weights are no longer finite; give more calibration tokens or a larger damp")
    return rtn.pack(unordered.t().contiguous(), scale.to(scales or dtype), zero, bits=bits)


def _inverse_factor(h: Tensor, damp: float) -> Tensor:
    """Upper triangular U with U' U = (H + damp mean(diag H) I)^-1."""
    h.diagonal().add_(damp * h.diagonal().mean())
    lower, failed = torch.linalg.cholesky_ex(h)
    if not failed:
        u, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed or not torch.isfinite(u).all():
        raise RuntimeError(
            f"GPTQ: the Hessian is not positive definite with damp {damp}; give more tokens or a larger damp"
        )
    return u


@torch.no_grad()
def apply_gptq(
    model: nn.Module,
    calibration: Iterable[tuple[Tensor, Tensor]],
    *,
    act_order: bool,
    damp: float = 0.01,
    device: torch.device | str | None = None,
    track: Callable[[Iterable, str], Iterable] = lambda it, desc: it,
    **form,
) -> dict[str, Quantized]:
    """GPTQ on the decoder blocks in order, each calibrated on what the already quantized blocks before it put out.

    calibration: pairs (input_ids (B, T), attention_mask (B, T)), padding left out. The model then holds the dequantized
    weights in its own dtype. Layers that read the same input share one Hessian. device: where one block at a time
    works, for a model that is kept elsewhere. form: bits, group, symmetric and scales as in `rtn.quantize`.
    """
    check_covered(model)
    for linear in block_linears(model).values():
        check_format(form["bits"], form["group"], linear.in_features)
    stream = BlockStream(model, calibration, device=device)
    tokens = sum(int(keep.sum()) for keep in stream.keep)
    result = {}
    for index in track(range(len(stream.blocks)), f"GPTQ {form['bits']} bits"):
        name = stream.blocks[index][0]
        with stream.at_work(index) as module:
            layers = linears(module)
            _, sums = stream.watch(index, lambda x: x.t() @ x)
            together: dict[int, list[str]] = {}
            for layer in layers:
                together.setdefault(id(sums[layer]), []).append(layer)
            for names in together.values():  # rows do not interact, so layers that share a Hessian go as one
                stacked = quantize_layer(
                    torch.cat([layers[layer].weight for layer in names]),
                    sums[names[0]] * (2 / tokens),
                    act_order=act_order,
                    damp=damp,
                    **form,
                )
                for layer, part in zip(names, _split(stacked, [layers[layer].out_features for layer in names])):
                    result[f"{name}.{layer}"] = part.to(stream.home)
                    layers[layer].weight.copy_(part.dequantize(layers[layer].weight.dtype))
            stream.hidden = stream.forward(index)
    return {name: result[name] for name in block_linears(model)}


def _split(q: Quantized, rows: list[int]) -> list[Quantized]:
    zeros = q.zero.split(rows) if q.zero is not None else [None] * len(rows)
    parts = zip(q.codes.split(rows), q.scale.split(rows), zeros)
    return [Quantized(c.clone(), s.clone(), None if z is None else z.clone(), q.bits, q.group) for c, s, z in parts]
