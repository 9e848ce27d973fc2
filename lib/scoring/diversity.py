"""How much of a space a set of texts covers. Pure: counts, words and similarity matrices, no models.

Every measure but the shares of leaves grows with the number of texts and with garbage: compare valid texts, equally
many of them.
Axes: n texts, m others, L leaves of a taxonomy. Sources: Vendi score arXiv 2210.02410, self-BLEU arXiv 1802.01886,
ROUGE-L's F.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from lib.data.text import words as text_words
from lib.scoring.metrics import distinct_n


def words(text: str) -> list[str]:
    """Lower-case words of any script and single marks: digits and operators count, unlike in most vectorizers."""
    if text.isascii():
        return re.findall(r"\w+|[^\w\s]", text.lower())
    out, run = [], ""
    for c in f"{text} ":
        if c.isalnum() or unicodedata.category(c)[0] in "MC":  # letters, the marks on them, joiners
            run += c
            continue
        out, run = [*out, *text_words(run)], ""
        if not c.isspace():
            out.append(c)
    return out


# ---- leaves


def leaf_counts(labels: Sequence[str], leaves: Sequence[str]) -> np.ndarray:
    """Texts of each of the L leaves, (L,), zeros included. ValueError for a label that is no leaf, or a leaf listed
    twice."""
    if len(set(leaves)) < len(leaves):
        raise ValueError(f"each leaf is listed once, given {len(leaves)} of which {len(set(leaves))} differ")
    found = Counter(labels)
    if strange := sorted(found.keys() - set(leaves)):
        raise ValueError(f"labels are among the {len(leaves)} leaves, given {strange[0]!r}")
    return np.array([found[leaf] for leaf in leaves])


def coverage(counts: np.ndarray, m: int) -> float:
    """coverage_m: the share of leaves with at least m texts."""
    if m < 1:
        raise ValueError(f"a leaf is covered by at least 1 text, given {m}")
    return float((_checked(counts) >= m).mean())


def leaf_entropy(counts: np.ndarray) -> float:
    """H = -sum_l p_l log p_l, nats, of p_l the share of leaf l in counts (L,)."""
    p = _checked(counts) / np.sum(counts)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def leaf_measures(counts: np.ndarray, m: int = 1) -> dict[str, float]:
    """coverage_m, e^H ("effective leaves", L if uniform), H / log L (1 if there is one leaf) and the fewest texts of a
    leaf."""
    h, n = leaf_entropy(counts), len(counts)
    return {
        f"coverage at {m}": coverage(counts, m),
        "effective leaves": math.exp(h),
        "normalised entropy": h / math.log(n) if n > 1 else 1.0,
        "worst leaf": float(np.min(counts)),
    }


def _checked(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.ndim != 1 or np.any(counts < 0) or not np.sum(counts) > 0:
        raise ValueError(f"counts are one number of at least 0 a leaf, not all 0, given {counts.tolist()}")
    return counts


# ---- n-grams


def self_bleu(texts: Sequence[str], order: int = 4) -> np.ndarray:
    """BLEU of each text with all others as references, in [0, 1], (n,); less is more diverse. ValueError for fewer than
    two texts.

    BLEU = min(1, e^(1 - r / c)) (prod_k p_k)^(1/order): c words, r words of the reference nearest in length (the
    shorter of two), p_k the k-grams found, each at most as often as in one reference. As in sacrebleu's sentence BLEU,
    the j-th order without a match counts 2^-j of one, orders longer than the text are left out, and a text that shares
    no word is 0.
    """
    _several(texts)
    tokens = [words(t) for t in texts]
    lengths = np.array([len(t) for t in tokens])
    matches = np.zeros((order, len(texts)), dtype=int)
    totals = np.maximum(lengths[None] - np.arange(order)[:, None], 0)
    for k in range(order):
        grams = [Counter(tuple(t[i : i + k + 1]) for i in range(len(t) - k)) for t in tokens]
        first: dict[tuple, tuple[int, int]] = {}  # k-gram -> (most in one text, which text)
        second: Counter = Counter()  # most in any other: the bound for that text itself
        for at, found in enumerate(grams):
            for gram, times in found.items():
                most, owner = first.get(gram, (0, -1))
                if times > most:
                    first[gram], second[gram] = (times, at), most
                elif times > second[gram]:
                    second[gram] = times
        matches[k] = [
            sum(min(c, second[g] if first[g][1] == at else first[g][0]) for g, c in found.items())
            for at, found in enumerate(grams)
        ]
    return np.array([_bleu(matches[:, i], totals[:, i], lengths[i], _nearest(lengths, i)) for i in range(len(texts))])


def _nearest(lengths: np.ndarray, i: int) -> int:
    others = np.delete(lengths, i)
    return int(others[np.lexsort((others, np.abs(others - lengths[i])))[0]])


def _bleu(matches: np.ndarray, totals: np.ndarray, length: int, reference: int) -> float:
    used = totals > 0
    if not matches.any():
        return 0.0
    misses = np.cumsum(matches == 0)
    precision = np.where(matches > 0, matches, 0.5**misses)[used] / totals[used]
    return float(min(1.0, math.exp(1 - reference / length)) * math.exp(np.log(precision).mean()))


# ---- longest common subsequences


def rouge_matrix(rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """ROUGE-L F = 2 P R / (P + R) = 2 LCS / (words + words) of every pair, (n, m): what `metrics.rouge_l` gives, a
    thousand times as fast."""
    a, b = ([_rouge_words(t) for t in texts] for texts in (rows, columns))
    out = np.zeros((len(a), len(b)))
    for i, x in enumerate(a):
        where: dict[str, int] = {}  # word -> bits of its places in x
        for place, word in enumerate(x):
            where[word] = where.get(word, 0) | 1 << place
        for j, y in enumerate(b):
            common = _lcs(where, len(x), y) if not where.keys().isdisjoint(y) else 0
            out[i, j] = 1.0 if rows[i] == columns[j] else 2 * common / (len(x) + len(y)) if common else 0.0
    return out


def _lcs(where: dict[str, int], length: int, y: Sequence[str]) -> int:
    """Length of the longest common subsequence by whole rows of bits (Hyyro 2004): a zero bit marks a place that
    lengthens it."""
    full = (1 << length) - 1
    v = full
    for word in y:
        u = v & where.get(word, 0)
        v = ((v + u) | (v - u)) & full
    return length - v.bit_count()


def _rouge_words(text: str) -> list[str]:
    return text_words(text)


def similar_share(texts: Sequence[str], threshold: float = 0.7) -> float:
    """Share of the texts with ROUGE-L F above `threshold` to another one."""
    _several(texts)
    return float((_without_self(rouge_matrix(texts, texts)).max(1) > threshold).mean())


def novelty(texts: Sequence[str], seeds: Sequence[str]) -> np.ndarray:
    """1 - max over seeds of ROUGE-L F, (n,): 0 for a copy of a seed, 1 for a text that shares no word with any."""
    if not seeds:
        raise ValueError("novelty is measured against at least one seed, given none")
    return 1 - rouge_matrix(texts, seeds).max(1)


def _without_self(matrix: np.ndarray) -> np.ndarray:
    return np.where(np.eye(len(matrix), dtype=bool), -np.inf, matrix)


# ---- similarity matrices


def tfidf(
    rows: Sequence[str], columns: Sequence[str] | None = None, *, corpus: Sequence[str] | None = None
) -> np.ndarray:
    """Cosine of TF-IDF vectors, (n, m) or (n, n): count times log((1 + N) / (1 + df)) + 1, over the N texts of `corpus`
    (None: `rows`).

    A fixed corpus keeps the numbers of two sets comparable; words that it lacks do not count. ValueError for a text
    without a word.
    """
    columns = rows if columns is None else columns
    known = [words(t) for t in (rows if corpus is None else corpus)]
    index = {w: i for i, w in enumerate(sorted({w for t in known for w in t}))}
    df = np.zeros(len(index))
    for t in known:
        df[[index[w] for w in set(t)]] += 1
    idf = np.log((1 + len(known)) / (1 + df)) + 1
    left = _vectors(rows, index, idf)
    return (left @ (left if columns is rows else _vectors(columns, index, idf)).T).toarray()


def _vectors(texts: Sequence[str], index: dict[str, int], idf: np.ndarray) -> sparse.csr_array:
    """Rows of length 1, or 0 where no word is known."""
    entries = [Counter(words(t)) for t in texts]
    if empty := [t for t, e in zip(texts, entries) if not e]:
        raise ValueError(f"every text needs a word, given {empty[0]!r}")
    triples = [(i, index[w], c * idf[index[w]]) for i, e in enumerate(entries) for w, c in e.items() if w in index]
    i, j, x = (
        (np.array(column) for column in zip(*triples)) if triples else (np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    )
    norm = np.sqrt(np.bincount(i, weights=x**2, minlength=len(texts)))
    return sparse.csr_array((x / norm[i], (i, j)), shape=(len(texts), len(index)))


def vendi(similarity: np.ndarray) -> float:
    """Vendi score exp(-sum_i lambda_i log lambda_i), lambda the eigenvalues of K / n: 1 if all are the same, n if none
    is like another.

    ValueError unless K (n, n) is symmetric with ones on its diagonal and no eigenvalue below zero.
    """
    k = np.asarray(similarity, float)
    if (
        k.ndim != 2
        or k.shape[0] != k.shape[1]
        or not len(k)
        or not np.allclose(k, k.T, atol=1e-6)
        or not np.allclose(np.diag(k), 1, atol=1e-6)
    ):
        raise ValueError(
            f"a similarity is square and symmetric with ones on its diagonal, given one of shape {k.shape}"
        )
    values = np.linalg.eigvalsh((k + k.T) / 2) / len(k)
    if values[0] < -1e-6:
        raise ValueError(f"a similarity has no eigenvalue below zero, given {values[0] * len(k):.2g}")
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def facility_location(similarity: np.ndarray) -> float:
    """mean_i max_j K_ij of K (m, n): how near the nearest of n texts comes to each of m held-out ones, on average."""
    k = np.asarray(similarity, float)
    if k.ndim != 2 or 0 in k.shape:
        raise ValueError(
            f"a similarity has a row for each text to cover and a column for each sample, given shape {k.shape}"
        )
    return float(k.max(1).mean())


def text_measures(texts: Sequence[str], *, threshold: float = 0.7) -> dict[str, float]:
    """distinct-2, mean self-BLEU-4, share alike (ROUGE-L F above `threshold`) and Vendi score (TF-IDF) of n texts."""
    _several(texts)
    return {
        "distinct-2": distinct_n([words(t) for t in texts], 2),
        "self-BLEU-4": float(self_bleu(texts).mean()),
        f"ROUGE-L over {threshold:g}": similar_share(texts, threshold),
        "Vendi": vendi(tfidf(texts)),
    }


def _several(texts: Sequence[str]) -> None:
    if len(texts) < 2:
        raise ValueError(f"texts are compared with one another, at least 2 are needed, given {len(texts)}")
