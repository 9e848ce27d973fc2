"""LAB, arXiv 2403.01081: what it claims (no ablation in the paper supports it), and what arXiv 2412.13337 ("Unveiling
the Secret Recipe") holds against it.

The templated teacher's preference for some leaves (b = 0.8) is LAB's hypothesis put in by hand: what follows from it is
marked; b = 0 and the language model as teacher assume nothing.
"""

from __future__ import annotations

from functools import partial

from lib.harness.claims.claim import POSITIVE, Claim

PAPER = "arXiv 2403.01081, sections 3.2-3.3"
ASSUMED, FREE, MODEL = "coverage, templated 0.8", "coverage, templated 0", "coverage, language model"
LEAVES, WORST = "effective leaves", "worst leaf"
EXAM, SKILLS, FORGETTING, GENERAL = "exam", "exam skills", "forgetting", "text general"
TABLE = [
    (EXAM, "accuracy"),
    ("exam general", "accuracy"),
    ("exam knowledge-short", "accuracy"),
    ("exam knowledge-long", "accuracy"),
    (SKILLS, "accuracy"),
    ("exam facts", "accuracy"),
    (FORGETTING, "forgotten"),
    (GENERAL, "surprise"),
]
MMLU = tuple(("table 3", "MMLU", arm, "score") for arm in ("Merlinite-7B (LAB)", "Mistral-7B-Instruct-v0.1"))

claim = partial(Claim, source=PAPER)
# Every draw of rows has a seed of its own: the draw is the unit. That the measure can move at all is shown where the
# teacher's preference was put in by hand.
covers = partial(claim, unit="world", metric=LEAVES, arms=("leaf", "pool"), controls=("A1",))
students = partial(claim, metric="accuracy", controls=("B9",))
purity = partial(claim, dataset="filters", metric="purity", controls=("B0",))
phases = partial(claim, metric="accuracy", dataset=EXAM, controls=("P1",))
critic = partial(phases, source="arXiv 2412.13337 and our controls")
beyond = partial(claim, source="arXiv 2410.03743, 2310.02263, 2410.16736", metric="accuracy")

