"""SEA, arXiv 2411.01493: what it claims, and what arXiv 2604.02766 ("Random is hard to beat") and our controls hold
against it.

"sea" and "bai" take the variance of sigma(r - r') over the heads, as the paper prints; "-logit" that of r - r', as its
release computes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from lib.harness.claims.claim import NEGATIVE, POSITIVE, Claim
from lib.harness.presets.sea import BASE, CELLS, HEADLINE

PAPER, CRITIC = "arXiv 2411.01493, sections 6.1-6.3", "arXiv 2604.02766 and our controls"
LANGUAGE, EXACT = "language", tuple(f"exact {c}" for c in CELLS)
HOME = f"exact {BASE}"  # the cell that has every method
HEAD = f"exact {HEADLINE}"
FINAL, WHOLE, REGRET, REWARD = "win rate", "win rate, whole run", "duel regret", "expected reward"
ANY, QUERIES = "win rate, any answer", "log queries, 0.8"
TABLE = [
    (LANGUAGE, FINAL),
    (LANGUAGE, WHOLE),
    (LANGUAGE, "win rate, held-out oracle"),
    (HEAD, QUERIES),
    (HOME, QUERIES),
    (HOME, ANY),
    (HOME, REWARD),
    (HOME, REGRET),
]
ONE_B = tuple(("figure 1, left", "pythia 1b", arm, "gain in win rate over SFT") for arm in ("SEA", "online", "offline"))
FEWER = (("section 6.1", "pythia", "SEA", "better sample efficiency, at least"),)
TO = "to a win rate of 0.8 against any answer, log of the ratio"

# What the map of the cells shows: the fewer queries of the first arm beside the second, factor by factor. The first is
# the product of the next three.
COMPARISONS = {
    "SEA for passive": ("sea-logit", "passive"),
    "= more steps": ("passive-matched", "passive"),
    "× synthetic pairs": ("random-sea", "passive-matched"),
    "× the choice": ("sea-logit", "random-sea"),
    "DRTS for SEA": ("drts", "sea-logit"),
    "DeltaUCB for SEA": ("deltaucb", "sea-logit"),
    "told the truth": ("sea-truth", "passive"),
}

# Which rows must have moved, and which must not, before a metric decides anything.
CONTROLS = {QUERIES: ("P1", "N1"), ANY: ("P3",), REWARD: ("P3",), FINAL: ("P4",), WHOLE: ("P4",)}
HEADS = ("P4 language", "G1 language")  # of what rests on heads that have to learn the oracle's taste


def _each(id, statement, a, b, metric, datasets, *, headlines=(), **more: Any) -> list[Claim]:
    """The same claim in several worlds; in the exact ones the unit is a world."""
    control = more.get("role") is not None
    return [
        Claim(id=f"{id} {d}", statement=f"{statement}, {d}", dataset=d, metric=metric, arms=(a, b),
            headline=d in headlines, unit="prompt" if d == LANGUAGE else "world",
            **{"source": PAPER, "controls": () if control else tuple(f"{k} {d}" for k in CONTROLS.get(metric, ())),
               **more})
        for d in datasets
    ]  # fmt: skip


_grid, _home = partial(_each, metric=QUERIES, datasets=EXACT), partial(_each, datasets=(HOME,))
_language = partial(_each, datasets=(LANGUAGE,))
CLAIMS = [
    *_language("O1", "Online beats offline at equal queries: final win rate of passive minus offline", "passive",
        "offline", FINAL, headlines=(LANGUAGE,), published=ONE_B[1:]),
    *_language("O3", "SEA as released beats passive: final win rate", "sea-logit", "passive", FINAL,
        headlines=(LANGUAGE,), published=ONE_B[:2], controls=HEADS),
    *_grid("R1", f"SEA as released needs fewer queries than passive {TO}", "sea-logit", "passive", headlines=(HEAD,),
        published=FEWER),
    *_grid("R2", f"At exactly equal steps a query it still does {TO}", "sea-logit", "passive-matched",
        headlines=(HEAD,), source=CRITIC),
    *_grid("R3", f"The choice beats a random pair of the same M answers {TO}", "sea-logit", "random-sea",
        headlines=(HEAD,), source=CRITIC),
    # controls: what must move the metrics, and what must not
    *_grid("P1", f"Heads told the true rewards need fewer queries than passive {TO}", "sea-truth", "passive",
        role=POSITIVE, source=CRITIC),
    *_grid("P2", f"Heads whose labels are coins need more queries than SEA {TO}", "sea-logit", "sea-coins",
        role=POSITIVE, source=CRITIC, smallest=0.1),
    *_grid("N1", f"Passive with other random numbers needs as many {TO}", "passive-again", "passive", kind="same",
        role=NEGATIVE, source=CRITIC),
    *_home("P3", "Twice the queries raise the win rate: passive", "passive-twice", "passive", ANY, role=POSITIVE,
        source=CRITIC),
    *_language("P4", "More policy steps a query raise the win rate: whole run, passive-matched minus passive",
        "passive-matched", "passive", WHOLE, role=POSITIVE, source=CRITIC),
    Claim(id="G1 language", statement="The heads can learn the oracle's taste from so many queries: accuracy on pairs "
        "of held-out prompts, above 0.7, language", dataset=LANGUAGE, metric="accuracy", arms=("heads",), kind="above",
        bound=0.7, role=POSITIVE, source=CRITIC),
    # details of the exact worlds, in the home cell
    *_home("R4", f"SEA as printed needs fewer queries than passive {TO}", "sea", "passive", QUERIES),
    *_home("R5", "SEA as released needs fewer queries than passive, to 0.7", "sea-logit", "passive",
        "log queries, 0.7", published=FEWER),
    *_home("R6", "SEA as released needs fewer queries than passive, to 0.9", "sea-logit", "passive",
        "log queries, 0.9", published=FEWER),
    *_home("A1", f"DRTS as SEA's choice needs fewer queries {TO}", "drts", "sea-logit", QUERIES,
        source="arXiv 2603.09692"),
    *_home("A2", f"DeltaUCB as SEA's choice needs fewer queries {TO}", "deltaucb", "sea-logit", QUERIES,
        source="arXiv 2603.09692"),
    *_home("O4", "Online beats offline: final win rate of passive minus offline", "passive", "offline", ANY),
    *_home("O5", f"SEA as released needs fewer queries than XPO {TO}", "sea-logit", "xpo", QUERIES),
    *_home("O6", f"SEA as released needs fewer queries than APL {TO}", "sea-logit", "apl-certainty", QUERIES),
    *_home("V1", "Variants: synthetic pairs help, sea-logit minus bai-logit (3 over 2)", "sea-logit", "bai-logit",
        ANY),
    *_home("V2", "Variants: active choice helps, bai-logit minus passive (2 over 1)", "bai-logit", "passive", ANY),
    *_home("V3", "Variants: active choice helps without synthetic pairs, bai-logit minus random", "bai-logit",
        "random", ANY, source=CRITIC),
    *_home("V4", "Variants: sea-bon minus bai-bon (6 over 5)", "sea-bon", "bai-bon", ANY),
    *_home("V5", "Variants: bai-bon minus passive-bon (5 over 4)", "bai-bon", "passive-bon", ANY),
    *_home("V6", "Variants: learning the policy too, sea-bon minus heads-only (6 over 7)", "sea-bon", "heads-only",
        ANY),
    *_home("L1", f"With SLiC too SEA as released needs fewer queries {TO}", "sea-logit-slic", "passive-slic", QUERIES),
    *_home("L2", f"With IPO too SEA as released needs fewer queries {TO}", "sea-logit-ipo", "passive-ipo", QUERIES),
    *_home("E1", "While collecting, E&E duels the better answers: regret of bai-logit minus ets", "ets", "bai-logit",
        REGRET),
    *_home("E2", "While collecting, uncertainty duels the worst: regret of uncertainty-logit minus bai-logit",
        "bai-logit", "uncertainty-logit", REGRET),
    *_home("E3", "Afterwards BAI beats uncertainty: expected reward", "bai-logit", "uncertainty-logit", REWARD),
    *_home("E4", "Afterwards uncertainty beats E&E: expected reward", "uncertainty-logit", "ets", REWARD),
    # details of the language world
    *_language("O7", "SEA as released needs fewer queries than passive: win rate averaged over the run", "sea-logit",
        "passive", WHOLE, published=FEWER, controls=HEADS),
    *_language("O8", "SEA as released beats XPO: final win rate", "sea-logit", "xpo", FINAL, controls=HEADS),
    *_language("O9", "SEA as released beats APL: final win rate", "sea-logit", "apl-certainty", FINAL, controls=HEADS),
    *_language("K0", "E&E beats passive too: final win rate of sea-ets minus passive", "sea-ets", "passive", FINAL,
        controls=HEADS),
    *_language("K1", "At equal steps a query SEA as released still beats passive: final win rate", "sea-logit",
        "passive-matched", FINAL, source=CRITIC, controls=HEADS),
    *_language("K3", "SEA as released beats passive under an oracle nobody was trained on", "sea-logit", "passive",
        "win rate, held-out oracle", source=CRITIC, controls=HEADS),
]  # fmt: skip
