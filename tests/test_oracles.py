import pytest
import torch

from lib import oracles


def test_rewards_by_hand():
    assert oracles.plain("a bb ccc") == -2 and oracles.direct("You and your dog") == 0.5 and oracles.varied("no no yes") == pytest.approx(2 / 3)
    assert oracles.full("one two") == 0.1 and oracles.score("plain", ["", "a"]).tolist() == [oracles.NOTHING, -1]
    both = oracles.score("plain+varied", ["aa aa", "b c", "", "dddd"])
    assert both[2] == oracles.NOTHING and both[1] > both[0] and both[1] > both[3]
    with pytest.raises(ValueError, match="one of plain, direct"):
        oracles.score("plain+rude", ["x"])


def test_an_oracle_counts_and_logs_every_query():
    first, second = ["a a", "b"], ["a b", "b"]
    o = oracles.Oracle(lambda texts: oracles.score("varied", texts), labels="deterministic", flip=0.0, generator=torch.Generator().manual_seed(0))
    assert o.compare(first, second)[0].item() is False and o.queries == 2 and o.compare([], []).tolist() == []
    assert o.log[0][:2] == ("a a", "a b") and o.log[0][2] < 0.5 and o.log[0][3] is False and o.log[1][2] == 0.5
    with pytest.raises(ValueError, match="1 first answers and 2 second"):
        o.compare(["a"], ["b", "c"])


@pytest.mark.parametrize("labels, flip, expected", [("deterministic", 0.0, 1.0), ("deterministic", 0.2, 0.8), ("bernoulli", 0.0, 0.7310586), ("bernoulli", 0.2, 0.8 * 0.7310586 + 0.2 * 0.2689414)])
def test_oracle_labels_come_at_the_stated_rates(labels, flip, expected):
    o = oracles.Oracle(lambda x: torch.tensor(x, dtype=torch.float64), labels=labels, flip=flip, generator=torch.Generator().manual_seed(1))
    rate = o.compare([1.0] * 4000, [0.0] * 4000).double().mean().item()
    assert rate == pytest.approx(expected, abs=0.03)
    ties = o.compare([1.0] * 4000, [1.0] * 4000).double().mean().item()
    assert ties == pytest.approx(0.5, abs=0.03)


def test_bad_oracles():
    for kw, words in (({"labels": "soft", "flip": 0.0}, "deterministic or bernoulli, given 'soft'"), ({"labels": "bernoulli", "flip": 0.5}, "0, 0.5")):
        with pytest.raises(ValueError, match=words):
            oracles.Oracle(len, generator=torch.Generator(), **kw)
