"""The tilted language model: features, rewards, references and outcomes against values by hand."""

import pytest
import torch

from lib.studies.mrpo import tilts


def test_features_have_deviation_one_within_the_training_prompts(texts):
    f = texts.draws.features[0, :24].flatten(0, 1)
    assert torch.allclose(f.mT @ f / len(f), torch.eye(3, dtype=f.dtype), atol=1e-9)
    with pytest.raises(ValueError, match="fewer than 9 directions"):
        tilts.components(torch.randn(5, 4, 5), 5, 9)


def test_rewards_are_deviations_within_a_prompt_by_hand():
    raw = torch.tensor([[1.0, 3.0], [5.0, 5.0], [0.0, 9.0]], dtype=torch.float64)
    want = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [-4.5, 4.5]], dtype=torch.float64) / 0.5**0.5
    assert torch.allclose(tilts.standardised(raw, 2), want)
    silent = tilts.standardised(torch.tensor([[1.0, -1e3, 3.0]], dtype=torch.float64), 1)
    assert silent[0, 0] == silent[0, 1], "an answer without a word is the worst that has some"
    with pytest.raises(ValueError, match="says the same"):
        tilts.standardised(torch.ones(2, 3), 2)


def test_pairs_differ_and_are_of_the_right_topics(texts):
    r = texts.draws.rewards[0]
    for draws, parity in ((texts.draws, 1), (texts.others, 0)):
        p, a, b = draws.pairs[0].unbind(1)
        assert (r[p, a] != r[p, b]).all() and (p % 2 == parity).all() and (p < 24).all()
        assert len(set(map(tuple, draws.pairs[0].tolist()))) == len(draws.pairs[0])


def test_a_tilt_is_normalised_over_draws_of_the_base(texts):
    w = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.05
    ratio = (tilts.tilted(texts, w, 0.1) - texts.base).exp()
    assert torch.allclose(ratio.mean(-1), torch.ones(4, 42, dtype=torch.float64))
    assert torch.allclose(tilts.tilted(texts, w * 0, 0.1), texts.base.expand(4, -1, -1))


def test_a_mis_scored_reference_holds_the_same_numbers_elsewhere(texts):
    l = texts.base.expand(4, -1, -1)
    moved = tilts.mis_scored(l, 0)
    assert torch.equal(moved.flatten(1).sort(1).values, l.flatten(1).sort(1).values)
    assert (moved != l).double().mean() > 0.9 and not torch.equal(moved[0], moved[1])


def test_outcomes_by_hand(texts):
    f = torch.tensor([[[[1.0], [0.0], [0.0]]]], dtype=torch.float64)
    r = torch.tensor([[[3.0, 1.0, 1.0]]], dtype=torch.float64)
    t = texts._replace(draws=texts.draws._replace(features=f, rewards=r), base=torch.tensor([[-9.0, -1.0, -2.0]],
        dtype=torch.float64), test=slice(0, 1))  # fmt: skip
    w = 0.1 * torch.full((1, 1), 2.0, dtype=torch.float64).log()  # theta = log 2
    found = tilts.outcomes(t, w, 0.1)  # p = 1/2, 1/4, 1/4
    kl = 0.5 * torch.tensor(1.5).log() + 0.5 * torch.tensor(0.75).log()
    assert found["expected reward"].item() == pytest.approx(2.0)
    assert found["KL"].item() == pytest.approx(kl.item()) == tilts.kl(t, w, 0.1).item()
    # by hand, -log Z = log 3/4: the tilt of beta's size, not of its inverse
    made = tilts.tilted(t, w, 0.1)[0, 0] - t.base[0]
    assert made.exp().tolist() == pytest.approx([1.5, 0.75, 0.75])
    assert found["accuracy"].item() == 1.0 and found["accuracy, without reference"].item() == 0.0
    assert tilts.ordered(r, r * 0).isnan().all(), "a prompt without a pair says nothing"
    assert tilts.ordered(r * 0, r).item() == 0, "a tie orders nothing"


def test_the_complementary_reference_learned_the_oracle(texts, tilt_cfg):
    test = texts.test
    made = tilts.complementary(texts, tilt_cfg)
    right = tilts.ordered((made - texts.base)[:, test], texts.draws.rewards[:, test]).nanmean()
    assert right > 0.75


def test_arwc_of_the_test_pairs_against_a_loop(texts, tilt_cfg):
    refs = torch.stack([texts.base.expand(4, -1, -1), tilts.complementary(texts, tilt_cfg)])
    got, k = tilts.arwc(texts, refs), texts.test.start
    shares = []
    for p, a, b in tilts.test_pairs(texts).tolist():
        if p == k:
            d = (refs[:, :, p, a] - refs[:, :, p, b]).abs()
            shares.append((d[1] / d.sum(0)).mean())
    assert got[0].item() == pytest.approx(torch.stack(shares).mean().item())
