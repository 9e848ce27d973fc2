"""MRPO, arXiv 2405.16388: what it claims, and what the follow-up arXiv 2512.10040 holds against it."""

from __future__ import annotations

from functools import partial

from lib.harness.claims.claim import NOT_SEEN, POSITIVE, Claim

PAPER, CRITIC = "arXiv 2405.16388, abstract and summaries", "arXiv 2512.10040 and our notes"
SCARCE, ABUNDANT, ACCURACY = ("plain", "direct", "varied"), "plain+varied", "accuracy, primary reference"
TABLE = [(f"held-out {s}", ACCURACY) for s in (*SCARCE, ABUNDANT)]
# In the scarce regime "up to 7 %" is all that could be seen; which set it was is not known.
GAIN = (("abstracting page", "scarce preferences", "MRPO", "gain over DPO, at most"),)
WORSE_BY = 0.01  # of accuracy, where an arm is to be no worse


def _each(id: str, statement: str, a: str, b: str, *, headline: str = "", **more) -> list[Claim]:
    """The same claim on every scarce set; `headline` names the set on which it is one."""
    more = {"source": PAPER, "dataset": "held-out {}", "metric": ACCURACY} | more
    dataset = more.pop("dataset")
    # whether accuracy on a set can move at all: a mis-scored reference must cost some of it
    controls = (lambda s: (f"K3 {s}",)) if more["metric"] == ACCURACY and more.get("role") != POSITIVE else lambda s: ()
    return [
        Claim(id=f"{id} {s}", statement=f"{statement}, rewards for {s} answers", dataset=dataset.format(s),
            arms=(a, b), headline=s == headline, controls=controls(s), **more)
        for s in SCARCE
    ]  # fmt: skip


_critic = partial(_each, source=CRITIC)
CLAIMS = [
    *_each("M1", "Scarce preferences: accuracy of MRPO minus DPO", "mrpo", "dpo", headline="plain", published=GAIN),
    *_each("M2", "Scarce preferences: accuracy of MRPO minus Multi-DPO", "mrpo", "multi-dpo", published=NOT_SEEN),
    Claim(id="M3", headline=True, kind="not worse", source=PAPER, published=NOT_SEEN,
        statement="Abundant preferences: accuracy of MRPO minus DPO, not 2 points worse",
        dataset=f"held-out {ABUNDANT}", metric=ACCURACY, arms=("mrpo", "dpo"), controls=("K3 plain",)),
    *_each("M4", "Clipping is needed: accuracy of MRPO minus MRPO unclipped", "mrpo", "mrpo-unclipped",
        headline="plain", published=NOT_SEEN),
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
        "worse", "single", "mrpo", kind="not worse", smallest=WORSE_BY, headline="plain"),
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
