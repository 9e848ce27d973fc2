"""LoRA beside frozen weights, by peft's own layers: only the adapters have gradients, masters and moments.

y = W x + (alpha / r) B A x with W (out, in) as it is loaded (bf16, or NF4 and int8 of bitsandbytes: QLoRA), A (r, in)
and B (out, r). arXiv 2106.09685, 2305.14314. An adapter that sits before a quantizer is `latents.LoRA`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lib.quantization.blocks import block_linears, decoder_blocks

NAME = "default"  # peft's name of the adapter: one at a time


def add(model, names: Sequence[str], *, rank: int, alpha: float, generator: torch.Generator) -> dict[str, nn.Linear]:
    """Put an adapter beside each of the linear layers `names` of `model`, in place, and return the adapters' own
    linears by name (two a layer), in the dtype of the model's activations. A second call starts the adapters anew.

    B is 0 and A uniform in +-1 / sqrt(in), as peft's, but drawn where `generator` lives, so that they begin alike on
    every device. ValueError for a name that is no linear layer of the model, or a rank below 1.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    if rank < 1:
        raise ValueError(f"the rank of an adapter is at least 1, given {rank}")
    modules = dict(model.named_modules())
    wrong = [n for n in names if not isinstance(modules.get(n), (nn.Linear, LoraLayer))]
    if wrong or not names:
        raise ValueError(f"adapters go beside linear layers of the model, given {wrong or 'none'}")
    if remove(model):
        modules = dict(model.named_modules())
    dtype = model.dtype if model.dtype.is_floating_point else torch.get_default_dtype()
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(names))
    inject_adapter_in_model(config, model, adapter_name=NAME, low_cpu_mem_usage=True)  # without weights
    model.requires_grad_(False)
    modules = dict(model.named_modules())
    for name in names:
        layer = modules[name]
        a, b, where = layer.lora_A[NAME], layer.lora_B[NAME], layer.get_base_layer().weight.device
        bound = 1 / math.sqrt(a.in_features)
        start = torch.empty(a.weight.shape, device=generator.device).uniform_(-bound, bound, generator=generator)
        a.weight = nn.Parameter(start.to(where, dtype), requires_grad=False)
        b.weight = nn.Parameter(torch.zeros(b.weight.shape, device=where, dtype=dtype), requires_grad=False)
    return linears(model)


def targets(model, *, blocks: int, names: Sequence[str] | None) -> list[str]:
    """The linear layers of the last `blocks` blocks that bear one of `names` (None: all of them); adapters that were
    beside them are taken out. ValueError where none does."""
    remove(model)
    last = tuple(f"{b}." for b in list(decoder_blocks(model))[-blocks:])
    there = {n: n.rpartition(".")[2] for n in block_linears(model) if n.startswith(last)}
    found = [n for n, own in there.items() if names is None or own in names]
    if not found:
        raise ValueError(
            f"no linear layer of the last {blocks} blocks is called {','.join(names or ['anything'])}; there are "
            f"{sorted(set(there.values()))}"
        )
    return found


def linears(model) -> dict[str, nn.Linear]:
    """The adapters' linears of a model, or of a part of it, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and _within(n)}


def remove(model) -> bool:
    """Take all adapters out, in place, and leave the weights as they were loaded; whether there was any."""
    from peft.tuners.lora import LoraLayer

    found = [n for n, m in model.named_modules() if isinstance(m, LoraLayer)]
    for name in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, model.get_submodule(name).get_base_layer())
    if found and hasattr(model, "peft_config"):
        del model.peft_config
    return bool(found)


def save(model, folder: Path | str, *, base: str) -> Path:
    """Write the adapters as peft's files (adapter_config.json, adapter_model.safetensors) for the model named `base`.

    `PeftModel.from_pretrained(model, folder)` reads them back to the same logits. ValueError for a model without any.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import save_file

    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no adapters to save")
    first, folder = next(iter(layers.values())), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=first.r[NAME], lora_alpha=first.lora_alpha[NAME], target_modules=sorted(layers), task_type="CAUSAL_LM",
        base_model_name_or_path=base, inference_mode=True,
    ).save_pretrained(folder)  # fmt: skip
    tensors = {
        f"base_model.model.{n.replace(f'.{NAME}', '')}.weight": m.weight.detach().cpu().contiguous()
        for n, m in linears(model).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def _within(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] == NAME and len(parts) > 1 and parts[-2] in ("lora_A", "lora_B")
