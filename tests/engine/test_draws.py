import pytest
import torch

from lib.engine import draws


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (0.5, 0.6), (1.0, 0.1)])
@pytest.mark.parametrize("tries", [0, 1, 8])
def test_draws_follow_the_exact_distribution(temperature, top_p, tries, monkeypatch):
    """Chi-square against the softmax, on a vocabulary that is no multiple of the block; with and without sorting."""
    from scipy.stats import chisquare

    monkeypatch.setattr(draws, "TRIES", tries)
    monkeypatch.setattr(draws, "ROWS", 512)  # rows this narrow are cheapest many at a time
    times, row = 200_000, torch.randn(300, generator=torch.Generator().manual_seed(3)) * 2
    p = (row.double() / temperature).softmax(-1)
    ranked = p.sort(descending=True)
    p[ranked.indices[(ranked.values.cumsum(0) - ranked.values) >= top_p]] = 0  # the smallest set that reaches top_p
    p /= p.sum()
    token, logprob = draws.draw(row.expand(times, -1), temperature, torch.Generator().manual_seed(0), top_p=top_p)
    got = token.bincount(minlength=300)
    assert got[p == 0].sum() == 0
    often = p * times >= 5
    seen, want = (
        [*got[often].tolist(), got[~often].sum().item()],
        [*(p[often] * times).tolist(), p[~often].sum().item() * times],
    )
    if want[-1] < 1e-9:
        seen, want = seen[:-1], want[:-1]
    assert chisquare(seen, want).pvalue > 1e-3
    assert torch.allclose(
        logprob[:50], row.log_softmax(-1)[token[:50]], atol=1e-5
    )  # at temperature 1, whatever was drawn


@pytest.mark.parametrize("tries", [0, 8])
def test_of_equal_tokens_the_first_belong_to_the_nucleus(tries):
    weight = torch.tensor([[1.0, 2.0, 1.0, 1.0, 1.0]]).expand(2000, -1)  # 2, 1 and 1 hold two thirds of 6
    got = draws._nucleus(
        weight, torch.rand(2000, tries + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 0.6
    )
    count = got.bincount(minlength=5).tolist()
    assert count[3:] == [0, 0] and abs(count[1] - 1000) < 120 and abs(count[0] - count[2]) < 120


def test_inversion_by_hand():
    w = torch.tensor([[1.0, 0.0, 3.0, 0.0]])
    at = lambda u: draws.invert(w, torch.tensor([[u]], dtype=torch.float64)).item()  # noqa: E731
    assert [at(0.0), at(0.2499), at(0.25), at(0.9999999999), at(1.0)] == [0, 0, 2, 2, 2]


def test_greedy_takes_the_first_largest_and_broken_logits_are_named():
    logits = torch.tensor([[0.0, 2.0, 2.0], [5.0, 1.0, 0.0]])
    assert draws.draw(logits, 0.0, None)[0].tolist() == [1, 0]
    logits[1, 2] = float("nan")
    with pytest.raises(FloatingPointError, match=r"rows \[1\]"):
        draws.draw(logits, 1.0, torch.Generator())
