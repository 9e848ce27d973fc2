from lib.data import sentences


def test_units_are_pieces_between_spaces_or_characters():
    assert sentences.units("Is it 3.5 km?\n") == "Is it 3.5 km?".split()
    assert sentences.units("这是。ok") == ["这", "是。", "ok"]
    assert sentences.is_sentence("«Où ?»") and not sentences.is_sentence("- and so on")
