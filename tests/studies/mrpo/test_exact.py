"""The exact world: draws that belong to a world alone, references of the quality asked for, outcomes by loops."""

from types import SimpleNamespace

import pytest
import torch

from lib.harness import presets
from lib.studies.mrpo import exact
from lib.studies.mrpo.exact import Second

SMALL = {"PRESET": "smoke", "SEED": 200, "WORLDS": 3}


@pytest.fixture(scope="module")
def draws():
    return exact.draw(presets.resolve("mrpo", SMALL))


def many(seed=200, **changes):
    of = dict(seed=seed, worlds=20, exact_prompts=8, exact_answers=40, exact_dim=16, exact_noise=0.5)
    return exact.draw(SimpleNamespace(**of | changes))


def test_a_world_is_the_same_whichever_are_drawn_with_it(draws):
    alone = exact.draw(presets.resolve("mrpo", SMALL), worlds=[1])
    assert all(torch.equal(a[1:2], b) for a, b in zip(draws, alone))
    other = exact.draw(presets.resolve("mrpo", SMALL | {"SEED": 201}))
    assert not torch.equal(draws.features, other.features)


def test_rewards_are_standardised_and_follow_the_truth():
    d = many()
    assert torch.allclose(d.rewards.mean(2), torch.zeros(()).double(), atol=1e-12)
    assert torch.allclose(d.rewards.std(2), torch.ones(()).double())
    learnable = torch.einsum("wpad,wd->wpa", d.features, d.truth)
    corr = torch.corrcoef(torch.stack([learnable.flatten(), d.rewards.flatten()]))[0, 1]
    assert corr == pytest.approx(1 / (1 + 0.5**2) ** 0.5, abs=0.02)


def test_references_have_the_quality_and_the_correlation_asked_for():
    d, second = many(), Second((0.9, -0.6), correlation=0.5)
    thetas = exact.directions(d, second, start=0.3, scale=2.0)
    assert torch.allclose(thetas.norm(dim=2), torch.full((20, 3), 2.0).double())
    quality = torch.einsum("wkd,wd->wk", thetas, d.truth) / 2
    assert torch.allclose(quality, torch.tensor([0.3, 0.9, -0.6]).double().expand(20, 3))
    errors = torch.nn.functional.normalize(thetas - 2 * quality[..., None] * d.truth[:, None], dim=2)
    assert (errors[:, 0] * errors[:, 1]).sum(1).mean() == pytest.approx(0.5, abs=0.12)
    refs = exact.references(d, second, thetas)
    assert torch.allclose(refs.exp().sum(-1), torch.ones(()).double()) and refs.shape == (3, 20, 16, 40)
    wrong = exact.references(d, second._replace(misscored=True), thetas)
    assert torch.equal(wrong[0], refs[0]) and not torch.equal(wrong[1], refs[1])
    assert torch.allclose(wrong.sort(3).values, refs.sort(3).values)


def test_pairs_nest_and_bradley_terry_errs_as_it_should():
    d = many()
    few, more = (exact.preferences(d, n, labels="bradley-terry") for n in (16, 2000))
    assert all(torch.equal(a, b[:, :16]) for a, b in zip(few, more))
    assert (more.chosen != more.rejected).all() and more.prompt.max() == 7
    w, l = more.of(d.rewards)
    a = torch.maximum(w, l) - torch.minimum(w, l)
    assert (w > l).double().mean() == pytest.approx(a.sigmoid().mean().item(), abs=0.01)
    w, l = exact.preferences(d, 500, labels="deterministic").of(d.rewards)
    assert (w > l).all()
    x = more.difference(d.features)
    assert torch.equal(x[3, 7], d.features[3, more.prompt[3, 7], more.chosen[3, 7]]
                       - d.features[3, more.prompt[3, 7], more.rejected[3, 7]])  # fmt: skip
    assert more.both_ways().chosen.shape[1] == 4000 and torch.equal(more.flipped().chosen, more.rejected)
    with pytest.raises(ValueError, match="1 to 4096 pairs"):
        exact.preferences(d, 5000, labels="deterministic")
    with pytest.raises(ValueError, match="bradley-terry or deterministic, given 'sure'"):
        exact.preferences(d, 5, labels="sure")


def test_outcomes_typed_again_as_loops(draws):
    refs = exact.references(draws, Second((0.9,)), exact.directions(draws, Second((0.9,)), start=0.3, scale=1.0))
    policy = (refs[0] + torch.randn(refs[0].shape, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    found, w = exact.outcomes(draws, refs, policy), 1
    reward = kl = hits = free = pairs = 0.0
    for p in range(8, 16):
        for y in range(8):
            prob = policy[w, p, y].exp()
            reward += prob * draws.rewards[w, p, y] / 8
            kl += prob * (policy[w, p, y] - refs[1, w, p, y]) / 8
            for z in range(y):
                better, worse = (y, z) if draws.rewards[w, p, y] > draws.rewards[w, p, z] else (z, y)
                own, start = (x[w, p, better] - x[w, p, worse] for x in (policy, refs[0]))
                hits, free, pairs = hits + (own - start > 0), free + (own > 0), pairs + 1
    assert found["expected reward"][w] == pytest.approx(reward.item())
    assert found["KL to 1"][w] == pytest.approx(kl.item())
    assert found["accuracy"][w] == pytest.approx(hits.item() / pairs)
    assert found["accuracy, without reference"][w] == pytest.approx(free.item() / pairs)
    start = exact.outcomes(draws, refs, refs[0])
    assert start["KL to 0"].abs().max() < 1e-12 and start["accuracy"].max() == 0  # ties are wrong
