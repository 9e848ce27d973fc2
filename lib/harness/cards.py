"""The cards of what is taken home: what it is, how to load it, what was measured, licences, data and settings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.harness import assets, claims, paths, results
from lib.harness.results import RunRecord

BASES = {  # a setting MODEL -> whose model that is, and the asset it comes in
    "embedded": ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2"),
    "gemma3-270m": ("google/gemma-3-270m", "gemma3-270m-part1"),
}
OURS, UNKNOWN = "Apache-2.0", "not known here: see where it comes from"
CARD = """---
license: {tag}
library_name: transformers
tags: [compressed-tensors, {paper}]
{base}---
# {name}: {arm} at {bits} bits

`{model}` with the {layers} linear layers of its blocks quantized to {bits} bits ({groups}, {kind}); embeddings and
head as they were. Arm `{arm}` of run `{run}` of {paper}, preset {preset}, seed {seed}, commit `{commit}`.{uncited}

## Load

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```

It needs `compressed-tensors>=0.20.1`; its logits are those of the model that was measured. vLLM reads the format too,
4 and 8 bits with kernels of every version, other widths where it has kernels for them (not tried by us).

## Size

{said:.3f} bits a weight by its format, scale and zero-point included; {size:.3f} on disk.

"""
FOOT = """
## What was measured

{claims}

## Licences and data

Base model `{model}`: {licence}. Weights' sha256 (first 16 digits): `{sha256}`.

{data}

## Settings

{settings}
"""
LEARNED = """---
license: {tag}
library_name: {library}
tags: [{paper}]
{base}---
# {name}: {arm}

{what} Arm `{arm}` of run `{run}` of {paper}, preset {preset}, seed {seed}, commit `{commit}`.{uncited}{note}

## Load

```python
{load}
```

In {dtype} its weights are those that were measured, to the bit, and its logits too under the same kernels of
attention; other kernels round otherwise.
"""
LOAD_ADAPTERS = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch
model = AutoModelForCausalLM.from_pretrained("{base}", dtype=torch.{dtype})
model = PeftModel.from_pretrained(model, "{folder}", autocast_adapter_dtype=False)  # else its adapters become float32
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer
import torch
model = AutoModelForCausalLM.from_pretrained("{folder}", dtype=torch.{dtype})
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
ROWS = """---
license: {tag}
tags: [{paper}]
configs:
{configs}
---
# {paper}: data of run {run}

Made in run `{run}` of {paper}, preset {preset}, seed {seed}, commit `{commit}`.{uncited}

{files}

{about}

## Licences

{licences}

## Settings

{settings}
"""


def base_of(spec: str) -> str:
    """What others call the model that a setting MODEL names: its hub id, or a folder's name."""
    return BASES.get(spec, (None, None))[0] or ("base" if spec == "tiny-random" else _public(spec))


def quantized(run: RunRecord, arm: str, folder: str, *, said: float, size: float) -> str:
    """The text of README.md: what this is, how to load it, its size, what was measured, licences, data, settings.

    said, size: bits a weight by the format, and on disk.
    """
    m, settings = run.manifest, _settings(run)
    return (CARD + FOOT).format(
        **_told(run, arm, folder),
        groups="one scale a row" if settings["group"] == -1 else f"one scale for {settings['group']} input channels",
        kind="symmetric" if settings["symmetric"] else "with zero-points",
        bits=settings["bits"], layers=m["model"]["block linears"], said=said, size=size,
    )  # fmt: skip


def learned(run: RunRecord, arm: str, folder: str, *, note: str, adapters: bool, own_base: bool) -> str:
    """The card of PEFT adapters, or of a whole model. note: what the study says of it; own_base: it lies in base/."""
    told, settings = _told(run, arm, folder), _settings(run)
    base = f"{folder}/base" if own_base else base_of(run.manifest["settings"]["model"])
    what = f"PEFT adapters for `{base}`." if adapters else f"`{told['model']}` with what was learned, in one piece."
    load = LOAD_ADAPTERS if adapters else LOAD_MODEL
    dtype = settings["dtype"]
    return (LEARNED + FOOT).format(
        **told, what=what, note=f" {note}" if note else "", dtype=dtype, library="peft" if adapters else "transformers",
        load=load.format(base=base, folder=folder, dtype=dtype),
    )  # fmt: skip


def _settings(run: RunRecord) -> dict:
    return {name: _public(value) for name, value in run.manifest["settings"].items()}


def _told(run: RunRecord, arm: str, folder: str) -> dict:
    """What every model's card tells."""
    m, settings = run.manifest, _settings(run)
    model, licence = settings["model"], _licence(settings["model"])
    origin = BASES.get(model, (None, None))[0]
    return _whose(run) | {
        "tag": _tag(licence), "base": f"base_model: {origin}\n" if origin else "",
        "name": (origin or model).rpartition("/")[2], "arm": arm, "model": model, "sha256": m["model"]["sha256"],
        "folder": folder, "licence": licence, "claims": _claims(run), "data": _data(m["data"]),
    }  # fmt: skip


def _whose(run: RunRecord) -> dict:
    """What every card tells of the run."""
    m, why = run.manifest, results.uncited(run.manifest)
    return {
        "run": m["run_id"], "paper": m["paper"], "preset": m["preset"], "seed": m["seed"], "commit": m["commit"][:12],
        "uncited": f"\nNot evidence: {'; '.join(why)}." if why else "",
        "settings": _rows(_settings(run).items(), ("setting", "value")),
    }  # fmt: skip


def _licence(model: str) -> str:
    asset = BASES.get(model, (None, None))[1]
    return assets.ASSETS[asset].licence if asset else OURS if model == "tiny-random" else UNKNOWN


def _tag(licence: str) -> str:
    return "apache-2.0" if licence == OURS else "other"


def data(run: RunRecord, found: Mapping[str, tuple[str, Sequence[str]]]) -> str:
    """The text of README.md beside {file: (what a row is, rows)}."""
    settings = _settings(run)
    files = _rows([(f"{n}.jsonl", len(rows), about) for n, (about, rows) in found.items()], ("file", "rows", "a row"))
    reasons = Counter(
        (row["fate"], re.sub(r"\(.*|like .*", "", row["reason"]).strip(" :"))
        for name, (_, rows) in found.items() if name == "dropped" for row in map(json.loads, rows)
    )  # fmt: skip
    why = [(fate, reason, n) for (fate, reason), n in reasons.most_common(20)]
    writer = settings.get("teacher", settings["model"])
    licence = OURS if writer == "templated" else _licence(writer) if "teacher" not in settings else UNKNOWN
    return ROWS.format(
        **_whose(run), tag=_tag(licence),
        configs="\n".join(f"- config_name: {n}\n  data_files: {n}.jsonl" for n in found),
        files=files, about=_rows(why, ("fate", "why rows were dropped", "rows")) if why else "",
        licences=f"Written by `{writer}`: {licence}.",
    )  # fmt: skip


def _public(value):
    """A setting's value; of a path on this machine the name alone, of a server's model the model."""
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return value.partition(" ")[2]
    path = isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("~", ".")))
    return Path(value).name if path else value


def _claims(run: RunRecord) -> str:
    """Headline claims: this run's own value beside the cited one and its verdict."""
    paper = run.manifest["paper"]
    if run.manifest["preset"] == "smoke":
        return "Nothing: a smoke run shows that everything runs."
    beside = claims.beside(paper, run, results.evidence(results.load_runs(paper)))
    rows = [
        (r.claim, r.statement, _number(r["this run"]), f"{_number(r.cited)} [{_number(r.low)}, {_number(r.high)}]",
            r.verdict) for _, r in beside.iterrows()
    ]  # fmt: skip
    return _rows(rows, ("claim", "statement", "this run", "cited", "verdict"))


def _data(files: list[dict]) -> str:
    """The run's data files with their sums and, where data/README.md tells it, their licence."""
    told = (paths.DATA / "README.md").read_text(encoding="utf-8")
    rows = []
    for f in files:
        row = re.search(rf"^\|[^|]*`{re.escape(f['file'])}`[^|]*\|[^|]*\|([^|]*)\|", told, re.M)
        ours = any(f["sha256"] == assets.file_sha256(p) for p in paths.DATA.glob(f["file"]))
        rows.append((f["file"], f["rows"], f["sha256"], row[1].strip() if row and ours else UNKNOWN))
    return _rows(rows, ("file", "rows", "sha256", "licence"))


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _rows(rows, columns: tuple[str, ...]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(x).replace("|", "\\|") for x in line) + " |" for line in lines)
