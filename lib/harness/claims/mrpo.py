"""MRPO, arXiv 2405.16388: what it claims, and what the follow-up arXiv 2512.10040 holds against it.

Headlines are about the exact world, where every loss has its optimum and the truth is known. The same claims about a
language model's answers, whose losses are solved too, are details.
"""

from __future__ import annotations

from functools import partial

from lib.harness.claims.claim import NEGATIVE, NOT_SEEN, POSITIVE, Claim

PAPER, CRITIC = "arXiv 2405.16388, abstract and summaries", "arXiv 2512.10040 and our notes"
RULES = ("rich", "full")  # the oracles of the tilted language model
GOOD, WRONG, OTHERS = "exact scarce, good second", "exact scarce, wrong second", "exact scarce, mis-scored second"
MANY, SURE = "exact abundant, good second", "exact scarce, sure labels"
# what moves further from the start may win by that alone: rewards are compared at the KL of the arm that moves least
REWARD, EQUAL, FREE = "expected reward", "expected reward, equal KL", "accuracy, without reference"
TABLE = [
    *((d, m) for d in (GOOD, WRONG) for m in (REWARD, EQUAL, "accuracy", FREE)),
    *(
        (f"language {r}, {c} second", m)
        for r in RULES
        for c in ("complementary", "foreign", "mis-scored")
        for m in ("accuracy", EQUAL)
    ),
]
# In the scarce regime "up to 7 %" is all that could be seen; which set it was is not known.
GAIN = (("abstracting page", "scarce preferences", "MRPO", "gain over DPO, at most"),)
BEST = (("follow-up", "UltraFeedback", "DPO against one reference",
    "references of 7 that beat every multi-reference method"),)  # fmt: skip
WORSE_BY = 0.01  # of accuracy, where an arm is to be no worse
SLIGHTLY = 0.02  # of expected reward: less than half of what is worth having


def _exact(id: str, statement: str, a: str, b: str, metric: str, dataset: str = GOOD, **more) -> Claim:
    """A claim about one cell of the exact world, whose unit is a world; where labels and references move nothing,
    nothing is decided."""
    more = {"source": PAPER, "controls": () if "role" in more else CONTROLS[metric]} | more
    return Claim(id=id, statement=statement, dataset=dataset, metric=metric, arms=(a, b), unit="world", **more)


def _tilt(
    id: str, statement: str, a: str, b: str, metric: str = "accuracy", second: str = "complementary second", **more
) -> list[Claim]:
    """A claim about the tilted language model for each of its oracles: prompts and seeds vary."""  # fmt: skip
    more = {"source": PAPER, "published": NOT_SEEN} | more
    return [
        Claim(id=f"{id} {r}", statement=f"Language, {r} answers, {statement}", dataset=f"language {r}, {second}",
            metric=metric, arms=(a, b), controls=() if "role" in more else tuple(f"{k} {r}" for k in GATES), **more)
        for r in RULES
    ]  # fmt: skip


