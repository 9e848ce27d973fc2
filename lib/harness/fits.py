"""Whether a run will fit this machine, before anything of it is loaded.

What it takes is reckoned by `lib.studies.footprints` in a process of its own, on shapes alone; here it is compared with
what there is, and said in one sentence.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lib.harness import paths

GB = 2**30
SLACK = 1.1  # what kernels and the allocator take beside the tensors that are counted
LEVERS = {  # by words of a stage's name: settings that make it smaller
    "generation_batch": ("answers", "candidates", "samples"),
    "eval_batch": ("scores", "rewards"),
    "micro": ("training", "steps"),
    "pack": ("training",),
    "blocks": ("training", "latents"),
    "host": ("training: weights",),
    "optimizer": ("training",),
    "checkpoint": ("training",),
    "arms": ("AWQ",),
}


EIGHT = ("8bit", "paged-8bit")  # settings of the optimizer that bitsandbytes serves


class Stage(NamedTuple):
    """A stage's height in GB: on the device that computes, and on the host where that is another."""

    name: str
    device: float
    host: float


def footprint(cfg, say: Callable[[Stage], None] = lambda stage: None, *, processes: int = 1, **instead) -> list[Stage]:
    """What each stage of a paper's study takes in each of so many processes with these settings, some of them `instead`
    of their own; `say` hears of each when it is known.

    ValueError with the reason where it cannot be told: a paper without a study, a model of unknown shape.
    """
    settings = {"PRESET": cfg.preset, "SEED": cfg.seed} | {k.upper(): v for k, v in (dict(cfg) | instead).items()}
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command, stages = (
        [sys.executable, "-m", "lib.studies.footprints", cfg.paper, json.dumps(settings), str(processes)],
        [],
    )
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=paths.ROOT, env=os.environ | quiet, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            if line.startswith("#stage "):
                name, (device, host) = json.loads(line.split(" ", 1)[1])
                stages.append(Stage(name, SLACK * device / GB, SLACK * host / GB))
                say(stages[-1])
        if process.wait():
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"what {cfg.paper} takes of memory cannot be told: {last}")
    return stages


