"""Prompts and preference pairs: files and data sets read, split and encoded."""

from lib.data.preferences import load_pairs, load_sets
from lib.data.prompts import (
    SPLITS,
    Pair,
    Prompt,
    agreement_prefix,
    calibration,
    chat,
    encode,
    first_divergence,
    load_prompts,
    pairs,
    sample,
)
from lib.data.text import similarity, words

__all__ = [
    "SPLITS",
    "Pair",
    "Prompt",
    "agreement_prefix",
    "calibration",
    "chat",
    "encode",
    "first_divergence",
    "load_pairs",
    "load_prompts",
    "load_sets",
    "pairs",
    "sample",
    "similarity",
    "words",
]
