"""MRPO, arXiv 2405.16388: what it claims, and what the follow-up arXiv 2512.10040 holds against it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lib.harness.claims import rules
from lib.harness.claims.rules import Outcome, Pool, better, outcome

Claim = partial(rules.Claim, source="arXiv 2405.16388, abstract and summaries")
Critic = partial(rules.Claim, source="arXiv 2512.10040 and our notes")
SCARCE, ABUNDANT, ACCURACY = ("plain", "direct", "varied"), "plain+varied", "accuracy, primary reference"
TABLE = [(f"held-out {s}", ACCURACY) for s in (*SCARCE, ABUNDANT)]


def _no_worse(a: str, b: str, *, by: float, dataset: str, metric: str = ACCURACY) -> Callable[[Pool], Outcome]:
    """`rules.no_worse`, of accuracy unless another metric is named."""
    return rules.no_worse(a, b, metric, by=by, dataset=dataset)


def _same(a: str, b: str, *, within: float, dataset: str) -> Callable[[Pool], Outcome]:
    """Accuracy of a minus b: holds if the interval lies within +-within, fails if it lies outside."""

    def rule(pool: Pool) -> Outcome:
        d = pool.difference(dataset, ACCURACY, a, b)
        return outcome(
            d,
            "holds"
            if -within < d.low and d.high < within
            else "fails"
            if d.low > within or d.high < -within
            else "not resolved",
        )

    return rule


def _above(value: float, *, dataset: str, arm: str, metric: str) -> Callable[[Pool], Outcome]:
    """Mean of a metric: holds if the interval lies above `value`, fails if below."""

    def rule(pool: Pool) -> Outcome:
        r = pool.rate(dataset, arm, metric)
        return outcome(r, "holds" if r.low > value else "fails" if r.high < value else "not resolved")

    return rule


def _sets(claim, id: str, statement: str, rule: Callable[[str], Callable[[Pool], Outcome]]) -> list[rules.Claim]:
    return [claim(f"{id} {s}", f"{statement}, rewards for {s} answers", rule(f"held-out {s}")) for s in SCARCE]


CLAIMS = [
    *_sets(Claim, "M1", "Scarce preferences: accuracy of MRPO "
        "minus DPO", lambda d: better("mrpo", "dpo", ACCURACY, tests=3, dataset=d)),
    *_sets(Claim, "M2", "Scarce preferences: accuracy of MRPO minus "
        "Multi-DPO", lambda d: better("mrpo", "multi-dpo", ACCURACY, tests=3, dataset=d)),
    Claim("M3", "Abundant preferences: accuracy of MRPO minus DPO, not 2 points "
        "worse", _no_worse("mrpo", "dpo", by=0.02, dataset=f"held-out {ABUNDANT}")),
    *_sets(Claim, "M4", "Clipping is needed: accuracy of MRPO minus MRPO "
        "unclipped", lambda d: better("mrpo", "mrpo-unclipped", ACCURACY, tests=3, dataset=d)),
    *_sets(Claim, "M5", "Adaptive weights are no worse than equal ones: accuracy of MRPO minus uniform, not 1 point "
        "worse", lambda d: _no_worse("mrpo", "mrpo-uniform", by=0.01, dataset=d)),
    *_sets(Claim, "M6", "The other model as primary: accuracy of MRPO "
        "minus DPO", lambda d: better("mrpo, other way", "dpo, other way", ACCURACY, tests=3, dataset=d)),
    *_sets(Claim, "M7", "Answers written: share in which MRPO's has the larger true reward, minus DPO's "
        "share", lambda d: better("mrpo", "dpo", "wins by true reward", tests=3,
            dataset=d.replace("held-out", "samples"))),
    Claim("M8", "No price in knowledge: multiple-choice accuracy of MRPO minus the base, not 2 points "
        "worse", _no_worse("mrpo", "base", by=0.02, dataset="questions", metric="accuracy")),
    *_sets(Critic, "K1", "The second model as the only reference is no worse: accuracy of single minus MRPO, not 1 "
        "point worse", lambda d: _no_worse("single", "mrpo", by=0.01, dataset=d)),
    *_sets(Critic, "K2", "The exact solution gives the same: accuracy of geometric minus MRPO unclipped, within 2 "
        "points", lambda d: _same("geometric", "mrpo-unclipped", within=0.02, dataset=d)),
    *_sets(Critic, "K3", "A mis-scored reference hurts: accuracy of DPO minus MRPO "
        "with it", lambda d: better("dpo", "mrpo, mis-scored", ACCURACY, tests=3, dataset=d)),
    *_sets(Critic, "K4", "Weights by validation accuracy are safer there: accuracy of VAW "
        "minus ARWC", lambda d: better("mrpo-vaw, mis-scored", "mrpo, mis-scored", ACCURACY, tests=3, dataset=d)),
    *_sets(Critic, "K5", "The weights favour the mis-scored reference: its mean ARWC weight beside the primary, "
        "above one half", lambda d: _above(0.5, dataset=d.replace("held-out", "weights"), arm="mis-scored",
            metric="arwc")),
]  # fmt: skip
