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
    similarity,
)
from lib.data.tokens import continuation, plain

__all__ = [
    "SPLITS",
    "Pair",
    "Prompt",
    "agreement_prefix",
    "calibration",
    "chat",
    "continuation",
    "encode",
    "first_divergence",
    "load_pairs",
    "load_prompts",
    "load_sets",
    "pairs",
    "plain",
    "sample",
    "similarity",
]
