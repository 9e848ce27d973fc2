"""A tilted language model without a model: what fixtures of tests/studies/mrpo share."""

from types import SimpleNamespace

import pytest
import torch

from lib.data import Prompt
from lib.studies.mrpo import tilts
from lib.studies.mrpo.answers import Answers
from lib.studies.mrpo.candidates import Candidates

SIZES = dict(train=24, validation=8, test=10)


@pytest.fixture
def tilt_cfg():
    return SimpleNamespace(
        seed=0, tilt_dim=3, tilt_draws=4, tilt_scarce=16, tilt_abundant=40, tilt_reference=40, tilt_anchor=1.0,
        tilt_kl=0.3, beta=0.1, epsilon=0.1,
    )  # fmt: skip


@pytest.fixture
def texts(tilt_cfg):
    """A world whose states say how many words an answer has: `full` can be learned."""
    g, said = torch.Generator().manual_seed(0), {}
    for split, n in SIZES.items():
        words = torch.randint(1, 12, (n, 4), generator=g)
        states = torch.randn(n, 4, 5, generator=g, dtype=torch.float64)
        states[..., 0] = words / 2
        prompts = [Prompt(f"{split}-{i}", "ab"[i % 2], f"p{i}", split) for i in range(n)]
        rows = [[" ".join(["w"] * k) for k in row] for row in words.tolist()]
        ids = [[[1] * k for k in row] for row in words.tolist()]
        base = -20 - 5 * torch.rand(n, 4, generator=g, dtype=torch.float64)
        said[split] = Answers(Candidates(prompts, [[1]] * n, ids, rows), base, states)
    return tilts.texts(said, "full", tilt_cfg)
