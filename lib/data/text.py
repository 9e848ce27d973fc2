"""Words of a text in any script, and how alike two texts are."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces between words: each character counts as a word, or a page would be a single one.
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals of Han
    (0x3005, 0x3029),  # Han's repetition mark, zero and numerals
    (0x3040, 0x312F),  # kana, Bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)
BREAK = "\u200b"  # the space of no width: invisible like a soft hyphen, but it ends a word


def words(text: str) -> list[str]:
    """The text's words in order: runs of letters, digits and the marks on them, in any script, after NFKC and casefold.

    Where a script sets no spaces (Chinese, Japanese, Thai), each character with its marks is a word. Of ASCII text it
    gives what re.findall("[a-z0-9]+", text.lower()) does.
    """
    return _split(text, "")


def count(text: str) -> int:
    """Words of a text as an editor counts them, between spaces; where a script sets none, each character is one."""
    return len(text.split() if text.isascii() else words(text))


def tokens(text: str) -> list[str]:
    """`words` and, between them, each mark on its own: digits and operators count, unlike in most vectorizers."""
    return _split(text, "_", marks=True)


def similarity(a: str, b: str) -> float:
    """Near-duplicate score in [0, 1]: the larger of the word-set Jaccard and the word-trigram Jaccard similarity.

    A word keeps its apostrophes here. Identical texts are 1 even without a word.
    """
    if a == b:
        return 1.0
    first, second = (_split(t.replace("\u2019", "'"), "'") for t in (a, b))
    return max(_jaccard(set(first), set(second)), _jaccard(_trigrams(first), _trigrams(second)))


def _split(text: str, within: str, *, marks: bool = False) -> list[str]:
    """`words`, with the ASCII marks `within` as letters; the others are words of their own if `marks`."""
    if text.isascii():
        return re.findall(f"[a-z0-9{within}]+" + r"|[^\w\s]" * marks, text.lower())
    # casefold can undo the normal form (of capital I with a dot, say)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    out, open_ = [], False  # open_: the next letter goes on with the last word
    for c in text:
        kind = unicodedata.category(c)
        if kind == "Cf" and c != BREAK:
            continue  # soft hyphens, joiners, direction marks: not to be seen
        if kind[0] == "M" and out and open_ is not None:
            out[-1] += c
        elif any(low <= ord(c) <= high for low, high in UNSPACED) and kind[0] in "LN":
            out.append(c)
            open_ = False
        elif kind[0] in "LN" or c in within:
            if open_:
                out[-1] += c
            else:
                out.append(c)
            open_ = True
        else:
            if marks and not c.isspace() and c != BREAK:
                out.append(c)
            open_ = False
    return out


def _trigrams(found: list[str]) -> set[tuple[str, ...]]:
    return set(zip(found, found[1:], found[2:]))


def _jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0
