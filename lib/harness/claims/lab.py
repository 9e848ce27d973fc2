"""LAB, arXiv 2403.01081: what it claims (no ablation in the paper supports it), and what arXiv 2412.13337 ("Unveiling
the Secret Recipe") holds against it.

The templated teacher's preference for some leaves (b = 0.8) is LAB's hypothesis put in by hand: what follows from it is
marked; b = 0 and the language model as teacher assume nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lib.harness.claims import rules
from lib.harness.claims.rules import Outcome, Pool, better, no_worse, outcome

Claim = partial(rules.Claim, source="arXiv 2403.01081, sections 3.2-3.3")
Critic = partial(rules.Claim, source="arXiv 2412.13337 and our controls")
Beyond = partial(rules.Claim, source="arXiv 2410.03743, 2310.02263, 2410.16736")
ASSUMED, FREE, MODEL = "coverage, templated 0.8", "coverage, templated 0", "coverage, language model"
LEAVES, WORST = "effective leaves", "worst leaf"
TABLE = [
    ("exam", "accuracy"),
    ("exam general", "accuracy"),
    ("exam knowledge-short", "accuracy"),
    ("exam knowledge-long", "accuracy"),
    ("exam skills", "accuracy"),
    ("exam facts", "accuracy"),
    ("forgetting", "forgotten"),
    ("text general", "surprise"),
]


def _at_least(arm: str, metric: str, *, dataset: str, least: float) -> Callable[[Pool], Outcome]:
    """Mean of a metric: holds if its interval lies above `least`, fails if below."""

    def rule(pool: Pool) -> Outcome:
        r = pool.rate(dataset, arm, metric)
        return outcome(r, "holds" if r.low > least else "fails" if r.high < least else "not resolved")

    return rule


CLAIMS = [
    Claim("A1", "One leaf a prompt covers more leaves than a random pool (assumed "
        "preference)", better("leaf", "pool", LEAVES, tests=1, dataset=ASSUMED)),
    Claim("A2", "And not because of grouping: leaf minus seeds shuffled among leaves (assumed "
        "preference)", better("leaf", "fake-leaf", LEAVES, tests=1, dataset=ASSUMED)),
    Claim("A3", "And more than self-instruct, which feeds its own rows back (assumed "
        "preference)", better("leaf", "self-instruct", LEAVES, tests=1, dataset=ASSUMED)),
    Claim("A4", "One leaf a prompt without even turns, calls in proportion to seeds: quota minus pool (assumed "
        "preference)", better("quota", "pool", LEAVES, tests=1, dataset=ASSUMED)),
    Claim("A5", "No preference assumed, even turns over our unbalanced tree: effective leaves, leaf "
        "minus pool", better("leaf", "pool", LEAVES, tests=1, dataset=FREE)),
    Claim("A6", "Language model as teacher, even turns too: effective leaves, leaf "
        "minus pool", better("leaf", "pool", LEAVES, tests=1, dataset=MODEL)),
    Claim("A7", "Language model as teacher, without even turns: effective leaves, quota "
        "minus pool", better("quota", "pool", LEAVES, tests=1, dataset=MODEL)),
    Claim("A7n", "The same for all texts, by the nearest seed: quota "
        "minus pool", better("quota", "pool", "nearest leaves", tests=1, dataset=MODEL)),
    Claim("A7w", "The rarest leaf gains: worst leaf, leaf minus pool, language model as "
        "teacher", better("leaf", "pool", WORST, tests=1, dataset=MODEL)),
    Claim("A8", "Texts are more varied at equal numbers: Vendi score, leaf minus pool, language model as "
        "teacher", better("leaf", "pool", "Vendi", tests=1, dataset=MODEL)),
    Claim("A9", "A student of leaf's questions knows more than one of the pool's, equal numbers (assumed "
        "preference)", better("leaf", "pool", "accuracy", tests=1, dataset="students coverage, templated 0.8")),
    Claim("A10", "Than one of the shuffled leaves' (assumed "
        "preference)", better("leaf", "fake-leaf", "accuracy", tests=1, dataset="students coverage, templated 0.8")),
    Beyond("A11", "A second round of calls in proportion to what the student fails teaches more than one of even "
        "turns: "
        "accuracy", better("by failures", "even turns", "accuracy", tests=1, dataset="students second round")),
    Claim("B1", "The teacher's judges (planted, right nine times in ten) raise purity: share of valid rows among the "
        "kept, "
        "teacher minus none", better("teacher", "none", "purity", tests=1, dataset="filters")),
    Claim("B2", "Calibrated likelihood raises "
        "purity", better("likelihood", "none", "purity", tests=1, dataset="filters")),
    Claim("B3", "Rules alone raise purity", better("rules", "none", "purity", tests=1, dataset="filters")),
    Claim("B4", "The faithfulness filter rejects at least 80 % of swapped "
        "facts", _at_least("likelihood", "wrong rejected", dataset="faithfulness", least=0.8)),
    Claim("B5", "At a loss of at most 10 % of "
        "true ones", _at_least("likelihood", "recall", dataset="faithfulness", least=0.9)),
    Claim("B6", "Students of the filtered rows know more at equal numbers: teacher "
        "minus none", better("teacher, equal n", "none, equal n", "accuracy", tests=1, dataset="students filters")),
    Claim("B7", "From equally many generated rows: teacher "
        "minus none", better("teacher, equal budget", "none, equal budget", "accuracy", tests=1,
            dataset="students filters")),
    Claim("B8", "Students of likelihood-filtered rows know more at equal "
        "numbers", better("likelihood, equal n", "none, equal n", "accuracy", tests=1, dataset="students filters")),
    rules.Claim("B9", "Noise matters at all: unfiltered students at no wrong answers minus half "
        "wrong", better("none, noise 0", "none, noise 0.5", "accuracy", tests=1, dataset="students filters"),
        source="our control"),
    Claim("C1", "Replay prevents forgetting: forgotten share, phased minus "
        "replay-all", better("replay-all", "phased", "forgotten", tests=1, dataset="forgetting")),
    Claim("C2", "At no price: skills learned last, replay-all not 2 points worse than "
        "phased", no_worse("replay-all", "phased", "accuracy", by=0.02, dataset="exam skills")),
    Claim("C3", "More replay, less forgetting: 30 % "
        "against 3 %", better("replay-30%", "replay-3%", "forgotten", tests=1, dataset="forgetting")),
    Claim("C4", "A little replay helps: 3 % "
        "against none", better("replay-3%", "phased", "forgotten", tests=1, dataset="forgetting")),
    Claim("C5", "Phases with replay beat all at once: accuracy over all groups, replay-all minus "
        "stacked", better("replay-all", "stacked", "accuracy", tests=1, dataset="exam")),
    Claim("C6", "Knowledge first beats skills first: accuracy, replay-all minus "
        "reversed", better("replay-all", "reversed", "accuracy", tests=1, dataset="exam")),
    Claim("C7", "A cosine to 0 in each phase costs accuracy: replay-all minus "
        "cosine", better("replay-all", "cosine", "accuracy", tests=1, dataset="exam")),
    Claim("C8", "General knowledge is kept: multiple-choice accuracy (lm-eval), replay-all not 2 points worse than "
        "the start "
        "model", no_worse("replay-all", "start", "accuracy", by=0.02, dataset="questions")),
    Claim("C9", "General text is kept: log-perplexity, replay-all not 0.05 worse than the start "
        "model", no_worse("replay-all", "start", "surprise", by=0.05, dataset="text general")),
    Claim("C10", "What was taught is recognised in untaught question forms (four options by likelihood): replay-all "
        "minus the "
        "start model", better("replay-all", "start", "accuracy", tests=1, dataset="exam facts")),
    Claim("C11", "Early checkpoints generalise better: general text, the first look within the slack of the best "
        "minus the "
        "last", better("replay-all, early", "replay-all", "surprise", tests=1, dataset="text general")),
    Claim("C12", "At no price: skills, early not 2 points worse than "
        "the last", no_worse("replay-all, early", "replay-all", "accuracy", by=0.02, dataset="exam skills")),
    Critic("K1", "Phases are not needed: stacked not 2 points worse than "
        "replay-all", no_worse("stacked", "replay-all", "accuracy", by=0.02, dataset="exam")),
    Critic("K2", "Without training: interpolating phased half-way to the start model loses less of "
        "general text", better("phased, half-way", "phased", "surprise", tests=1, dataset="text general")),
    Critic("K3", "At no price: accuracy over all groups, half-way not 2 points worse than "
        "phased", no_worse("phased, half-way", "phased", "accuracy", by=0.02, dataset="exam")),
    rules.Claim("K4", "A checkpoint of the last phase that is chosen by general questions has learned less of it "
        "than one chosen "
        "by its own kind: accuracy on "
            "skills", better("replay-all, best own", "replay-all, best general", "accuracy", tests=1,
                dataset="exam skills"), source="after InstructLab CLI, issue 2314, on the knowledge phase"),
    Beyond("M1", "Averaging data orders of stacked beats one of them: "
        "accuracy", better("stacked, averaged", "stacked", "accuracy", tests=1, dataset="exam")),
    Beyond("M2", "Selecting parameters beats averaging: "
        "accuracy", better("stacked, selected", "stacked, averaged", "accuracy", tests=1, dataset="exam")),
    Beyond("M3", "Pairs of answers that the judge rates best and worse teach more than the best alone, equal steps: "
        "accuracy "
        "on skills, easy to hard minus "
            "chosen only", better("replay-all, easy to hard", "replay-all, chosen only", "accuracy", tests=1,
                dataset="exam skills")),
    Beyond("M4", "Easy pairs first: easy to hard minus "
        "mixed", better("replay-all, easy to hard", "replay-all, mixed", "accuracy", tests=1, dataset="exam skills")),
]  # fmt: skip
