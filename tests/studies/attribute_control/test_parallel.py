"""Two processes give what one gives with a stale R."""

import pytest
import torch

from lib.engine import models
from lib.harness import presets
from lib.scoring import toxicity
from lib.studies.attribute_control import forum, methods, parallel
from lib.studies.attribute_control.world import build, snapshot

FEW = {"PRESET": "smoke", "SEED": 0, "ITERATIONS": 3, "LAM": 2.0}


@pytest.mark.parametrize("fork", [True, False])
def test_in_parallel_is_in_turns_with_a_stale_r(fork, monkeypatch):
    monkeypatch.setattr(parallel, "forks", lambda: fork)
    cfg = presets.resolve("attribute_control", FEW)
    corpus = forum.compose(
        related=cfg.n_related,
        general_lines=cfg.n_general,
        questions=cfg.n_detection,
        share=0.5,
        test=cfg.n_test,
        prompts=cfg.n_prompts,
        seed=0,
    )
    model, tokenizer = models.load("tiny-random", dtype=torch.float32)
    world = build(
        cfg,
        model,
        tokenizer,
        lines=corpus.train,
        asked=corpus.asked,
        oracle=toxicity.classifier,
        stop_ids=models.stop_ids(model, tokenizer),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    curve, turns, nado = methods.controlled(world, lam=2.0, gated=True, stale=True, desc="one process")
    alone = snapshot(world)
    torch.set_num_threads(threads)
    with parallel.Partner(world, corpus.train, corpus.asked) as partner:
        both_curve, both_turns, both_nado = methods.controlled(
            world, lam=2.0, gated=True, stale=True, desc="two processes", partner=partner
        )
        with pytest.raises(KeyError):
            partner.begin({}, nado.state_dict(), 1)()  # what goes wrong there is raised here
    assert torch.get_num_threads() == threads and not partner.process.is_alive()
    assert [r["loss"] for r in curve] == [r["loss"] for r in both_curve] and [t.log for t in turns] == [
        t.log for t in both_turns
    ]
    assert all(torch.equal(alone[k], v) for k, v in snapshot(world).items())
    assert all(torch.equal(a, b) for a, b in zip(nado.state_dict().values(), both_nado.state_dict().values()))
    assert any(t.log["updated"] for t in turns)
