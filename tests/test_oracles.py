import pytest

from lib import oracles


def test_rewards_by_hand():
    assert oracles.plain("a bb ccc") == -2 and oracles.direct("You and your dog") == 0.5 and oracles.varied("no no yes") == pytest.approx(2 / 3)
    assert oracles.full("one two") == 0.1 and oracles.score("plain", ["", "a"]).tolist() == [oracles.NOTHING, -1]
    both = oracles.score("plain+varied", ["aa aa", "b c", "", "dddd"])
    assert both[2] == oracles.NOTHING and both[1] > both[0] and both[1] > both[3]
    with pytest.raises(ValueError, match="one of plain, direct"):
        oracles.score("plain+rude", ["x"])
