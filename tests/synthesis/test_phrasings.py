from lib.synthesis import phrasings, truth
from lib.taxonomy import checkers


def test_every_kind_has_several_phrasings():
    assert {*phrasings.PHRASINGS, *truth.GROUNDED} == set(checkers.CHECKERS)
    assert set(phrasings.ABOUT) == set(truth.GROUNDED) and set(phrasings.LEADS) < set(checkers.SOLUTIONS)
    for table in (phrasings.PHRASINGS, phrasings.CONTEXTS, phrasings.ABOUT):
        assert all(len(set(texts)) == len(texts) >= 3 for texts in table.values())


def test_words_are_different_and_stand_alone():
    for words in (phrasings.NOUNS, phrasings.NAMES, phrasings.TITLES):
        assert len(set(words)) == len(words)
    assert all(word.isalpha() and word.islower() for word in phrasings.NOUNS)
