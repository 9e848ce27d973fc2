"""Rows of instruction data from a teacher, after LAB (arXiv 2403.01081). A row goes one way, and so do the imports:

1. `samplers`: which seeds of the taxonomy stand in the next prompt.
2. `requests`: what is asked of the teacher about them, and its reply.
3. `teachers`, `servers`: who answers: a program (`phrases`, `truth`), a language model, a server.
4. `judges`: who says what a row is worth: the teacher in its second role, rules, likelihoods, the truth.
5. `blocks`: one step each: generate, judge, drop duplicates, cut documents; every item has a fate.
6. `pipelines`: blocks in order over all calls, with a journal of what was paid for.
7. `drawing`: questions by one named sampler, which is how samplers are compared.

A study calls the last two and measures what comes out.
"""

from lib.synthesis.judges import teacher_judges
from lib.synthesis.pipelines import (
    Amounts,
    Journal,
    Result,
    grounded,
    knowledge,
    messages,
    run,
    seeded,
    skills,
    summary,
    synthesise,
)
from lib.synthesis.teachers import load as load_teacher

__all__ = [
    "Amounts",
    "Journal",
    "Result",
    "grounded",
    "knowledge",
    "load_teacher",
    "messages",
    "run",
    "seeded",
    "skills",
    "summary",
    "synthesise",
    "teacher_judges",
]
