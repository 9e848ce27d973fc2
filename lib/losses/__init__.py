"""Preference and distillation losses as pure functions of log-probabilities; one value per example, no reduction.

Axes: B pairs, N tokens, V vocabulary. w / l: chosen / rejected answer; pi / ref: policy / reference. Sequence log-probs
are summed over the answer's tokens, natural logarithm; length_w, length_l are token counts. Hyper-parameters have no
defaults:
presets are their only home. Every pairwise loss takes any reference, the virtual one of several models too
(`lib.losses.references`).
"""

from lib.losses.distillation import distill, token_scale
from lib.losses.dpo import LabelMargin, Preference, dpo, dpop, label_margin, soft_dpo, target_loss
from lib.losses.multi import hpo, mixed, modpo, spo
from lib.losses.pairwise import (
    aot,
    aot_unpaired,
    apo_down,
    apo_zero,
    bco,
    discopop,
    exo,
    f_dpo,
    f_score,
    hinge,
    ipo_mean,
    ipo_sum,
    minor_dpo,
    nca,
    robust,
    sigmoid_norm,
    sppo_hard,
)  # fmt: skip
from lib.losses.reference_free import cpo, orpo, simpo
from lib.losses.unpaired import kto, kto_pair

__all__ = [
    "LabelMargin", "Preference", "aot", "aot_unpaired", "apo_down", "apo_zero", "bco", "cpo", "discopop", "distill",
    "dpo", "dpop", "exo",
    "f_dpo", "f_score", "hinge", "hpo", "ipo_mean", "ipo_sum", "kto", "kto_pair", "label_margin", "minor_dpo", "mixed",
    "modpo", "nca", "orpo",
    "robust", "sigmoid_norm", "simpo", "soft_dpo", "spo", "sppo_hard", "target_loss", "token_scale",
]  # fmt: skip