def there_is(device: str) -> float:
    """GB of a device (cpu, mps, cuda, cuda:1): of that GPU, or of the machine, whose memory mps shares; 0 for one that
    is not there."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    if device == "cpu":
        return machine
    import torch

    if device == "mps":
        return machine if torch.backends.mps.is_available() else 0.0
    place = int(device.partition(":")[2] or 0)
    return torch.cuda.get_device_properties(place).total_memory / GB if place < torch.cuda.device_count() else 0.0


def objection(stages: list[Stage], settings: dict, *, memory: float, host: float, processes: int = 1) -> str | None:
    """One sentence with what is too large, by how much, and which settings would help; None where all fits. Several
    processes have a GPU each, and share the host."""
    apart = settings["device"] != "cpu"
    stages = [Stage(s.name, s.device * (1 if apart else processes), s.host * processes) for s in stages]
    worst = max(stages, key=lambda s: s.device + (0 if apart else s.host))
    need = worst.device + (0 if apart else worst.host)
    if need > memory:
        return (
            f"{worst.name!r} takes {need:.1f} GB of the {memory:.1f} GB of {settings['device']}: "
            f"{_advice(worst.name, settings)}"
        )
    worst = max(stages, key=lambda s: s.host)
    if apart and worst.host > host:
        return (
            f"{worst.name!r} takes {worst.host:.1f} GB of the {host:.1f} GB of the computer's memory: "
            f"{_advice(worst.name, settings)}"
        )
    return None


def _advice(stage: str, settings: dict) -> str:
    help_ = [n for n, words in LEVERS.items() if n in settings and any(w in stage for w in words)]
    words = {"host": "HOST=True", "checkpoint": "CHECKPOINT=True", "arms": "ARMS without awq and gptq"}
    words["optimizer"] = "OPTIMIZER=8bit"
    asked = [words.get(n, f"a smaller {n.upper()}") for n in help_ if settings[n] not in (True, 1, *EIGHT)]
    return f"try {', '.join(asked)} or another MODEL" if asked else "try another MODEL"


def check_device(cfg) -> None:
    """ValueError where torch finds no such device as the settings ask for, or the optimizer cannot work there."""
    device, kind = cfg.get("device", "cpu"), cfg.get("optimizer", "none")
    if kind == "paged-8bit" and (not device.startswith("cuda") or cfg.get("host")):
        raise ValueError(
            f"{cfg.paper}: OPTIMIZER=paged-8bit pages moments out of a GPU, and its weights are stepped on "
            f"{'the host (HOST=True)' if cfg.get('host') else device}; OPTIMIZER=8bit works there"
        )
    if kind in EIGHT and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"{cfg.paper}: OPTIMIZER={kind} needs bitsandbytes: pip install bitsandbytes")
    if not there_is(device):
        raise ValueError(
            f"{cfg.paper} asks for the device {device}, and torch finds none here; DEVICE=cpu runs without"
        )


def settle(cfg, *, memory: float | None = None, host: float | None = None, processes: int = 1) -> None:
    """Where the settings leave it to the machine (MICRO=0), choose the largest micro-batch, at most the batch (a
    process's share of it), whose forecast fits the GB of the device and of the host; those that are here unless given.

    ValueError where none fits or the forecast cannot be told. A runner that has chosen tells its kernel
    (PLUMBLINE_MICRO).
    """
    if cfg.get("micro") != 0:
        return
    if told := os.environ.get("PLUMBLINE_MICRO"):
        cfg.choose(micro=int(told))
        return
    room = there_is(cfg["device"]) if memory is None else memory
    host = there_is("cpu") if host is None else host

    def objects(micro: int) -> str | None:
        try:
            stages = footprint(cfg, processes=processes, micro=micro)
        except ValueError as error:
            raise ValueError(f"{error}; MICRO takes a number where it cannot be chosen") from None
        return objection(stages, dict(cfg), memory=room, host=host, processes=processes)

    most = max(1, cfg["batch"] // processes)
    fits, fails = 0, most + 1
    at, why = most, None  # all at once, if that fits
    while fails - fits > 1:
        no = objects(at)
        fits, fails, why = (fits, at, no) if no else (at, fails, why)
        at = (fits + fails) // 2
    if not fits:
        raise ValueError(f"{cfg.paper} does not fit: {why}")
    cfg.choose(micro=fits)


def check(cfg, processes: int = 1) -> str | None:
    """Raise ValueError where a run at these settings cannot fit here; a sentence where that cannot be told."""
    check_device(cfg)
    try:
        stages = footprint(cfg, processes=processes)
    except ValueError as error:
        return str(error)
    room: dict[str, Any] = dict(memory=there_is(cfg["device"]), host=there_is("cpu"), processes=processes)
    no = objection(stages, dict(cfg), **room)
    if no:
        raise ValueError(f"{cfg.paper} does not fit: {no}")
    return None


def _table() -> Path:
    return paths.RESULTS / "tables" / "memory.csv"


def write(preset: str, found: dict[str, list[Stage]]) -> Path:
    """Keep the stages of these papers in results/tables/memory.csv, in place of what it had of them."""
    import pandas as pd

    columns = ["paper", "preset", "stage", "device GB", "host GB"]
    rows = [(p, preset, s.name, round(s.device, 1), round(s.host, 1)) for p, stages in found.items() for s in stages]
    table, path = pd.DataFrame(rows, columns=columns), _table()
    if path.exists():
        before = pd.read_csv(path)
        table = pd.concat([before[~(before.paper.isin(found) & (before.preset == preset))], table])
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return path


def known(preset: str) -> dict[str, tuple[float, float]]:
    """(device, host) GB of each paper at this preset, from the table; empty where there is none."""
    import pandas as pd

    if not _table().exists():
        return {}
    table = pd.read_csv(_table())
    heights = table[table.preset == preset].groupby("paper", sort=False)[["device GB", "host GB"]].max()
    return {paper: (row["device GB"], row["host GB"]) for paper, row in heights.iterrows()}
