import itertools
import math
import random
import re

import numpy as np
import pytest

from lib.scoring import diversity, metrics

WORDS = "the cat a dog sat ran on under mat tree 7 + 3 =".split()


def texts(n, seed=0, longest=12):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(n)]


# ---- leaves


def test_effective_leaves_by_hand():
    uniform = diversity.leaf_measures(np.full(7, 3), m=3)
    assert uniform == pytest.approx(
        {"coverage at 3": 1, "effective leaves": 7, "normalised entropy": 1, "worst leaf": 3}
    )
    counts = diversity.leaf_counts(["a", "b", "a", "c", "a", "a", "b", "c"], ["a", "b", "c", "d"])
    assert counts.tolist() == [4, 2, 2, 0]
    assert diversity.leaf_entropy(counts) == pytest.approx(1.5 * math.log(2))
    assert diversity.leaf_measures(counts, m=3) == pytest.approx(
        {"coverage at 3": 1 / 4, "effective leaves": 2**1.5, "normalised entropy": 0.75, "worst leaf": 0}
    )
    assert (
        diversity.leaf_measures(np.array([5]))["normalised entropy"] == 1
        and diversity.leaf_measures(np.array([5, 0]))["effective leaves"] == 1
    )
    with pytest.raises(ValueError, match="given 'e'"):
        diversity.leaf_counts(["e"], ["a", "b"])
    with pytest.raises(ValueError, match="listed once"):
        diversity.leaf_counts([], ["a", "a"])
    with pytest.raises(ValueError, match="not all 0"):
        diversity.leaf_entropy(np.zeros(3))
    with pytest.raises(ValueError, match="at least 1 text, given 0"):
        diversity.coverage(np.ones(3), 0)


# ---- n-grams


def test_self_bleu_is_sacrebleus():
    import sacrebleu  # comes with lm-eval

    sample = [*texts(40), "the cat sat", "the cat sat", "unheard", "the the the the the"]
    spelt = [" ".join(diversity.words(t)) for t in sample]
    want = [
        sacrebleu.sentence_bleu(t, spelt[:i] + spelt[i + 1 :], tokenize="none", use_effective_order=True).score / 100
        for i, t in enumerate(spelt)
    ]
    got = diversity.self_bleu(sample)
    assert got == pytest.approx(want, abs=1e-9) and 0 < np.mean(want) < 1 and got[-2] == 0


