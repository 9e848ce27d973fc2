"""An arm of a finished run as a model folder: which runs can give one, and the card that goes with it.

The weights are put together by the study that kept them, `lib.studies.qdpo.take_home`, in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lib.harness import assets, claims, paths, results
from lib.harness.presets.base import nearest
from lib.harness.results import RunRecord

STUDY = "lib.studies.qdpo.take_home"
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

## What was measured

{claims}

## Licences and data

Base model `{model}`: {licence}. Weights' sha256 (first 16 digits): `{sha256}`.

{data}

## Settings

{settings}
"""


def export(run: str, arm: str, to: Path) -> str:
    """Write an arm of a run as a model folder and return one line that says so. ValueError or an OSError, in one
    sentence, where that cannot be."""
    record = find(run)
    check(record, arm)
    to = to.expanduser().absolute()
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise FileExistsError(f"{to} holds something already; name a new folder or an empty one")
    command = [sys.executable, "-m", STUDY, str(record.dir.absolute()), arm, str(to)]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{arm} of {record.dir.name} cannot be taken home: {last}")
    return done.stdout.strip().splitlines()[-1]


def find(run: str) -> RunRecord:
    """The run of that name under results/runs, or in the folder of that path."""
    for folder in (paths.RUNS / run, Path(run).expanduser()):
        if (folder / "manifest.json").is_file():
            return RunRecord(folder)
    like = nearest(run, [r.dir.name for r in results.load_runs()])
    raise ValueError(f"there is no run {run!r} in {paths.RUNS} (`plumbline list` names the newest){like}")


def check(run: RunRecord, arm: str) -> None:
    """ValueError unless the run is done and has kept this arm's weights."""
    status = run.manifest.get("status")
    if status != "done":
        raise ValueError(f"{run.dir.name} is {status}, and only a run that is done can be taken home")
    kept = sorted(p.stem for p in run.dir.glob("*.safetensors"))
    if arm not in kept:
        has = f"only of {', '.join(kept)}" if kept else "of none"
        raise ValueError(f"{run.dir.name} keeps no weights of arm {arm!r}, {has}: run qdpo again with KEEP={arm}")


def card(run: RunRecord, arm: str, folder: str, *, said: float, size: float) -> str:
    """The text of README.md: what this is, how to load it, its size, what was measured, licences, data, settings.

    said, size: bits a weight by the format, and on disk.
    """
    m, settings = run.manifest, {name: _public(value) for name, value in run.manifest["settings"].items()}
    model = settings["model"]
    origin, asset = BASES.get(model, (None, None))
    licence = assets.ASSETS[asset].licence if asset else OURS if model == "tiny-random" else UNKNOWN
    why = results.uncited(m)
    return CARD.format(
        tag="apache-2.0" if licence == OURS else "other",
        base=f"base_model: {origin}\n" if origin else "",
        name=(origin or model).rpartition("/")[2],
        groups="one scale a row" if settings["group"] == -1 else f"one scale for {settings['group']} input channels",
        kind="symmetric" if settings["symmetric"] else "with zero-points",
        uncited=f"\nNot evidence: {'; '.join(why)}." if why else "",
        arm=arm, bits=settings["bits"], model=model, layers=m["model"]["block linears"], sha256=m["model"]["sha256"],
        run=m["run_id"], paper=m["paper"], preset=m["preset"], seed=m["seed"], commit=m["commit"][:12],
        folder=folder, said=said, size=size, licence=licence,
        claims=_claims(run), data=_data(m["data"]), settings=_rows(settings.items(), ("setting", "value")),
    )  # fmt: skip


def _public(value):
    """A setting's value; of a path on this machine the name alone."""
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
        ours = row and any(f["sha256"] == assets.file_sha256(p) for p in paths.DATA.glob(f["file"]))
        rows.append((f["file"], f["rows"], f["sha256"], row[1].strip() if ours else UNKNOWN))
    return _rows(rows, ("file", "rows", "sha256", "licence"))


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _rows(rows, columns: tuple[str, ...]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(x).replace("|", "\\|") for x in line) + " |" for line in lines)
