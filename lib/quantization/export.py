"""Quantized weights on disk: integer codes, scales and zero-points in one safetensors file, read back exactly."""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from lib.quantization.format import Quantized

FORMAT = "plumbline-quantized-1"


def save_quantized(path: str | Path, weights: dict[str, Quantized], extra: dict) -> None:
    """Write codes (up to 4 bits: two to a byte, the first in the low half), scales and zero-points; extra: JSON values
    beside them.

    The file appears whole or not at all. TypeError for weights of another kind or extra values JSON cannot hold.
    """
    from safetensors.torch import save_file

    tensors, layout = {}, {}
    for name, q in weights.items():
        if not isinstance(q, Quantized):
            raise TypeError(f"{name} is a {type(q).__name__}; only uniform integer weights (Quantized) can be saved")
        tensors[f"{name}.codes"] = _to_bytes(q)
        tensors[f"{name}.scale"] = q.scale.contiguous()
        if q.zero is not None:
            tensors[f"{name}.zero"] = q.zero.contiguous()
        layout[name] = {"bits": q.bits, "group": q.group, "shape": list(q.codes.shape)}
    metadata = {"format": FORMAT, "weights": json.dumps(layout), "extra": json.dumps(extra)}
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, partial, metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_quantized(path: str | Path) -> bool:
    """Whether `save_quantized` wrote this safetensors file; False for what is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def load_quantized(path: str | Path) -> tuple[dict[str, Quantized], dict]:
    """What `save_quantized` was given: (weights by name, extra). FileNotFoundError, or ValueError for a file of another
    kind."""
    from safetensors import safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file of quantized weights at {path}")
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} was not written by save_quantized: its format is {metadata.get('format')!r}")
        names, weights = set(file.keys()), {}
        for name, entry in json.loads(metadata["weights"]).items():
            zero = file.get_tensor(f"{name}.zero") if f"{name}.zero" in names else None
            codes = _from_bytes(file.get_tensor(f"{name}.codes"), entry["shape"], entry["bits"], signed=zero is None)
            weights[name] = Quantized(codes, file.get_tensor(f"{name}.scale"), zero, entry["bits"], entry["group"])
    return weights, json.loads(metadata["extra"])


def _to_bytes(q: Quantized) -> Tensor:
    """Codes moved to 0 .. 2^b - 1 as bytes; (out, in), or (out, ceil(in/2)) if two fit into one."""
    codes = (q.codes.to(torch.int16) + (2 ** (q.bits - 1) if q.zero is None else 0)).to(torch.uint8)
    if q.bits > 4:
        return codes.contiguous()
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def _from_bytes(stored: Tensor, shape: list[int], bits: int, *, signed: bool) -> Tensor:
    if bits <= 4:
        stored = torch.stack([stored & 15, stored >> 4], -1).flatten(1)[:, : shape[1]].contiguous()
    return (stored.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8) if signed else stored
