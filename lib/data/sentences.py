"""Texts of any script as pieces between spaces, and where their sentences end."""

from __future__ import annotations

import re
import unicodedata

from lib.data.text import UNSPACED

_MARKS = "".join(chr(c) for low, high in UNSPACED if high < 0x3200 for c in range(low, high + 1)
    if unicodedata.category(chr(c))[0] == "M")  # fmt: skip
# a character of a script that sets no spaces between words, as the inside of a regular expression's class
UNSPACED_CLASS = "".join(f"{chr(low)}-{chr(high)}" for low, high in UNSPACED)
LONGEST = 100  # characters of a piece: a longer run between spaces is no word
UNIT = re.compile(rf"[{UNSPACED_CLASS}][{_MARKS}]*[^\w\s{_MARKS}]*|[^\s{UNSPACED_CLASS}]{{1,{LONGEST}}}")
WIDE_ENDS = "。！？｡"  # end a sentence without a space behind them
ENDS = ".?!" + WIDE_ENDS + "…؟۔।॥։።፧။។\u037e"
CLOSERS = "\"')\u201d\u2019»›」』）】》〉\u201c"
OPENERS = "\"'\u201c\u201e\u2018«»‹「『《〈（(¿¡"


def units(text: str) -> list[str]:
    """What is counted as words where length matters: pieces between spaces, as text.split() gives them, and each
    character of a script that sets no spaces."""
    return UNIT.findall(text)


def is_sentence(text: str) -> bool:
    """Whether the text begins with a letter or number and ends as sentences do; in Thai, Lao, Khmer and Burmese that is
    with any letter."""
    inner = text.strip().lstrip(OPENERS.replace("(", ""))
    begins = bool(inner) and unicodedata.category(inner[0])[0] in "LN" or text.strip()[:1] in ("'", '"')
    last = text.strip()[-1:]
    return begins and (
        last in ENDS + CLOSERS.replace(")", "") or bool(re.match("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]", last))
    )
