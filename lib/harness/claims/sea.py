"""SEA, arXiv 2411.01493: what it claims, and what arXiv 2604.02766 ("Random is hard to beat") and our controls hold
against it.

"sea" and "bai" take the variance of sigma(r - r') over the heads, as the paper prints; "-logit" that of r - r', as its
release computes.
"""

from __future__ import annotations

from functools import partial

from lib.harness.claims import rules
from lib.harness.claims.rules import better

Claim = partial(rules.Claim, source="arXiv 2411.01493, sections 6.1-6.3")
Critic = partial(rules.Claim, source="arXiv 2604.02766 and our controls")
EASY, HARD, LANGUAGE = "exact easy", "exact hard", "language"
TUNED = ("exact easy, tuned", "exact hard, tuned")
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


def _each(
    claim,
    id: str,
    statement: str,
    a: str,
    b: str,
    metric: str,
    datasets=(EASY, HARD, LANGUAGE),
    tests: int | None = None,
) -> list[rules.Claim]:
    return [
        claim(f"{id} {d}", f"{statement}, {d}", better(a, b, metric, tests=tests or len(datasets), dataset=d))
        for d in datasets
    ]


CLAIMS = [
    *_each(Claim, "O1", "Online beats offline at equal queries: final win rate of passive minus "
        "offline", "passive", "offline", FINAL),
    *_each(Claim, "O2", "SEA as printed beats passive: final win rate", "sea", "passive", FINAL, (EASY, HARD)),
    *_each(Claim, "O3", "SEA as released beats passive: final win rate", "sea-logit", "passive", FINAL),
    *_each(Claim, "O4", "SEA as released needs fewer queries than passive: win rate averaged over "
        "the run", "sea-logit", "passive", WHOLE),
    *_each(Claim, "O5", "SEA as released beats XPO: final win rate", "sea-logit", "xpo", FINAL),
    *_each(Claim, "O6", "SEA as released beats APL: final win rate", "sea-logit", "apl-certainty", FINAL),
    *_each(Claim, "O7", "E&E beats passive too: final win rate of sea-ets minus "
        "passive", "sea-ets", "passive", FINAL, (LANGUAGE,)),
    *_each(Claim, "V1", "Variants: synthetic pairs help, sea minus bai (3 over 2)", "sea", "bai", FINAL, (EASY, HARD)),
    *_each(Claim, "V2", "Variants: active choice helps, bai minus passive (2 "
        "over 1)", "bai", "passive", FINAL, (EASY, HARD)),
    *_each(Claim, "V3", "Variants: active choice as released, bai-logit minus passive (2 "
        "over 1)", "bai-logit", "passive", FINAL, (EASY, HARD)),
    *_each(Claim, "V4", "Variants: sea-bon minus bai-bon (6 over 5)", "sea-bon", "bai-bon", FINAL, (EASY, HARD)),
    *_each(Claim, "V5", "Variants: bai-bon minus passive-bon (5 "
        "over 4)", "bai-bon", "passive-bon", FINAL, (EASY, HARD)),
    *_each(Claim, "V6", "Variants: learning the policy too, sea-bon minus heads-only (6 "
        "over 7)", "sea-bon", "heads-only", FINAL, (EASY, HARD)),
    *_each(Claim, "L1", "With SLiC too: final win rate of SEA as released minus "
        "passive", "sea-logit-slic", "passive-slic", FINAL, (EASY, HARD)),
    *_each(Claim, "L2", "With IPO too: final win rate of SEA as released minus "
        "passive", "sea-logit-ipo", "passive-ipo", FINAL, (EASY, HARD)),
    *_each(Claim, "E1", "While collecting, E&E duels the better answers: regret of bai-logit "
        "minus ets", "ets", "bai-logit", REGRET, (EASY, HARD)),
    *_each(Claim, "E2", "While collecting, uncertainty duels the worst: regret of uncertainty-logit minus "
        "bai-logit", "bai-logit", "uncertainty-logit", REGRET, (EASY, HARD)),
    *_each(Claim, "E3", "Afterwards BAI beats uncertainty: expected "
        "reward", "bai-logit", "uncertainty-logit", REWARD, (EASY, HARD)),
    *_each(Claim, "E4", "Afterwards uncertainty beats E&E: expected "
        "reward", "uncertainty-logit", "ets", REWARD, (EASY, HARD)),
    *_each(Critic, "K1", "At equal steps a query SEA as released still beats passive: final "
        "win rate", "sea-logit", "passive-matched", FINAL),
    *_each(Critic, "K4", "With each method's learning rate tuned SEA as released still beats passive: final "
        "win rate", "sea-logit", "passive", FINAL, TUNED),
    *_each(Critic, "K5", "With each method's learning rate tuned SEA as released still needs fewer queries: win rate "
        "averaged over "
        "the run", "sea-logit", "passive", WHOLE, TUNED),
    *_each(Critic, "K6", "With rates tuned and equal steps a query: win rate averaged over the run, sea-logit minus "
        "passive-matched", "sea-logit", "passive-matched", WHOLE, TUNED),
    *_each(Critic, "K2", "The choice beats a random pair of the same M answers: bai-logit minus "
        "random", "bai-logit", "random", FINAL, (EASY, HARD)),
    *_each(Critic, "K3", "SEA as released beats passive under an oracle nobody was "
        "trained on", "sea-logit", "passive", "win rate, held-out oracle", (LANGUAGE,)),
]  # fmt: skip
