"""Rows of instruction data from a teacher: prompts of a taxonomy's seeds (`samplers`, `requests`), blocks in order
(`blocks`, `pipelines`), judges of what came out (`judges`)."""

from lib.synthesis.pipelines import (
    Journal,
    Result,
    grounded,
    knowledge,
    run,
    seeded,
    skills,
    summary,
    synthesise,
)

__all__ = [
    "Journal",
    "Result",
    "grounded",
    "knowledge",
    "run",
    "seeded",
    "skills",
    "summary",
    "synthesise",
]
