"""Many runs of one paper: every combination of a grid and the seeds."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lib.harness import runner


def commands(paper: str, preset: str, points: Sequence, seeds: Sequence[int]) -> list[list[str]]:
    """The command of each run; points are lists of (NAME, VALUE)."""
    return [
        [
            sys.executable,
            "-m",
            "lib.harness.cli",
            "run",
            paper,
            "--preset",
            preset,
            "--seed",
            str(s),
            *(x for k, v in p for x in ("--set", f"{k}={v}")),
        ]
        for p, s in itertools.product(points, seeds)
    ]


def local(commands: Sequence[list[str]], jobs: int) -> list[int]:
    """Exit codes, `jobs` commands at a time on this machine."""
    return list(ThreadPoolExecutor(jobs).map(_call, commands))


def _call(command: list[str]) -> int:
    return runner.spawn(command)


def with_ray(commands: Sequence[list[str]]) -> list[int]:
    """Exit codes of commands spread over a Ray cluster."""
    try:
        import ray
    except ImportError:
        raise ValueError('--ray needs the extra: pip install -e ".[scale]"') from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(ignore_reinit_error=True)
    return ray.get([ray.remote(_call).remote(c) for c in commands])