def test_self_bleu_by_hand():
    """p = 3/4, 2/3, 1/2 of "a b c d" against "a b c e", no 4-gram: half a match of one."""
    got = diversity.self_bleu(["a b c d", "a b c e"])
    assert got == pytest.approx([(3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25] * 2)
    short, long = diversity.self_bleu(
        ["a b", "a b c d"]
    )  # e^(1 - 4/2) for the short one; 2/4, 1/3 and two misses for the other
    assert (short, long) == pytest.approx((math.exp(-1), (1 / 2 * 1 / 3 * 1 / 2 / 2 * 1 / 4 / 1) ** 0.25))
    assert diversity.self_bleu(["x y z w"] * 3) == pytest.approx(1) and diversity.self_bleu(
        ["a b", "c d"]
    ) == pytest.approx(0)
    with pytest.raises(ValueError, match="at least 2 are needed, given 1"):
        diversity.self_bleu(["a"])


def test_words_keep_digits_and_marks():
    assert diversity.words("What's 7 + 12?") == ["what", "'", "s", "7", "+", "12", "?"]
    assert all(diversity.words(t) == re.findall(r"\w+|[^\w\s]", t.lower()) for t in texts(40) if t.isascii())


def test_words_and_measures_of_any_script():
    assert diversity.words("Река, 7 río!") == ["река", ",", "7", "río", "!"]
    assert diversity.words("这条河？") == ["这", "条", "河", "?"]
    near, far = ("Какая река течёт здесь?", "какая река течёт здесь ?!"), ("Какая река течёт здесь?", "Сколько стоит?")
    for pair in (near, ("这条河叫什么名字？", "这条河叫什么名字")):
        assert diversity.rouge_matrix(*([t] for t in pair))[0, 0] == 1 == diversity.similar_share(pair)
        assert diversity.rouge_matrix(*([t] for t in pair))[0, 0] == metrics.rouge_l(*pair)
        assert diversity.text_measures(pair)["Vendi"] < 1.5
    assert diversity.rouge_matrix(*([t] for t in far))[0, 0] == 0 == diversity.similar_share(far)


# ---- longest common subsequences


def test_rouge_is_the_packages():
    a, b = [*texts(12, 1, 70), "?!", "A-b c"], [*texts(9, 2), "?!", ""]
    want = [[metrics.rouge_l(x, y) for y in b] for x in a]
    assert diversity.rouge_matrix(a, b) == pytest.approx(np.array(want), abs=1e-12)


def test_lcs_is_the_table():
    def table(x, y):
        d = np.zeros((len(x) + 1, len(y) + 1), int)
        for i, j in itertools.product(range(len(x)), range(len(y))):
            d[i + 1, j + 1] = d[i, j] + 1 if x[i] == y[j] else max(d[i, j + 1], d[i + 1, j])
        return d[-1, -1]

    rng = random.Random(0)
    for _ in range(30):
        x, y = (rng.choices("abc", k=rng.randint(1, 80)) for _ in range(2))
        f = diversity.rouge_matrix([" ".join(x)], [" ".join(y)])[0, 0]
        assert f == pytest.approx(2 * table(x, y) / (len(x) + len(y)) if x != y else 1)


def test_alike_and_novel():
    sample = ["list three red fruits", "list three green fruits", "who wrote this book", "name a river"]
    assert diversity.rouge_matrix(sample, sample)[0, 1] == pytest.approx(0.75)
    assert diversity.similar_share(sample) == 0.5 and diversity.similar_share(sample, 0.75) == 0  # above, not at
    assert diversity.novelty(sample, ["list three red fruits", "name a lake"]) == pytest.approx([0, 0.25, 1, 1 / 3])
    with pytest.raises(ValueError, match="at least one seed"):
        diversity.novelty(sample, [])


# ---- similarity matrices


def test_vendi_of_identical_and_of_orthogonal():
    assert diversity.vendi(np.ones((5, 5))) == pytest.approx(1) and diversity.vendi(np.eye(6)) == pytest.approx(6)
    blocks = np.kron(np.eye(3), np.ones((4, 4)))  # twelve texts of three kinds
    assert diversity.vendi(blocks) == pytest.approx(3)
    p = np.array([1.6, 0.4]) / 2  # eigenvalues of [[1, .6], [.6, 1]] / 2
    assert diversity.vendi([[1, 0.6], [0.6, 1]]) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    for bad, message in (
        ([[1, 0.5], [0.4, 1]], "symmetric"),
        ([[2, 0], [0, 1]], "diagonal"),
        ([[1, 2], [2, 1]], "no eigenvalue below zero"),
    ):
        with pytest.raises(ValueError, match=message):
            diversity.vendi(bad)


def test_tfidf_is_scikit_learns():
    from sklearn.feature_extraction.text import TfidfVectorizer

    a, b, corpus = texts(15, 3), texts(7, 4), texts(11, 5)[:6] + ["seed words"]
    for reference, given in ((a, None), (corpus, corpus)):
        v = TfidfVectorizer(tokenizer=diversity.words, token_pattern=None, lowercase=False).fit(reference)
        assert diversity.tfidf(a, corpus=given) == pytest.approx(
            (v.transform(a) @ v.transform(a).T).toarray(), abs=1e-12
        )
        assert diversity.tfidf(a, b, corpus=given) == pytest.approx(
            (v.transform(a) @ v.transform(b).T).toarray(), abs=1e-12
        )
    assert diversity.tfidf(["new"], ["seed"], corpus=corpus).tolist() == [[0]]
    with pytest.raises(ValueError, match="needs a word, given ' '"):
        diversity.tfidf(["a", " "])


def test_facility_location_by_hand():
    assert diversity.facility_location([[0.2, 0.9, 0.1], [0.4, 0.3, 0.5]]) == pytest.approx(0.7)
    held_out = ["sort the numbers", "write a polite note"]
    kernel = lambda sample: diversity.tfidf(held_out, sample, corpus=held_out)  # noqa: E731
    assert diversity.facility_location(kernel(held_out)) == pytest.approx(1)
    assert diversity.facility_location(kernel(["sort the numbers", "sort the letters"])) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="shape"):
        diversity.facility_location(np.zeros((2, 0)))


def test_more_words_are_more_diverse():
    """Five hundred short texts in seconds; every measure tells ten words from three hundred."""
    draw = lambda size: [" ".join(f"w{rng.randrange(size)}" for _ in range(8)) for _ in range(500)]  # noqa: E731
    rng = random.Random(0)
    few, many = diversity.text_measures(draw(10), threshold=0.6), diversity.text_measures(draw(300), threshold=0.6)
    assert few["distinct-2"] < many["distinct-2"] / 5 and few["self-BLEU-4"] > 2 * many["self-BLEU-4"]
    assert few["ROUGE-L over 0.6"] > 0.9 > 0.1 > many["ROUGE-L over 0.6"] and few["Vendi"] < many["Vendi"] / 5


def test_words_of_other_scripts():
    assert diversity.words("Где 7 + река?") == ["где", "7", "+", "река", "?"]
    assert diversity.words("这河？") == ["这", "河", "?"] and len(diversity.words("नमस्ते")) == 1
    assert diversity.rouge_matrix(["Где река"], ["Где река?"])[0, 0] == 1
