"""Quantized models as folders that transformers and vLLM load: compressed-tensors, format pack-quantized.

A weight (out, in) lies there as weight_packed, its codes of b bits one after another in words of 32, weight_scale,
weight_zero_point (packed down the rows) and weight_shape; every other tensor as the model has it. Whoever loads the
folder multiplies as `Quantized.dequantize` does, so its logits are those of the model it was made from, to the bit.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.quantization.format import Quantized

PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")


def save_quantized(
    folder: str | Path,
    model,
    weights: dict[str, Quantized],
    *,
    tokenizer=None,
    card: Callable[[Path], str] | None = None,
) -> Path:
    """Write a transformers model whose linear layers `weights` are quantized, with its tokenizer, as `folder`.

    card: the text of README.md, made from the folder as it then is. The folder appears whole or not at all. ValueError,
    before anything is written, for weights that the format cannot hold or that are not the model's; FileExistsError for
    a folder that holds something.
    """
    form = scheme(weights)
    _check_model(model, weights)
    other = {n: t for n, t in model.state_dict().items() if n.removesuffix(".weight") not in weights}
    with whole(folder) as part:
        model.save_pretrained(part, state_dict=other | to_tensors(weights))
        config = json.loads((part / "config.json").read_text())
        config["quantization_config"] = {
            "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": form}},
            "ignore": [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in weights],
        }  # fmt: skip
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        if card is not None:
            (part / "README.md").write_text(card(part), encoding="utf-8")
    return Path(folder)


def scheme(weights: dict[str, Quantized]) -> dict:
    """What the weights have in common, as compressed-tensors names it. ValueError for what one such scheme cannot
    hold: no weights, another kind (NF4), several widths or groups, symmetric beside asymmetric ones, tiny layers."""
    if not weights:
        raise ValueError("there are no quantized weights to save")
    for name, q in weights.items():
        if not isinstance(q, Quantized):
            raise ValueError(f"{name} is a {type(q).__name__}; only uniform integer weights (Quantized) can be saved")
    forms = {(q.bits, q.zero is None) for q in weights.values()}
    groups = {q.group for q in weights.values()}
    rows = all(q.group == q.codes.shape[1] for q in weights.values())
    if len(forms) > 1 or (len(groups) > 1 and not rows):
        raise ValueError(
            f"all weights share bits, group and symmetry in a file; given {len(weights)} of (bits, symmetric) "
            f"{sorted(forms)} and groups of {sorted(groups)}"
        )
    ((bits, symmetric),) = forms
    for name, q in weights.items() if bits == 4 and not symmetric else ():
        if len(q.codes) <= 8:  # they fill one word, of which compressed-tensors 0.20 makes no bytes
            raise ValueError(
                f"compressed-tensors cannot read back 4-bit zero-points of a layer with 8 outputs or fewer: {name} has "
                f"{len(q.codes)}; take SYMMETRIC or other bits"
            )
    how = {"strategy": "channel"} if rows else {"strategy": "group", "group_size": groups.pop()}
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False, **how}


def to_tensors(weights: dict[str, Quantized]) -> dict[str, Tensor]:
    """The tensors of a file by name, PARTS for each weight."""
    from compressed_tensors.compressors import pack_to_int32

    tensors = {}
    for name, q in weights.items():
        start = 0 if q.zero is None else 2 ** (q.bits - 1)  # a file's codes are signed
        parts = {
            "weight_packed": pack_to_int32((q.codes.to(torch.int16) - start).to(torch.int8), q.bits),
            "weight_scale": q.scale.contiguous(),
            "weight_shape": torch.tensor(q.codes.shape),
        }
        if q.zero is not None:
            parts["weight_zero_point"] = pack_to_int32((q.zero - start).to(torch.int8), q.bits, packed_dim=0)
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return tensors


def from_tensors(tensors: dict[str, Tensor], form: dict) -> dict[str, Quantized]:
    """The weights of which `to_tensors` and `scheme` made these; tensors of other names are left aside."""
    from compressed_tensors.compressors import unpack_from_int32

    bits, weights = form["num_bits"], {}
    for name in [n.removesuffix(".weight_shape") for n in tensors if n.endswith(".weight_shape")]:
        scale, shape = tensors[f"{name}.weight_scale"], tensors[f"{name}.weight_shape"].tolist()
        codes, zero = unpack_from_int32(tensors[f"{name}.weight_packed"], bits, shape), None
        if not form["symmetric"]:
            packed, start = tensors[f"{name}.weight_zero_point"], 2 ** (bits - 1)
            zero = unpack_from_int32(packed, bits, scale.shape, packed_dim=0).to(torch.float32) + start
            codes = (codes.to(torch.int16) + start).to(torch.uint8)
        weights[name] = Quantized(codes, scale, zero, bits, shape[1] // scale.shape[1])
    return weights


def bits_per_weight(weights: Iterable[Quantized]) -> float:
    """Of all weights together, by their formats."""
    weights = list(weights)
    return sum(q.bits_per_weight * q.codes.numel() for q in weights) / sum(q.codes.numel() for q in weights)


def size(folder: str | Path) -> float:
    """Bits a quantized weight takes in the files of a folder, all its PARTS together."""
    from safetensors import safe_open

    stored = weights = 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in (n for n in file.keys() if n.endswith(PARTS)):
                tensor = file.get_tensor(name)
                stored += tensor.nbytes
                weights += math.prod(tensor.tolist()) if name.endswith("weight_shape") else 0
    if not weights:
        raise ValueError(f"{folder} holds no quantized weights")
    return 8 * stored / weights


@contextmanager
def whole(folder: str | Path) -> Iterator[Path]:
    """A folder to fill that gets its name when all of it is written, and is gone if that fails. FileExistsError for
    one that holds something already."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something already; name a new folder or an empty one")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_model(model, weights: dict[str, Quantized]) -> None:
    """ValueError unless the model's weights are, to the bit, what a file makes of these codes when it is loaded."""
    modules = dict(model.named_modules())
    for name, q in weights.items():
        if not isinstance(modules.get(name), nn.Linear):
            raise ValueError(f"{type(model).__name__} has no linear layer {name}")
        held = modules[name].weight
        if not torch.equal(q.scale.to(held.dtype).double(), q.scale.double()):
            raise ValueError(
                f"{name} has scales in {_name(q.scale)} that {_name(held)}, the model's type, would round when it is "
                "loaded: quantize with scales=torch.bfloat16"
            )
        if not torch.equal(q.dequantize(held.dtype), held.detach().to(q.codes.device)):
            raise ValueError(f"{name} of the model is not what its codes say: quantize anew, or save what was measured")


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
