"""Checkpoints that hold what their model needs: a tensor that the file lacks would silently be a random one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.engine import sharding

# Buffers that a model computes for itself; old checkpoints hold some of them, new ones do not.
COMPUTED = re.compile(r"(^|\.)(inv_freq|masked_bias|position_ids|token_type_ids|num_batches_tracked|attn\.bias)$")
# What a language model leaves behind when a classifier reads its checkpoint: no part of the function asked for.
LEFT = re.compile(r"(^|\.)(lm_head|cls|pooler|v_head|score_lm|qa_outputs)\.")


def check_files(folder: Path, spec: str) -> None:
    """FileNotFoundError unless the folder holds model.safetensors, or every part its index names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not whole.exists() and not index.exists():
        raise FileNotFoundError(
            f"model folder {spec!r} needs model.safetensors or model.safetensors.index.json; it holds "
            f"{sorted(p.name for p in folder.iterdir())[:8]}"
        )
    if not whole.exists():
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if absent := [p for p in parts if not (folder / p).exists()]:
            raise FileNotFoundError(
                f"model folder {spec!r} lacks {len(absent)} of the {len(parts)} files of weights that its index "
                f"names: {_some(absent)}"
            )


def whole(auto, folder, *, spec: str, **settings) -> Any:
    """`auto.from_pretrained(folder, **settings)`, refused unless every weight came out of the file, in its shape.

    Tied weights and buffers that the model computes for itself may be absent. ValueError names the first tensors that
    are missing, not expected or of another shape, and how many there are.
    """
    try:
        model, found = auto.from_pretrained(folder, **settings, output_loading_info=True, ignore_mismatched_sizes=True)
    except RuntimeError as error:
        if "conversion" not in str(error):
            raise
        raise ValueError(
            f"{spec!r} is no whole model: a fused weight, such as a block's experts, could not be put together, since "
            "one of its parts is missing or has another shape"
        ) from error
    learned = {n for n, _ in model.named_parameters()} | {
        n for n, b in model.named_buffers() if b.is_floating_point() and not COMPUTED.search(n)
    }  # positions and masks are not
    missing = sorted(n for n in found["missing_keys"] if n in learned)
    classifier = model.get_output_embeddings() is None
    left = LEFT if classifier else COMPUTED
    unexpected = sorted(n for n in found["unexpected_keys"] if not COMPUTED.search(n) and not left.search(n))
    shapes = sorted(f"{n} (file {tuple(a)}, model {tuple(b)})" for n, a, b in found["mismatched_keys"])
    wrong = [
        f"{what} {_some(names)}"
        for what, names in (
            ("its weights lack", missing),
            ("it holds weights that have no place in the model,", unexpected),
            ("it holds weights of another shape,", shapes),
        )
        if names
    ] + list(found.get("error_msgs", []))
    if wrong:
        kind = "trained classifier" if classifier else "whole language model"
        raise ValueError(f"{spec!r} is no {kind}: {'; '.join(wrong)}. What is missing would be random numbers")
    if meta := [n for n, p in model.named_parameters() if p.device.type == "meta"]:
        raise ValueError(f"{spec!r}: {len(meta)} tensors were not loaded: {_some(meta)}")
    return model


def unpacked(model) -> nn.Module:
    """`model` with plain weights where compressed-tensors had packed codes (`lib.quantization.export`), in place: what
    they would become at the first forward pass, with nothing of the packing left. Other models as they are."""
    packed = [m for m in model.modules() if getattr(m, "quantization_scheme", None) is not None]
    if packed:
        from compressed_tensors.compressors import decompress_module

        model.hf_quantizer.compressor.remove_decompression_hook(model)
        for module in packed:
            decompress_module(module, leave_decompressed=False)
        model.hf_quantizer.remove_quantization_config(model)
    return model


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def fingerprint(model) -> str:
    """sha256 (16 hex digits) over names, dtypes and bytes of all weights: the cache key of whatever a model
    produced."""
    digest = hashlib.sha256()
    for name, p in model.state_dict().items():
        p = sharding.full(p)
        digest.update(f"{name} {p.dtype} {tuple(p.shape)}".encode())
        digest.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
