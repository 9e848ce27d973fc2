"""MRPO, arXiv 2405.16388: what it claims, and what the follow-up arXiv 2512.10040 holds against it.

Headlines are about the exact world, where every loss has its optimum and the truth is known; the language world's
claims are details: there adding 50 nats to every reference margin leaves accuracy as it was, so that its optimizer, not
the reference, decides.
"""

from __future__ import annotations

from functools import partial

from lib.harness.claims.claim import NEGATIVE, NOT_SEEN, POSITIVE, Claim

PAPER, CRITIC = "arXiv 2405.16388, abstract and summaries", "arXiv 2512.10040 and our notes"
SCARCE, ABUNDANT, ACCURACY = ("plain", "direct", "varied"), "plain+varied", "accuracy, primary reference"
GOOD, WRONG, OTHERS = "exact scarce, good second", "exact scarce, wrong second", "exact scarce, mis-scored second"
MANY, SURE = "exact abundant, good second", "exact scarce, sure labels"
# what moves further from the start may win by that alone: rewards are compared at the KL of the arm that moves least
REWARD, EQUAL, FREE = "expected reward", "expected reward, equal KL", "accuracy, without reference"
TABLE = [
    *((d, m) for d in (GOOD, WRONG) for m in (REWARD, EQUAL, "accuracy", FREE)),
    *((f"held-out {s}", ACCURACY) for s in (*SCARCE, ABUNDANT)),
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


def _each(id: str, statement: str, a: str, b: str, **more) -> list[Claim]:
    """The same claim on every scarce set of the language world."""
    more = {"source": PAPER, "dataset": "held-out {}", "metric": ACCURACY} | more
    dataset = more.pop("dataset")
    # whether accuracy on a set can move at all: a mis-scored reference must cost some of it
    controls = (lambda s: (f"K3 {s}",)) if more["metric"] == ACCURACY and more.get("role") != POSITIVE else lambda s: ()
    return [
        Claim(id=f"{id} {s}", statement=f"{statement}, rewards for {s} answers", dataset=dataset.format(s),
            arms=(a, b), controls=controls(s), **more)
        for s in SCARCE
    ]  # fmt: skip


_critic, _against = partial(_each, source=CRITIC), partial(_exact, source=CRITIC)
# controls of the exact world: rewards by labels and by a reference that is the truth, accuracy by a wrong reference
REWARDS, ACCURACIES = ("X1", "X4", "X5"), ("X2", "X3", "X5")
CONTROLS = {REWARD: REWARDS, EQUAL: REWARDS, "accuracy": ACCURACIES, FREE: ACCURACIES}
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
    *_each("M1", "Scarce preferences: accuracy of MRPO minus DPO", "mrpo", "dpo", published=GAIN),
    *_each("M2", "Scarce preferences: accuracy of MRPO minus Multi-DPO", "mrpo", "multi-dpo", published=NOT_SEEN),
    Claim(id="M3", kind="not worse", source=PAPER, published=NOT_SEEN,
        statement="Abundant preferences: accuracy of MRPO minus DPO, not 2 points worse",
        dataset=f"held-out {ABUNDANT}", metric=ACCURACY, arms=("mrpo", "dpo"), controls=("K3 plain",)),
    *_each("M4", "Clipping is needed: accuracy of MRPO minus MRPO unclipped", "mrpo", "mrpo-unclipped",
        published=NOT_SEEN),
    *_each("M5", "Adaptive weights are no worse than equal ones: accuracy of MRPO minus uniform, not 1 point worse",
        "mrpo", "mrpo-uniform", kind="not worse", smallest=WORSE_BY, published=NOT_SEEN),
    *_each("M6", "The other model as primary: accuracy of MRPO minus DPO", "mrpo, other way", "dpo, other way",
        published=NOT_SEEN),
    *_each("M7", "Answers written: share in which MRPO's has the larger true reward, minus DPO's share", "mrpo", "dpo",
        dataset="samples {}", metric="wins by true reward", published=NOT_SEEN),
    Claim(id="M8", kind="not worse", source=PAPER, published=NOT_SEEN, dataset="questions", metric="accuracy",
        statement="No price in knowledge: multiple-choice accuracy of MRPO minus the base, not 2 points worse",
        arms=("mrpo", "base")),
    *_critic("K1", "The second model as the only reference is no worse: accuracy of single minus MRPO, not 1 point "
        "worse", "single", "mrpo", kind="not worse", smallest=WORSE_BY),
    *_critic("K2", "The exact solution gives the same: accuracy of geometric minus MRPO unclipped, within 2 points",
        "geometric", "mrpo-unclipped", kind="same"),
    *_critic("K3", "A mis-scored reference hurts: accuracy of DPO minus MRPO with it", "dpo", "mrpo, mis-scored",
        role=POSITIVE),
    *_critic("K4", "Weights by validation accuracy are safer there: accuracy of VAW minus ARWC",
        "mrpo-vaw, mis-scored", "mrpo, mis-scored"),
    *[
        Claim(id=f"K5 {s}", kind="above", bound=0.5, source=CRITIC, dataset=f"weights {s}", metric="arwc",
            statement="The weights favour the mis-scored reference: its mean ARWC weight beside the primary, above "
            f"one half, rewards for {s} answers", arms=("mis-scored",))
        for s in SCARCE
    ],
]  # fmt: skip
