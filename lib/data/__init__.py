"""Prompts and preference pairs: files and data sets read, split and encoded."""

from lib.data.joining import continuation, plain
from lib.data.passages import Passage
from lib.data.preferences import Comparison
from lib.data.prompts import (
    SPLITS,
    Pair,
    Prompt,
    agreement_prefix,
    calibration,
    chat,
    dropped,
    encode,
    encode_pairs,
    first_divergence,
    load_prompts,
    pairs,
    sample,
)
from lib.data.reading import Read, load_pairs, read, read_sets
from lib.data.rows import read_rows
from lib.data.text import similarity, tokens, words

__all__ = [
    "SPLITS",
    "Comparison",
    "Pair",
    "Passage",
    "Prompt",
    "Read",
    "agreement_prefix",
    "calibration",
    "chat",
    "continuation",
    "dropped",
    "encode",
    "encode_pairs",
    "first_divergence",
    "load_pairs",
    "load_prompts",
    "pairs",
    "plain",
    "read",
    "read_rows",
    "read_sets",
    "sample",
    "similarity",
    "tokens",
    "words",
]
