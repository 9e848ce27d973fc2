"""What an arm of a run has learned, kept beside its tables, and put together again as a folder that others load.

`python -m lib.engine.keeping RUN ARM FOLDER` is what `plumbline export` calls, once it has looked at the run. Kept are
the compute weights, those that every forward ran on and all was measured with: the float32 masters behind them lie at
random places of their rounding intervals (`latents.dithered`) and are another model.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lib.engine import adapters, models
from lib.harness import cards, take_home
from lib.harness.results import RunRecord
from lib.quantization import export

OWN = ("embedded", "gemma3-270m", "tiny-random")  # bases that nobody else finds under a name: they go along


def keep(run, arm: str, model, linears: Mapping[str, nn.Linear], *, note: str = "") -> None:
    """Where the settings ask for it (KEEP), write the weights of `linears`, layers of `model` or adapters beside them,
    as `<arm>.safetensors` into the run's folder, which git ignores. note: what this is, for the card."""
    if not take_home.wanted(run.manifest, arm):
        return
    names = {id(p): n for n, p in model.named_parameters(remove_duplicate=False)}
    tensors = {names[id(m.weight)]: m.weight.detach().cpu().contiguous() for m in linears.values()}
    about = {"note": note, **_shape(model)} if any(_adapter(n) for n in tensors) else {"note": note}
    path = run.dir / f"{arm}.safetensors"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, part, metadata={"about": json.dumps(about)})
    part.replace(path)


def _adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _shape(model) -> dict:
    """Rank and alpha of a model's adapters."""
    from peft.tuners.lora import LoraLayer

    first = next(m for m in model.modules() if isinstance(m, LoraLayer))
    return {"rank": first.r[adapters.NAME], "alpha": first.lora_alpha[adapters.NAME]}


@torch.no_grad()
def restore(run: RunRecord, arm: str):
    """(model, tokenizer, what is known of it) of an arm that was kept: the model the run began with, its adapters or
    weights those that were learned. ValueError if that model is another now."""
    settings = run.manifest["settings"]
    how = {"template": settings.get("template", "none"), "store": settings.get("store", "none")}
    model, tokenizer = models.load(settings["model"], dtype=getattr(torch, settings["dtype"]), **how)
    was, now = run.manifest["model"]["sha256"], models.fingerprint(model)
    if now != was:
        raise ValueError(f"{settings['model']} has other weights ({now}) than when the run was made ({was})")
    with safe_open(run.dir / f"{arm}.safetensors", "pt") as file:
        about, tensors = json.loads(file.metadata()["about"]), {name: file.get_tensor(name) for name in file.keys()}
    if "rank" in about:
        beside = sorted({n.partition(".lora_")[0] for n in tensors})
        adapters.add(model, beside, rank=about["rank"], alpha=about["alpha"], generator=torch.Generator())
    unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"{arm} has weights that {settings['model']} has not: {', '.join(unknown[:3])}")
    return model, tokenizer, about


def write(run: RunRecord, arm: str, folder: Path) -> str:
    """The arm as a folder with its card, PEFT's adapters or a whole model; one line that says so."""
    model, tokenizer, about = restore(run, arm)
    spec, beside = run.manifest["settings"]["model"], "rank" in about
    model.generation_config.eos_token_id = models.stop_ids(model, tokenizer)  # so that it stops where it did
    with export.whole(folder) as part:
        if beside:
            adapters.save(model, part, base=cards.base_of(spec))
            if spec in OWN:
                adapters.remove(model)
                model.save_pretrained(part / "base")
                tokenizer.save_pretrained(part / "base")
        else:
            model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        own = beside and spec in OWN
        text = cards.learned(run, arm, folder.name, note=about["note"], adapters=beside, own_base=own)
        (part / "README.md").write_text(text, encoding="utf-8")
    what = f"adapters of rank {about['rank']}" if beside else f"a whole model in {run.manifest['settings']['dtype']}"
    all_of_it = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    return f"{folder}: {what}, {all_of_it:.1f} MB in all"


if __name__ == "__main__":
    print(write(RunRecord(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])))
