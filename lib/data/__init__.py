"""Prompts and preference pairs: files and data sets read, split and encoded."""

from lib.data.joining import continuation, plain
from lib.data.preferences import Comparison, Pairs, load_pairs, load_sets
from lib.data.prompts import (
    SPLITS,
    Pair,
    Prompt,
    agreement_prefix,
    calibration,
    chat,
    dropped,
    encode,
    first_divergence,
    load_prompts,
    pairs,
    sample,
)
from lib.data.rows import read_rows
from lib.data.text import similarity, tokens, words

__all__ = [
    "SPLITS",
    "Comparison",
    "Pair",
    "Pairs",
    "Prompt",
    "agreement_prefix",
    "calibration",
    "chat",
    "continuation",
    "dropped",
    "encode",
    "first_divergence",
    "load_pairs",
    "load_prompts",
    "load_sets",
    "pairs",
    "plain",
    "read_rows",
    "sample",
    "similarity",
    "tokens",
    "words",
]
