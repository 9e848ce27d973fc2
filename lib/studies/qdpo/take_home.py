"""An arm's weights, kept beside its run's tables, and put together again as a model folder.

`python -m lib.studies.qdpo.take_home RUN ARM FOLDER` is what `plumbline export` calls, once it has looked at the run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib.engine import models, sharding
from lib.harness import cards
from lib.harness.results import RunRecord
from lib.quantization import Quantized, export
from lib.studies.qdpo.study import Study


def keep(study: Study, arm: str, model, weights: dict[str, Quantized]) -> None:
    """Where the settings ask for it (KEEP), write an arm's codes and what else it does not share with full precision:
    `<arm>.safetensors` in the run's folder, which git ignores."""
    if arm not in study.cfg.items_of("keep"):
        return
    full = study.fp.state_dict()
    own = {
        name: tensor.cpu().contiguous()
        for name, tensor in ((n, sharding.full(t)) for n, t in model.state_dict().items())
        if name.removesuffix(".weight") not in weights and not torch.equal(tensor, full[name])
    }
    path = study.run.dir / f"{arm}.safetensors"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(export.to_tensors(weights) | own, part, metadata={"scheme": json.dumps(export.scheme(weights))})
    part.replace(path)


@torch.no_grad()
def restore(run: RunRecord, arm: str):
    """(model, tokenizer, its quantized weights) of an arm that was kept, the rest from the model the run began with.

    ValueError if that model is another now.
    """
    settings = run.manifest["settings"]
    template = settings.get("template", "none")
    model, tokenizer = models.load(settings["model"], dtype=getattr(torch, settings["dtype"]), template=template)
    was, now = run.manifest["model"]["sha256"], models.fingerprint(model)
    if now != was:
        raise ValueError(f"{settings['model']} has other weights ({now}) than when the run was made ({was})")
    with safe_open(run.dir / f"{arm}.safetensors", "pt") as file:
        form, tensors = json.loads(file.metadata()["scheme"]), {name: file.get_tensor(name) for name in file.keys()}
    weights = export.from_tensors(tensors, form)
    for name, q in weights.items():
        held = model.get_submodule(name).weight
        held.copy_(q.dequantize(held.dtype))
    model.load_state_dict({n: t for n, t in tensors.items() if not n.endswith(export.PARTS)}, strict=False)
    return model, tokenizer, weights


def write(run: RunRecord, arm: str, folder: Path) -> str:
    """The arm as a model folder with its card; one line that says so."""
    model, tokenizer, weights = restore(run, arm)
    model.generation_config.eos_token_id = models.stop_ids(model, tokenizer)  # so that it stops where it did
    said = export.bits_per_weight(weights.values())

    def card(part: Path) -> str:
        return cards.quantized(run, arm, folder.name, said=said, size=export.size(part))

    export.save_quantized(folder, model, weights, tokenizer=tokenizer, card=card)
    size, all_of_it = export.size(folder), sum(p.stat().st_size for p in folder.iterdir()) / 1e6
    return f"{folder}: {said:.3f} bits a weight, {size:.3f} on disk, {all_of_it:.1f} MB in all"


if __name__ == "__main__":
    print(write(RunRecord(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])))
