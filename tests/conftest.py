"""All tests run on the CPU, offline and without progress bars; `gpu` and `network` tests run only when asked for by
mark."""

import os

os.environ.update(
    TQDM_DISABLE="1",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)
if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, one thread each: two threads beside anything else crawl
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PLUMBLINE_HEADLESS", None)
os.environ.pop("PLUMBLINE_NO_CACHE", None)

import random  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

ON_REQUEST = ("gpu", "network")
FORMULAS = (  # numbers of formulas and of the engine: they get the mark `formula` and run under every instruction set
    "bandit/", "constraint/", "losses/", "quantization/", "test_stats", "scoring/test_metrics", "scoring/test_flipping",
    "scoring/test_likelihood", "scoring/test_diversity", "engine/test_attention", "engine/test_draws",
    "engine/test_generation",
    "engine/test_head", "engine/test_logprobs", "engine/test_merging", "engine/test_mixing", "engine/test_objectives",
    "engine/test_training", "engine/test_trunk",
)  # fmt: skip


def pytest_configure(config):
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same numbers on every machine, kernels of notebooks included


@pytest.hookimpl(tryfirst=True)  # before -m looks
def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.path.relative_to(Path(__file__).parent).as_posix().startswith(FORMULAS):
            item.add_marker("formula")
    # one worker must not be left with a minute's work when the others are done. What several tests share that is dear
    # stands in one test: each worker has its own session, and xdist's groups are void under pytest 9.2
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    left_out = [
        item
        for item in items
        if any(item.get_closest_marker(m) and m not in config.option.markexpr for m in ON_REQUEST)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if "torch" in sys.modules:  # the harness tests never pay for its import
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """An empty folder with results/ and cache/ to which paths.RESULTS and paths.CACHE point during the test."""
    monkeypatch.setenv("PLUMBLINE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def complete():
    """Records something of all that a run's settings ask for, so that it can be finished."""
    from lib.harness import presets

    def fill(run, leave=()):
        items = run.record().items()
        there = set(zip(items.dataset, items.arm))
        for dataset, arm in presets.needed(run.manifest["paper"], run.manifest["settings"]):
            if arm not in leave and (dataset, arm) not in there:
                run.items(dataset, arm, "something", ["-"], [0.5])
        return run

    return fill


@pytest.fixture
def _tiny():
    import torch

    from lib.engine import models

    return models.load("tiny-random", dtype=torch.float32)


@pytest.fixture
def tiny_model(_tiny):
    """A random Llama of a few thousand weights, float32, fresh for each test."""
    return _tiny[0]


@pytest.fixture
def byte_tokenizer(_tiny):
    """The tokenizer that goes with `tiny_model`: one token a byte, no download."""
    return _tiny[1]


@pytest.fixture
def world(sandbox, tiny_model, byte_tokenizer):
    """MRPO's world at smoke with few prompts."""
    from lib import data
    from lib.harness import paths, presets, results
    from lib.studies.mrpo import answers
    from lib.studies.mrpo.world import build

    cfg = presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 0})
    run = results.start(cfg, notebook="40_mrpo")
    how = answers.Draws(1.0, each=4, max_new_tokens=6, stop_ids=[257], batch=4)
    splits = {}
    for name in ("train", "test"):
        prompts = data.load_prompts(paths.DATA / "prompts.jsonl", name)[:4]
        ids = data.encode(byte_tokenizer, prompts)
        splits[name] = answers.sample(tiny_model, byte_tokenizer, prompts, ids, how, seed=0).candidates
    return build(cfg, run, tiny_model, byte_tokenizer, splits, stop_ids=[257])


@pytest.fixture
def picks():
    """n of the pairs that MRPO's world holds, the same at each call."""

    def make(n=6):
        from lib.studies.mrpo.candidates import Choice

        rng = np.random.default_rng(0)
        rows, answers = rng.integers(0, 4, n), rng.integers(0, 4, n)
        return [Choice(int(r), int(a), int((a + 1) % 4), 1.0) for r, a in zip(rows, answers)]

    return make
