"""Randomness with names: one integer SEED, and a stream of its own for each purpose.

Drawing from one shared generator makes every number depend on everything drawn before it; here the data order, the
sampler and the bootstrap each have a stream, so that adding an arm or a plot leaves the others' draws as they were.
"""

import hashlib
import random

import numpy as np


def stream(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose: the first eight bytes of sha256("seed:purpose"), same on every machine and run."""
    seed = _checked(seed)
    if not isinstance(purpose, str) or not purpose:
        raise ValueError(f"purpose names what the numbers are for, such as 'sampling'; given {purpose!r}")
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, purpose: str) -> np.random.Generator:
    """numpy's generator for one purpose."""
    return np.random.default_rng(stream(seed, purpose))


def torch_generator(seed: int, purpose: str, device: str = "cpu"):
    """torch's generator for one purpose; draws differ between devices, so sample on the CPU where they must agree."""
    import torch

    return torch.Generator(device=device).manual_seed(stream(seed, purpose))


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy and torch (all devices): for libraries that take no generator."""
    seed = _checked(seed)
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy global state is the point here
    torch.manual_seed(seed)


def _checked(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed is one whole number, given {seed!r} ({type(seed).__name__})")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed lies in 0 .. 2**63 - 1, given {seed}")
    return int(seed)