_doubt, _against = partial(_tilt, source=CRITIC), partial(_exact, source=CRITIC)
# controls of the exact world: rewards by labels and by a reference that is the truth, accuracy by a wrong reference
REWARDS, ACCURACIES = ("X1", "X4", "X5"), ("X2", "X3", "X5")
CONTROLS = {REWARD: REWARDS, EQUAL: REWARDS, "accuracy": ACCURACIES, FREE: ACCURACIES}
# of the language model: labels, a mis-scored reference alone and unclipped, and one that is the primary
GATES = ("Y1", "Y2", "Y3", "Y4")
FOREIGN, MISSCORED, ABUNDANT = "foreign second", "mis-scored second", "complementary second, many pairs"
FEW = "Exact, 64 pairs, a good second reference"
CLAIMS = [
    _exact("E1", f"{FEW}: expected reward of MRPO minus DPO at equal KL", "mrpo", "dpo", EQUAL, headline=True,
        published=GAIN),
    _exact("E2", f"{FEW}: expected reward of MRPO minus Multi-DPO at equal KL", "mrpo", "multi-dpo", EQUAL,
        headline=True, published=NOT_SEEN),
    _exact("E3", "Exact, 64 pairs, a wrong second reference: clipping is needed, accuracy of MRPO minus MRPO unclipped",
        "mrpo", "mrpo-unclipped", "accuracy", WRONG, headline=True, published=NOT_SEEN),
    _exact("E4", f"{FEW}: adaptive weights are no worse than equal ones, expected reward of MRPO minus uniform at "
        "equal KL", "mrpo", "mrpo-uniform", EQUAL, headline=True, kind="not worse", smallest=SLIGHTLY,
        published=NOT_SEEN),
    _against("K0", f"{FEW}: DPO against the second reference alone is at least as good, accuracy without reference of "
        "single minus MRPO", "single", "mrpo", FREE, headline=True, kind="not worse", smallest=WORSE_BY,
        published=BEST),
    _against("K0a", f"{FEW}: the same by expected reward, each at the same beta", "single", "mrpo", REWARD),
    _against("K0b", f"{FEW}: the same by expected reward at equal KL", "single", "mrpo", EQUAL),
    _exact("E1a", f"{FEW}: expected reward of MRPO minus DPO, each at the same beta", "mrpo", "dpo", REWARD),
    _exact("E1b", f"{FEW}: accuracy of MRPO minus DPO", "mrpo", "dpo", "accuracy"),
    _exact("E1c", "Exact, 64 pairs without noise in their labels: expected reward of MRPO minus DPO at equal KL",
        "mrpo", "dpo", EQUAL, SURE),
    _exact("E1d", "Exact, 1024 pairs: MRPO is no worse than DPO, expected reward at equal KL", "mrpo", "dpo", EQUAL,
        MANY, kind="not worse"),
    _exact("E1e", "Exact, 64 pairs, a wrong second reference: MRPO is no worse than DPO, accuracy", "mrpo", "dpo",
        "accuracy", WRONG, kind="not worse"),
    _exact("E3a", "Exact, 64 pairs, a mis-scored second reference: accuracy of MRPO minus MRPO unclipped", "mrpo",
        "mrpo-unclipped", "accuracy", OTHERS),
    _exact("E3b", f"{FEW}: what clipping costs there, expected reward of MRPO minus unclipped at equal KL", "mrpo",
        "mrpo-unclipped", EQUAL),
    _exact("E6", f"{FEW}: MRPO beats distillation, accuracy of MRPO minus KD", "mrpo", "kd", "accuracy"),
    _against("K2a", f"{FEW}: the exact solution gives the same, expected reward of geometric minus MRPO unclipped at "
        "equal KL", "geometric", "mrpo-unclipped", EQUAL, kind="same"),
    _against("K4a", "Exact, 64 pairs, a wrong second reference: weights by validation accuracy are safer, expected "
        "reward of VAW minus ARWC at equal KL", "mrpo-vaw", "mrpo", EQUAL, WRONG),
    _exact("X1", "Flipped labels cost reward: DPO minus DPO on them", "dpo", "dpo, flipped labels", REWARD,
        role=POSITIVE),
    _exact("X2", "A wrong reference alone costs accuracy: DPO minus single", "dpo", "single", "accuracy", WRONG,
        role=POSITIVE),
    _exact("X3", "A wrong reference unclipped costs accuracy: DPO minus MRPO unclipped", "dpo", "mrpo-unclipped",
        "accuracy", WRONG, role=POSITIVE),
    _exact("X4", "A reference equal to the truth needs no labels: expected reward of MRPO unclipped minus DPO on pairs "
        "that say nothing", "mrpo-unclipped, no labels", "dpo, no labels", REWARD, "exact scarce, the truth second",
        role=POSITIVE),
    _exact("X5", "A second reference that is the first changes nothing: expected reward of MRPO minus DPO", "mrpo",
        "dpo", REWARD, "exact scarce, the same second", kind="same", role=NEGATIVE),
    *_tilt("M1", "64 pairs, a complementary second: accuracy of MRPO minus DPO", "mrpo", "dpo", published=GAIN),
    *_tilt("M1a", "the same by expected reward at equal KL", "mrpo", "dpo", EQUAL, published=GAIN),
    *_tilt("M2", "64 pairs, a complementary second: accuracy of MRPO minus Multi-DPO", "mrpo", "multi-dpo"),
    *_tilt("M3", "512 pairs: MRPO is no worse than DPO, accuracy", "mrpo", "dpo", second=ABUNDANT, kind="not worse"),
    *_tilt("M4", "a mis-scored second: clipping is needed, accuracy of MRPO minus MRPO unclipped", "mrpo",
        "mrpo-unclipped", second=MISSCORED),
    *_tilt("M4a", "a complementary second: what clipping costs, accuracy of MRPO minus unclipped", "mrpo",
        "mrpo-unclipped"),
    *_tilt("M5", "a complementary second: adaptive weights are no worse than equal ones, accuracy of MRPO minus "
        "uniform", "mrpo", "mrpo-uniform", kind="not worse", smallest=WORSE_BY),
    *_tilt("M6", "a foreign second under its own tokenizer: accuracy of MRPO minus DPO", "mrpo", "dpo", second=FOREIGN),
    *_tilt("M6a", "the same with log-probs per token", "mrpo, per token", "dpo, per token", second=FOREIGN),
    *_doubt("K1", "a complementary second: that alone is no worse, accuracy of single minus MRPO", "single", "mrpo",
        kind="not worse", smallest=WORSE_BY),
    *_doubt("K1a", "a foreign second: that alone is no worse, accuracy of single minus MRPO", "single", "mrpo",
        second=FOREIGN, kind="not worse", smallest=WORSE_BY),
    *_doubt("K2", "a complementary second: the exact solution gives the same, accuracy of geometric minus MRPO "
        "unclipped", "geometric", "mrpo-unclipped", kind="same"),
    *_doubt("K4", "a mis-scored second: weights by validation accuracy are safer, accuracy of VAW minus ARWC",
        "mrpo-vaw", "mrpo", second=MISSCORED),
    *[
        Claim(id=f"K5 {r}", kind="above", bound=0.5, source=CRITIC, dataset=f"language {r}, {MISSCORED}",
            metric="arwc", arms=("second reference",), statement=f"Language, {r} answers: the weights favour the "
            "mis-scored reference, its mean ARWC weight beside the primary, above one half")
        for r in RULES
    ],
    *_tilt("Y1", "flipped labels cost accuracy: DPO minus DPO on them", "dpo", "dpo, flipped labels", role=POSITIVE),
    *_tilt("Y2", "a mis-scored reference alone costs accuracy: DPO minus single", "dpo", "single", second=MISSCORED,
        role=POSITIVE),
    *_tilt("Y3", "a mis-scored reference unclipped costs accuracy: DPO minus MRPO unclipped", "dpo", "mrpo-unclipped",
        second=MISSCORED, role=POSITIVE),
    *_tilt("Y4", "a second reference that is the first changes nothing: accuracy of MRPO minus DPO", "mrpo", "dpo",
        second="the same second", kind="same", role=NEGATIVE),
]  # fmt: skip
