"""What `plumbline doctor` says: versions, device, memory, and which presets fit this machine."""

from __future__ import annotations

import os
from importlib import metadata

from lib.harness import fits, paths

NEED_GB = {"smoke": 1, "small": 6, "study": 6}  # the largest process of the cited runs, rounded up


def lines() -> tuple[list[str], bool]:
    """Its lines, and whether something that every notebook needs is missing."""
    out, bad = [], False
    for text in metadata.requires("plumbline") or []:
        if "extra ==" in text:
            continue
        name = text.split(";")[0].split("=")[0].split(">")[0].split("<")[0].strip()
        try:
            out.append(f"OK    {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            bad = True
            out.append(f"FAIL  {name} is missing: pip install -e .[dev]")
    import torch

    memory, video = fits.there_is("cpu"), fits.there_is("cuda")
    out.append(
        f"device {torch.cuda.get_device_name(0) if video else 'cpu'}, {os.cpu_count()} cores, {memory:.0f} GB "
        f"memory, {video:.0f} GB on the GPU"
    )
    embedded = (paths.CACHE / "models" / "smollm2-135m-instruct" / "plumbline.json").exists()
    out.append(f"embedded model: {'in data/cache' if embedded else 'not fetched yet (93 MB, once)'}")
    for preset, need in NEED_GB.items():
        out.append(f"preset {preset}: {'fits' if memory >= need else f'needs {need} GB'}")
    for paper, (gpu, host) in fits.known("paper").items():
        there = f" and {host:.0f} GB of memory" if host else ""
        enough = video >= gpu and memory >= host
        out.append(f"preset paper of {paper}: {'fits' if enough else f'needs {gpu:.0f} GB on a GPU{there}'}")
    return out, bad
