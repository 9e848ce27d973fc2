"""One claim as data: what is said, which rows decide it, and what size of effect is worth having."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

NO_NUMBER = "no number published"
NOT_SEEN = "not seen"
CLAIM, POSITIVE, NEGATIVE = "claim", "positive control", "negative control"
WINS = "wins by "  # before a metric: which arm's value is larger, prompt by prompt


class Metric(NamedTuple):
    """Which way is better, and the smallest difference worth having; fixed before the runs that are judged by it."""

    higher_is_better: bool
    smallest: float
    reason: str


HALF = "half of a published effect: "
SHARE = "two points of a hundred: below that no reader would change a method"
OURS = "no published effect: a tenth of what separates the untreated arm from the yardstick in the pilots"
METRICS = {
    "accuracy": Metric(True, 0.02, SHARE),
    "accuracy, primary reference": Metric(True, 0.02, SHARE),
    "win rate": Metric(True, 0.03, "three points of a hundred: a quarter of the published gain of one size of model"),
    "net wins": Metric(True, 0.06, "twice that of a win rate: wins less losses"),
    "flips": Metric(False, 0.01, "one token of a hundred, or a tenth of the damage of round-to-nearest"),
    "kl": Metric(False, 0.01, OURS),
    "agreement prefix": Metric(True, 1.0, "one token of the forty-eight"),
    "agreement": Metric(True, 0.02, OURS),
    "forced kl": Metric(False, 0.01, OURS),
    "margin": Metric(True, 0.1, "a tenth of a nat"),
    "exact match": Metric(True, 0.02, SHARE),
    "rouge-l": Metric(True, 0.02, SHARE),
    "fp likelihood": Metric(True, 0.02, "two hundredths of a nat a token"),
    "log queries": Metric(False, math.log(2) / 2, HALF + "twice the efficiency, halved as a logarithm: 1.41 times"),
    "expected reward": Metric(True, 0.05, "a twentieth of the answers' standard deviation"),
    "duel regret": Metric(False, 0.05, "a twentieth of the answers' standard deviation"),
    "forgotten": Metric(False, 0.02, SHARE),
    "surprise": Metric(False, 0.05, "five hundredths of a nat a token"),
    "auc": Metric(True, 0.02, SHARE),
    "effective leaves": Metric(True, 0.5, "half a leaf"),
    "nearest leaves": Metric(True, 0.5, "half a leaf"),
    "worst leaf": Metric(True, 0.01, "one row of a hundred"),
    "Vendi": Metric(True, 0.5, "half a distinct text"),
    "purity": Metric(True, 0.02, SHARE),
    "recall": Metric(True, 0.02, SHARE),
    "wrong rejected": Metric(True, 0.02, SHARE),
    "expected maximum": Metric(False, 0.04, HALF + "8.8 points of ToxiGen for Llama-7B"),
    "any above one half": Metric(False, 0.04, HALF + "8.8 points of ToxiGen for Llama-7B"),
    "arwc": Metric(True, 0.05, "a twentieth of all weight"),
    "distance to the prediction": Metric(False, 0.01, "one point of a hundred of mass"),
}  # fmt: skip


def metric_of(name: str) -> Metric:
    """The entry of a metric, "wins by" counted as net wins and what follows a comma (a judge, "whole run") left out;
    KeyError for one that has none."""
    if name.startswith(WINS):
        return METRICS["net wins"]
    base = name.partition(", ")[0]
    if name not in METRICS and base not in METRICS:
        raise KeyError(f"no metric is called {name!r}: lib/harness/claims/claim.py lists those that claims may name")
    return METRICS.get(name) or METRICS[base]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is said, and the rows that decide it.

    `arms` (a, b): metric of a minus that of b, positive where a is better; (a,): the level of a. `kind` says what
    holds: better (above 0), not worse (above -smallest), same (within +-smallest), above or below (`bound`; a level as
    it is). `measure` is the estimate, taken from the pool, if it is neither a level nor a difference. `controls` are
    ids of rows with role "positive control" (must hold) or "negative control" (must not fail): without them nothing is
    decided. `published` are rows of results/paper, (exhibit, dataset, arm, metric) each, or the sentence that there is
    none. `unit` "world": every row is a world of its own, whatever the seed. `trained` False: no arm depends on a seed.
    """

    id: str
    statement: str
    dataset: str
    metric: str
    arms: tuple[str, ...]
    kind: str = "better"
    bound: float | None = None
    smallest: float | None = None
    measure: Callable | None = None
    headline: bool = False
    role: str = CLAIM
    controls: tuple[str, ...] = ()
    published: tuple[tuple[str, str, str, str], ...] | str = NO_NUMBER
    source: str = ""
    unit: str = "prompt"
    void: str = ""
    trained: bool = True

    @property
    def worth(self) -> float:
        """The smallest effect worth having: its own, or its metric's."""
        return metric_of(self.metric).smallest if self.smallest is None else self.smallest