CLAIMS = [
    covers(id="A1", role=POSITIVE, controls=(), dataset=ASSUMED,
        statement="One leaf a prompt covers more leaves than a random pool (assumed preference)"),
    covers(id="A2", dataset=ASSUMED, arms=("leaf", "fake-leaf"),
        statement="And not because of grouping: leaf minus seeds shuffled among leaves (assumed preference)"),
    covers(id="A3", dataset=ASSUMED, arms=("leaf", "self-instruct"),
        statement="And more than self-instruct, which feeds its own rows back (assumed preference)"),
    covers(id="A4", dataset=ASSUMED, arms=("quota", "pool"),
        statement="One leaf a prompt without even turns, calls in proportion to seeds: quota minus pool (assumed "
        "preference)"),
    covers(id="A5", dataset=FREE, statement="No preference assumed, even turns over our unbalanced tree: effective "
        "leaves, leaf minus pool"),
    covers(id="A6", dataset=MODEL, headline=True,
        statement="Language model as teacher, even turns too: effective leaves, leaf minus pool"),
    covers(id="A7", dataset=MODEL, arms=("quota", "pool"),
        statement="Language model as teacher, without even turns: effective leaves, quota minus pool"),
    covers(id="A7n", dataset=MODEL, arms=("quota", "pool"), metric="nearest leaves",
        statement="The same for all texts, by the nearest seed: quota minus pool"),
    covers(id="A7w", dataset=MODEL, metric=WORST,
        statement="The rarest leaf gains: worst leaf, leaf minus pool, language model as teacher"),
    covers(id="A8", dataset=MODEL, metric="Vendi",
        statement="Texts are more varied at equal numbers: Vendi score, leaf minus pool, language model as teacher"),
    students(id="A9", dataset="students coverage, templated 0.8", arms=("leaf", "pool"),
        statement="A student of leaf's questions knows more than one of the pool's, equal numbers (assumed "
        "preference)"),
    students(id="A10", dataset="students coverage, templated 0.8", arms=("leaf", "fake-leaf"),
        statement="Than one of the shuffled leaves' (assumed preference)"),
    students(id="A11", source="arXiv 2410.03743, 2310.02263, 2410.16736", dataset="students second round",
        arms=("by failures", "even turns"), statement="A second round of calls in proportion to what the student "
        "fails teaches more than one of even turns: accuracy"),
    claim(id="B0", role=POSITIVE, source="our control", dataset="filters", metric="purity", arms=("oracle", "none"),
        statement="There is something to filter: purity after the true judge minus none"),
    purity(id="B1", arms=("teacher", "none"), headline=True,
        statement="The teacher's judges (planted, right nine times in ten) raise purity: share of valid rows among "
        "the kept, teacher minus none"),
    purity(id="B2", arms=("likelihood", "none"),
        statement="Calibrated likelihood raises purity"),
    purity(id="B3", arms=("rules", "none"),
        statement="Rules alone raise purity"),
    claim(id="B4", dataset="faithfulness", metric="wrong rejected", arms=("likelihood",), kind="above", bound=0.8,
        statement="The faithfulness filter rejects at least 80 % of swapped facts"),
    claim(id="B5", dataset="faithfulness", metric="recall", arms=("likelihood",), kind="above", bound=0.9,
        statement="At a loss of at most 10 % of true ones"),
    students(id="B6", dataset="students filters", arms=("teacher, equal n", "none, equal n"),
        statement="Students of the filtered rows know more at equal numbers: teacher minus none"),
    students(id="B7", dataset="students filters", arms=("teacher, equal budget", "none, equal budget"),
        statement="From equally many generated rows: teacher minus none"),
    students(id="B8", dataset="students filters", arms=("likelihood, equal n", "none, equal n"),
        statement="Students of likelihood-filtered rows know more at equal numbers"),
    students(id="B9", role=POSITIVE, controls=(), source="our control", dataset="students filters",
        arms=("none, noise 0", "none, noise 0.5"),
        statement="Noise matters at all: unfiltered students at no wrong answers minus half wrong"),
    phases(id="P1", role=POSITIVE, controls=(), source="our control", arms=("replay-all", "start"),
        statement="The phases teach at all: accuracy over all groups, replay-all minus the start model"),
    claim(id="C1", dataset=FORGETTING, metric="forgotten", arms=("replay-all", "phased"), headline=True,
        statement="Replay prevents forgetting: forgotten share, phased minus replay-all", controls=("P1",)),
    phases(id="C2", kind="not worse", dataset=SKILLS, arms=("replay-all", "phased"),
        statement="At no price: skills learned last, replay-all not 2 points worse than phased"),
    claim(id="C3", dataset=FORGETTING, metric="forgotten", arms=("replay-30%", "replay-3%"), controls=("P1",),
        statement="More replay, less forgetting: 30 % against 3 %"),
    claim(id="C4", dataset=FORGETTING, metric="forgotten", arms=("replay-3%", "phased"), controls=("P1",),
        statement="A little replay helps: 3 % against none"),
    phases(id="C5", headline=True, arms=("replay-all", "stacked"),
        statement="Phases with replay beat all at once: accuracy over all groups, replay-all minus stacked"),
    phases(id="C6", arms=("replay-all", "reversed"),
        statement="Knowledge first beats skills first: accuracy, replay-all minus reversed"),
    phases(id="C7", arms=("replay-all", "cosine"),
        statement="A cosine to 0 in each phase costs accuracy: replay-all minus cosine"),
    phases(id="C8", kind="not worse", dataset="questions", arms=("replay-all", "start"), published=MMLU,
        statement="General knowledge is kept: multiple-choice accuracy (lm-eval), replay-all not 2 points worse than "
        "the start model"),
    claim(id="C9", kind="not worse", dataset=GENERAL, metric="surprise", arms=("replay-all", "start"),
        statement="General text is kept: log-perplexity, replay-all not 0.05 worse than the start model"),
    phases(id="C10", dataset="exam facts", arms=("replay-all", "start"),
        statement="What was taught is recognised in untaught question forms (four options by likelihood): replay-all "
        "minus the start model"),
    claim(id="C11", dataset=GENERAL, metric="surprise", arms=("replay-all, early", "replay-all"),
        statement="Early checkpoints generalise better: general text, the first look within the slack of the best "
        "minus the last"),
    phases(id="C12", kind="not worse", dataset=SKILLS, arms=("replay-all, early", "replay-all"),
        statement="At no price: skills, early not 2 points worse than the last"),
    critic(id="K1", headline=True, kind="not worse", arms=("stacked", "replay-all"),
        statement="Phases are not needed: stacked not 2 points worse than replay-all"),
    critic(id="K2", dataset=GENERAL, metric="surprise", arms=("phased, half-way", "phased"), controls=(),
        statement="Without training: interpolating phased half-way to the start model loses less of general text"),
    critic(id="K3", kind="not worse", arms=("phased, half-way", "phased"),
        statement="At no price: accuracy over all groups, half-way not 2 points worse than phased"),
    phases(id="K4", dataset=SKILLS, arms=("replay-all, best own", "replay-all, best general"),
        statement="A checkpoint of the last phase that is chosen by general questions has learned less of it than one "
        "chosen by its own kind: accuracy on skills", source="after InstructLab CLI, issue 2314, on the knowledge "
        "phase"),
    beyond(id="M1", dataset=EXAM, arms=("stacked, averaged", "stacked"), controls=("P1",),
        statement="Averaging data orders of stacked beats one of them: accuracy"),
    beyond(id="M2", dataset=EXAM, arms=("stacked, selected", "stacked, averaged"), controls=("P1",),
        statement="Selecting parameters beats averaging: accuracy"),
    beyond(id="M3", dataset=SKILLS, arms=("replay-all, easy to hard", "replay-all, chosen only"), controls=("P1",),
        statement="Pairs of answers that the judge rates best and worse teach more than the best alone, equal steps: "
        "accuracy on skills, easy to hard minus chosen only"),
    beyond(id="M4", dataset=SKILLS, arms=("replay-all, easy to hard", "replay-all, mixed"), controls=("P1",),
        statement="Easy pairs first: easy to hard minus mixed"),
]  # fmt: skip

# Of the figures: the paper's method, and the arm that the others are compared with.
METHOD, RIVAL = "replay-all", "stacked"
PLAIN = {  # what a headline claims, to be read after "that"
    "A6": "prompts of one leaf cover more of the taxonomy",
    "B1": "the teacher's judges make the data purer",
    "C1": "replay prevents forgetting",
    "C5": "phases with replay beat all at once",
    "K1": "all at once is no worse than phases with replay",
}
