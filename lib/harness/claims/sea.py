"""SEA, arXiv 2411.01493: what it claims, and what arXiv 2604.02766 ("Random is hard to beat") and our controls hold
against it.

"sea" and "bai" take the variance of sigma(r - r') over the heads, as the paper prints; "-logit" that of r - r', as its
release computes.
"""

from __future__ import annotations

from functools import partial

from lib.harness.claims.claim import POSITIVE, Claim

PAPER, CRITIC = "arXiv 2411.01493, sections 6.1-6.3", "arXiv 2604.02766 and our controls"
EASY, HARD, LANGUAGE = "exact easy", "exact hard", "language"
ALL, EXACT, TUNED = (EASY, HARD, LANGUAGE), (EASY, HARD), (f"{EASY}, tuned", f"{HARD}, tuned")
FINAL, WHOLE, REGRET, REWARD = "win rate", "win rate, whole run", "duel regret", "expected reward"
TABLE = [
    (LANGUAGE, FINAL),
    (LANGUAGE, WHOLE),
    (LANGUAGE, "win rate, held-out oracle"),
    (EASY, FINAL),
    (HARD, FINAL),
    (EASY, REWARD),
    (HARD, REWARD),
    (HARD, REGRET),
    *((d, WHOLE) for d in TUNED),
]
ONE_B = tuple(("figure 1, left", "pythia 1b", arm, "gain in win rate over SFT") for arm in ("SEA", "online", "offline"))
FEWER = (("section 6.1", "pythia", "SEA", "better sample efficiency, at least"),)
# More policy steps on the same queries must raise the win rate; a world in which they do not tells methods apart by
# chance alone.
STEPS = {EASY: "P1", HARD: "P1", TUNED[0]: "P2", TUNED[1]: "P2", LANGUAGE: "P1"}


def _each(id, statement, a, b, metric, datasets=ALL, *, headlines=(), **more) -> list[Claim]:
    """The same claim in several worlds; in the exact ones the unit is a world."""
    more = {"source": PAPER} | more
    free = more.get("role") == POSITIVE or metric == REGRET  # regret is measured while collecting, whoever learns
    return [
        Claim(id=f"{id} {d}", statement=f"{statement}, {d}", dataset=d, metric=metric, arms=(a, b),
            headline=d in headlines, unit="prompt" if d == LANGUAGE else "world",
            controls=() if free else (f"{STEPS[d]} {d}",), **more)
        for d in datasets
    ]  # fmt: skip


_exact, _critic = partial(_each, datasets=EXACT), partial(_each, source=CRITIC)
_tuned = partial(_each, datasets=TUNED, source=CRITIC)
CLAIMS = [
    *_critic("P1", "More policy steps a query raise the win rate: whole run, passive-matched minus passive",
        "passive-matched", "passive", WHOLE, role=POSITIVE),
    *_tuned("P2", "The same at tuned rates", "passive-matched", "passive", WHOLE, role=POSITIVE),
    *_each("O1", "Online beats offline at equal queries: final win rate of passive minus offline", "passive",
        "offline", FINAL, headlines=(LANGUAGE,), published=ONE_B[1:]),
    *_exact("O2", "SEA as printed beats passive: final win rate", "sea", "passive", FINAL),
    *_each("O3", "SEA as released beats passive: final win rate", "sea-logit", "passive", FINAL,
        headlines=(LANGUAGE,), published=ONE_B[:2]),
    *_each("O4", "SEA as released needs fewer queries than passive: win rate averaged over the run", "sea-logit",
        "passive", WHOLE, published=FEWER),
    *_each("O5", "SEA as released beats XPO: final win rate", "sea-logit", "xpo", FINAL),
    *_each("O6", "SEA as released beats APL: final win rate", "sea-logit", "apl-certainty", FINAL),
    *_each("O7", "E&E beats passive too: final win rate of sea-ets minus passive", "sea-ets", "passive", FINAL,
        (LANGUAGE,)),
    *_exact("V1", "Variants: synthetic pairs help, sea minus bai (3 over 2)", "sea", "bai", FINAL),
    *_exact("V2", "Variants: active choice helps, bai minus passive (2 over 1)", "bai", "passive", FINAL),
    *_exact("V3", "Variants: active choice as released, bai-logit minus passive (2 over 1)", "bai-logit", "passive",
        FINAL),
    *_exact("V4", "Variants: sea-bon minus bai-bon (6 over 5)", "sea-bon", "bai-bon", FINAL),
    *_exact("V5", "Variants: bai-bon minus passive-bon (5 over 4)", "bai-bon", "passive-bon", FINAL),
    *_exact("V6", "Variants: learning the policy too, sea-bon minus heads-only (6 over 7)", "sea-bon", "heads-only",
        FINAL),
    *_exact("L1", "With SLiC too: final win rate of SEA as released minus passive", "sea-logit-slic", "passive-slic",
        FINAL),
    *_exact("L2", "With IPO too: final win rate of SEA as released minus passive", "sea-logit-ipo", "passive-ipo",
        FINAL),
    *_exact("E1", "While collecting, E&E duels the better answers: regret of bai-logit minus ets", "ets", "bai-logit",
        REGRET),
    *_exact("E2", "While collecting, uncertainty duels the worst: regret of uncertainty-logit minus bai-logit",
        "bai-logit", "uncertainty-logit", REGRET),
    *_exact("E3", "Afterwards BAI beats uncertainty: expected reward", "bai-logit", "uncertainty-logit", REWARD),
    *_exact("E4", "Afterwards uncertainty beats E&E: expected reward", "uncertainty-logit", "ets", REWARD),
    *_critic("K1", "At equal steps a query SEA as released still beats passive: final win rate", "sea-logit",
        "passive-matched", FINAL, headlines=(LANGUAGE,)),
    *_tuned("K4", "With each method's learning rate tuned SEA as released still beats passive: final win rate",
        "sea-logit", "passive", FINAL),
    *_tuned("K5", "With each method's learning rate tuned SEA as released still needs fewer queries: win rate "
        "averaged over the run", "sea-logit", "passive", WHOLE, headlines=TUNED[1:], published=FEWER),
    *_tuned("K6", "With rates tuned and equal steps a query: win rate averaged over the run, sea-logit minus "
        "passive-matched", "sea-logit", "passive-matched", WHOLE, headlines=TUNED[1:]),
    *_critic("K2", "The choice beats a random pair of the same M answers: bai-logit minus random", "bai-logit",
        "random", FINAL, EXACT),
    *_critic("K3", "SEA as released beats passive under an oracle nobody was trained on", "sea-logit", "passive",
        "win rate, held-out oracle", (LANGUAGE,)),
]  # fmt: skip
