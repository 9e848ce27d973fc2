"""A nested state of tensors, numbers and texts as one safetensors file: what a stopped run needs to go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

TENSOR = "__tensor__"


def save(path: Path, state: Any) -> None:
    """Write dicts, lists and tuples of tensors, numbers, texts and None; dict keys that are not texts keep their
    type."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(state, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file(tensors, part, metadata={"state": text})
    os.replace(part, path)  # whole or not at all


def load(path: Path) -> Any:
    """The state that `save` wrote."""
    with safe_open(path, framework="pt") as file:
        return _unpack(json.loads(file.metadata()["state"]), file)


def _pack(x: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(x, Tensor):
        key = str(len(tensors))
        tensors[key] = x.detach().cpu().contiguous().clone()
        return {TENSOR: key}
    if isinstance(x, dict):
        return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in x.items()]}
    if isinstance(x, (list, tuple)):
        return {type(x).__name__ if type(x) in (list, tuple) else "tuple": [_pack(v, tensors) for v in x]}
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    raise TypeError(f"a state holds tensors, numbers, texts and containers of them, given {type(x).__name__}")


def _unpack(x: Any, file) -> Any:
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    if kind == TENSOR:
        return file.get_tensor(value)
    if kind == "dict":
        return {_unpack(k, file): _unpack(v, file) for k, v in value}
    items = [_unpack(v, file) for v in value]
    return tuple(items) if kind == "tuple" else items
