"""The language model's world on the tiny model."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lib import data
from lib.bandit.methods import METHODS, policy_loss
from lib.bandit.online import Agent
from lib.engine import trunk
from lib.harness import paths
from lib.scoring import oracles
from lib.scoring.likelihood import completion_logprobs
from lib.scoring.oracles import Oracle
from lib.studies.sea.language import Dialogue, as_start, bench, compete

COLUMNS = "prompt=prompt,chosen=chosen,rejected=rejected"
CFG = SimpleNamespace(
    loss="dpo", beta=0.1, heads=4, hidden=8, heads_lr=1e-2, buffer=500, batch=4, candidates=3, oversample=2, burn_in=1,
    optimism=1e-3,
    heads_batch=4, heads_steps=2, anchor=0.5, slic_beta=0.2, ipo_beta=0.2, blocks=1, lr=1e-2, warmup=1, clip=1.0,
    tokens=5, generation_batch=4, eval_batch=3, temperature=1.0, micro=2, best_of=3, yardstick=1,
)  # fmt: skip
generator = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731
REWARDS = {name: oracles.rewarder(name, dtype=torch.float32, device="cpu", batch=4) for name in ("full", "varied")}


@pytest.fixture
def make(tiny_model, byte_tokenizer):
    prompts = data.load_prompts(paths.DATA / "prompts.jsonl", "train")[:9]
    start = {k: v.clone() for k, v in tiny_model.state_dict().items()}

    def world(rewards=REWARDS):
        tiny_model.load_state_dict(start)
        parts = prompts[:6], prompts[6:]
        return Dialogue(bench(CFG, tiny_model, byte_tokenizer, *parts, rewards=rewards, stop_ids=[257]), generator(0))

    return world


def test_what_is_proposed(make, tiny_model):
    w = make()
    c = w.propose(w.draw(4), 3, "policy")
    want = completion_logprobs(tiny_model, [w.bench.ids[p] for p in c.prompts], *zip(*c.answers), batch=2)
    assert torch.allclose(c.start, want, atol=1e-4) and torch.allclose(
        c.log_probs, want, atol=1e-4
    )  # the policy is still the start
    assert c.features.shape == (4, 3, w.dim) and torch.isfinite(c.features).all()
    flat = (c.features * w.dim**0.5).flatten(0, 1)
    assert torch.allclose(flat.mean(0), torch.zeros(w.dim), atol=1e-4) and torch.allclose(
        flat.std(0), torch.ones(w.dim), atol=1e-3
    )
    assert len(w.texts(c, torch.zeros(4, dtype=torch.long))) == 4
    both = w.propose(w.draw(2), 9, "both")
    assert [len(row) for row in both.answers] == [2, 2] and both.log_probs.isnan().all()


def test_every_prompt_comes_once_an_epoch(make):
    w = make()
    assert sorted(w.draw(4) + w.draw(2)) == list(range(6)) == sorted(w.draw(6))


def test_features_are_the_frozen_start_s_and_the_policy_s_log_probs_move(make, tiny_model):
    w = make()
    c = w.propose(w.draw(4), 2, "policy")
    duels = torch.tensor([[0, 1]] * 4)
    first = w.step(c, duels, torch.ones(4), policy_loss("dpo", beta=0.1), None)
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
    for _ in range(3):
        last = w.step(c, duels, torch.ones(4), policy_loss("dpo", beta=0.1), None)
    assert last["loss"] < first["loss"] and last["margin"] > 0
    rows = [(w.bench.ids[p], row) for p, row in zip(c.prompts, c.answers)]
    pieces = trunk.states(
        trunk.split(tiny_model, CFG.blocks)[0], rows, batch=2
    )  # what was kept while sampling is what a second pass gives
    for mine, again in zip(c.held, pieces):
        assert all(
            torch.allclose(a[:n], b[:n], atol=1e-5)
            for a, b, n in zip(mine, again, [len(mine[0]), *(len(x) - 1 for x in mine[1:])])
        )
    as_start(w.bench)
    start = completion_logprobs(tiny_model, [p for p, _ in rows], *zip(*[a for _, a in rows]), batch=2)
    w.latent.sync()
    assert torch.allclose(start, c.start, atol=1e-4)
    now = completion_logprobs(tiny_model, [p for p, _ in rows], *zip(*[a for _, a in rows]), batch=2)
    assert not torch.allclose(now, c.start, atol=1e-3)  # the model itself holds the policy


def test_masked_pairs_teach_nothing(make):
    w = make()
    c = w.propose(w.draw(4), 2, "policy")
    before = [p.clone() for p in w.latent.parameters]
    out = w.step(c, torch.tensor([[0, 1]] * 4), torch.zeros(4), policy_loss("dpo", beta=0.1), None)
    assert out["loss"] == 0 and all(torch.equal(a, b) for a, b in zip(before, w.latent.parameters))


def agent(world, method="sea"):
    oracle = Oracle(REWARDS["full"], labels="deterministic", flip=0.0, generator=generator(1))
    return Agent(world, METHODS[method], oracle, CFG, generator=generator(2))


@pytest.mark.parametrize("method", ["sea", "xpo", "apl-certainty", "offline", "heads-only", "bai-bon"])
def test_methods_play(make, method):
    a = agent(make(), method)
    outs = [a.round() for _ in range(3)]
    assert outs[-1]["queries"] == len(a.oracle.log) and all(
        torch.isfinite(torch.tensor(v))
        for o in outs
        for k, v in o.items()
        if k not in ("synthetic labels true", "KL to the start")
    )
    assert torch.tensor(outs[-1]["synthetic labels true"]).isnan() != bool(a.method.synthetic) and torch.tensor(
        outs[-1]["KL to the start"]
    ).isnan() == (a.method.source != "policy")
    scores = a.evaluate()
    assert set(scores) == {
        "win rate, full",
        "reward, full",
        "win rate, varied",
        "reward, varied",
        "length",
        "distinct bigrams",
    } and all(len(v) == 3 for v in scores.values())


def test_the_start_ties_with_itself(make):
    scores = agent(make(), "passive").evaluate()
    assert scores["win rate, full"].tolist() == [0.5] * 3


def test_the_yardstick_is_the_best_of_several_answers_of_the_start(make, monkeypatch):
    one = make()
    assert one.evaluate(None, "start")["win rate, full"].tolist() == [0.5] * 3  # against itself
    monkeypatch.setattr(CFG, "yardstick", 5)
    w = make()
    scores, rewarded = w.evaluate(None, "start"), REWARDS["full"]([("", t) for t in w.reference])
    assert scores["win rate, full"].tolist() == oracles.wins(scores["reward, full"], rewarded).tolist()
    assert (rewarded - REWARDS["full"]([("", t) for t in one.reference])).mean() > 0
    paid = make({"full": lambda rows: REWARDS["full"](rows)})  # asking it for the best would be billed
    paid.evaluate(None, "start")
    assert paid.reference == one.reference


def test_a_run_resumed_in_its_middle_goes_the_same_way(make):
    whole = agent(make())
    for _ in range(2):
        whole.round()
    state = whole.state()
    rest = [whole.round() for _ in range(2)]
    whole.evaluate()
    other = agent(make())
    other.restore(state)
    for was in rest:
        assert other.round() == pytest.approx(was, nan_ok=True)


def test_prompts_are_drawn_where_the_generator_lives(make, monkeypatch):
    w, real, asked = make(), torch.randperm, []
    monkeypatch.setattr(torch, "randperm", lambda *x, device=None, **k: asked.append(device) or real(*x, **k))
    w.draw(3)
    assert asked == [w.generator.device]


def test_a_reward_that_is_not_free_is_not_asked_for_win_rates(make):
    paid = lambda rows: pytest.fail("a call that nobody counts")  # noqa: E731
    w = make({"oracle": paid, "held-out oracle": REWARDS["varied"]})
    scores = w.evaluate(None, "start")
    assert "win rate, held-out oracle" in scores and not any(k.endswith(", oracle") for k in scores)


JUDGES = {"oracle": REWARDS["full"], "held-out oracle": REWARDS["varied"]}


def test_what_the_oracle_preferred_is_kept_and_a_resumed_run_keeps_the_same(make, sandbox, monkeypatch):
    """Of queries alone, the synthetic share is not the oracle's; in their order, also after a stop in the middle."""
    cfg = SimpleNamespace(
        **vars(CFG) | dict(seed=0, device="cpu", budget=12, every=6, labels="deterministic", flip=0.0)
    )
    run = SimpleNamespace(dir=sandbox, manifest={"settings": {"keep": "sea-logit"}})
    kept = sandbox / "kept-preferences-sea-logit.jsonl"

    def preferred():
        return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()][1:]

    played = compete(make(JUDGES), "sea-logit", cfg, lr=1e-2, run=run)
    first = preferred()
    assert played.took["oracle queries"] >= len(first) > 0 and all(r["chosen"] != r["rejected"] for r in first)
    for r in first:
        better, worse = REWARDS["full"]([(r["prompt"], r["chosen"]), (r["prompt"], r["rejected"])]).tolist()
        assert better >= worse
    weights = {n: t.clone() for n, t in load_file(sandbox / "sea-logit.safetensors").items()}
    assert weights and len(data.read(kept, "pairs", limit=1.0, columns=COLUMNS).rows) > 0

    kept.unlink()
    asked = []
    step = Dialogue.step

    def fails_once(self, *args):
        asked.append(1)
        if len(asked) == 2:
            raise ConnectionError("the oracle is gone")
        return step(self, *args)

    monkeypatch.setattr(Dialogue, "step", fails_once)
    stopped = sandbox / "unfinished.safetensors"
    with pytest.raises(ConnectionError):
        compete(make(JUDGES), "sea-logit", cfg, lr=1e-2, keep=stopped, run=run)
    assert not kept.exists()
    compete(make(JUDGES), "sea-logit", cfg, lr=1e-2, keep=stopped, run=run)
    assert preferred() == first
    again = load_file(sandbox / "sea-logit.safetensors")
    assert all(torch.equal(again[n], t) for n, t in weights.items())


def test_nothing_is_kept_that_nobody_asked_for(make, sandbox):
    cfg = SimpleNamespace(**vars(CFG) | dict(seed=0, device="cpu", budget=4, every=4, labels="deterministic", flip=0.0))
    run = SimpleNamespace(dir=sandbox, manifest={"settings": {"keep": "none"}})
    compete(make(JUDGES), "passive", cfg, lr=1e-2, run=run)
    assert not list(sandbox.glob("*.safetensors")) and not list(sandbox.glob("kept*"))
