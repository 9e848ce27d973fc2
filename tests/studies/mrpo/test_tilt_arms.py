"""The arms of the tilted language model: limits, gates that respond and gates that must not."""

import pytest
import torch

from lib.harness.presets.mrpo import TILTS
from lib.studies.mrpo import convex, tilt_arms, tilts


def accuracy(p, arm):
    return tilts.outcomes(p.texts, convex.solve(tilt_arms.loss(p, arm)), 0.1)["accuracy"].nanmean().item()


@pytest.fixture
def bases(texts):
    return texts.base.expand(4, -1, -1)


@pytest.mark.parametrize("arm", ["mrpo", "multi-dpo", "single", "geometric", "mrpo, per token"])
def test_a_second_reference_that_is_the_first_gives_dpo(texts, tilt_cfg, bases, arm):
    p = tilt_arms.place(texts, tilt_cfg, 16, bases)
    dpo = "dpo, per token" if "token" in arm else "dpo"
    a, b = (convex.solve(tilt_arms.loss(p, name)) for name in (arm, dpo))
    assert torch.allclose(a, b, atol=1e-8)


def test_a_constant_added_to_every_reference_margin_moves_the_optimum(texts, tilt_cfg, bases):
    p = tilt_arms.place(texts, tilt_cfg, 16, bases)
    a, b = (tilt_arms.loss(p, name) for name in ("dpo", "dpo, 50 nats added"))
    assert torch.allclose(b.offset - a.offset, torch.tensor(5.0).double())
    assert (convex.solve(b) - convex.solve(a)).norm(dim=1).min() > 0.1
    with pytest.raises(ValueError, match="an arm is changed by"):
        tilt_arms.loss(p, "dpo, doubled")


def test_the_gates_respond_and_fail_where_labels_are_noise(texts, tilt_cfg, bases):
    p = tilt_arms.place(texts, tilt_cfg, 40, bases)
    assert accuracy(p, "dpo") - accuracy(p, "dpo, flipped labels") > 0.3
    g = torch.Generator().manual_seed(0)
    luck = torch.rand(p.sums.pairs.chosen.shape, generator=g) < 0.5
    b = p.sums.pairs
    coin = b._replace(chosen=torch.where(luck, b.chosen, b.rejected), rejected=torch.where(luck, b.rejected, b.chosen))
    noisy = p._replace(sums=p.sums._replace(pairs=coin))
    assert abs(accuracy(noisy, "dpo") - accuracy(noisy, "dpo, flipped labels")) < 0.3


def test_per_token_log_probs_by_hand(texts, tilt_cfg, bases):
    tokens = 2 * texts.tokens + 1
    p = tilt_arms.place(texts, tilt_cfg, 16, bases - 7, tokens)
    mean = texts.tokens.mean()
    assert torch.allclose(p.means.refs[0], bases / texts.tokens * mean)
    assert torch.allclose(p.means.refs[1], (bases - 7) / tokens * mean)


def test_arms_at_equal_kl_are_there(texts, tilt_cfg, bases):
    p = tilt_arms.place(texts, tilt_cfg, 16, tilts.complementary(texts, tilt_cfg))
    found, told = tilt_arms.measured(p, TILTS["complementary second"], tilt_cfg.tilt_kl)
    per_arm = {arm: m["KL, equal KL"].mean().item() for arm, m in found.items() if "KL, equal KL" in m}
    assert "dpo, flipped labels" not in per_arm and len(per_arm) == len(TILTS["complementary second"]) - 1
    assert max(per_arm.values()) - min(per_arm.values()) < 1e-4 and max(per_arm.values()) < tilt_cfg.tilt_kl + 1e-4
    assert told["dpo"]["correlation of margins with DPO's"] == pytest.approx(1)
    assert told["dpo, flipped labels"]["correlation of margins with DPO's"] < -0.9
    assert 0 <= told["second reference"]["share of scores on a bound"] <= 1


def test_equally_far_by_hand():
    """One pair, one feature: x = 1, loss softplus(-w) + anchor / 2 w^2; |w| is what is matched."""
    one = torch.ones(1, dtype=torch.float64)
    p = convex.Problem(one[:, None, None], 0 * one[None, None], one[None, None], one, 1.0)
    far = convex.equally_far({"a": p, "b": p._replace(anchor=one / 10)}, lambda w: w.abs()[:, 0])
    assert torch.allclose(far["a"], far["b"], atol=1e-4)
    capped = convex.equally_far({"a": p}, lambda w: w.abs()[:, 0], most=0.1)
    assert capped["a"].item() == pytest.approx(0.1, abs=1e-5)


def test_every_cell_of_the_preset_is_made_and_recorded(texts, tilt_cfg, monkeypatch):
    items, metrics = [], []

    class Run:
        def items(self, *row):
            items.append(row)

        def metric(self, *row, **more):
            metrics.append(row)

    monkeypatch.setattr(tilt_arms.workers, "each", lambda jobs, **k: ((name, job()) for name, job in jobs.items()))
    tilt_arms.record(Run(), tilt_cfg, texts, "full", (texts.base.float() - 50, texts.tokens))
    wanted = {(f"language full, {cell}", arm) for cell, arms in TILTS.items() for arm in arms}
    assert wanted <= {row[:2] for row in items} and ("language full, foreign second", "second reference") in {
        row[:2] for row in items
    }
    assert {"share of scores on a bound", "correlation of margins with DPO's"} <= {row[3] for row in metrics}
