"""The gate opens where heads can learn the oracle's taste, and stays shut where labels are noise."""

import hashlib
from types import SimpleNamespace

import pytest
import torch

from lib import data
from lib.harness import paths
from lib.scoring import oracles
from lib.studies.sea import gate
from lib.studies.sea.language import Dialogue, bench

CFG = SimpleNamespace(
    seed=200, loss="dpo", beta=0.1, slic_beta=0.2, ipo_beta=0.2, labels="deterministic", flip=0.0, budget=320, batch=16,
    burn_in=2, heads=8, hidden=16, heads_lr=1e-2, heads_batch=32, heads_steps=40, anchor=0.01, buffer=500, blocks=1,
    lr=1e-3, warmup=1, clip=1.0, tokens=6, temperature=1.0, generation_batch=64, eval_batch=16, device="cpu", micro=8,
)  # fmt: skip


def low(text: str) -> float:
    """Share of letters of the first half of the alphabet: in the features, and so to be learned."""
    return sum(c < "n" for c in text) / max(1, len(text))


def noise(text: str) -> float:
    return float(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))


def counts(world, ids, done):
    """(nothing, which bytes an answer has, log-probs that nobody reads): features from which `low` is a sum."""
    at = torch.tensor([[[sum(t // 4 == k for t in c.tokens) for k in range(64)] for c in row] for row in done])
    return [None] * len(done), at.float() / 3, torch.zeros(at.shape[:2])


@pytest.fixture
def make(tiny_model, byte_tokenizer, monkeypatch):
    monkeypatch.setattr(Dialogue, "look", counts)
    prompts = data.load_prompts(paths.DATA / "prompts.jsonl", "train")[:160]

    def world(rule):
        reward = oracles.free(lambda rows: torch.tensor([rule(a) for _, a in rows], dtype=torch.float64))
        parts = prompts[:80], prompts[80:160]
        b = bench(CFG, tiny_model, byte_tokenizer, *parts, rewards={"oracle": reward}, stop_ids=[257])
        return Dialogue(b, torch.Generator().manual_seed(0))

    return world


def test_heads_learn_what_can_be_learned_and_no_noise(make):
    right, coins = (gate.accuracy(make(rule), CFG) for rule in (low, noise))
    assert right.shape == (80,) and set(right[right.isfinite()].tolist()) <= {0.0, 0.5, 1.0}
    assert right.nanmean() > 0.7 > coins.nanmean() + 0.05


def test_what_the_oracle_cannot_tell_apart_counts_half_and_equal_answers_not_at_all(make, monkeypatch):
    assert set(gate.accuracy(make(lambda text: 1.0), CFG).nan_to_num(0.5).tolist()) == {0.5}
    w, sample = make(low), Dialogue.sample
    monkeypatch.setattr(Dialogue, "sample", lambda *given: [[row[0]] * len(row) for row in sample(*given)])
    assert gate.accuracy(w, CFG).isnan().all()
