"""DPO, what QDPO adds to it, and the label argument."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Preference(NamedTuple):
    loss: Tensor  # (B,)
    chosen: Tensor  # (B,) implicit reward beta (pi_w - ref_w), detached
    rejected: Tensor  # (B,) implicit reward beta (pi_l - ref_l), detached


class LabelMargin(NamedTuple):
    """The two brackets of the label argument and their sum, nats (B,)."""

    fp_bracket: Tensor
    q_bracket: Tensor
    delta: Tensor


def dpo(
    pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Preference:
    """-(1-e) log sigma(h) - e log sigma(-h), h = beta [(pi_w - ref_w) - (pi_l - ref_l)]; all (B,) summed log-probs.

    Eq. 7 of arXiv 2305.18290; e > 0 is conservative DPO. QDPO (arXiv 2407.03051) is this loss with w from the
    full-precision model, l from the quantized one, and pi the network with weights Q(W).
    """
    r_w, r_l = beta * (pi_w - ref_w), beta * (pi_l - ref_l)
    h = r_w - r_l
    loss = -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)
    return Preference(loss, r_w.detach(), r_l.detach())


def soft_dpo(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, delta: Tensor) -> Preference:
    """-p log sigma(h) - (1-p) log sigma(-h) with p = sigma(beta delta): smallest at h = beta delta, where pi = pi_fp.

    Ours: DPO's hard label has no finite optimum, this one stops at full precision. delta (B,) from `label_margin`.
    """
    r_w, r_l = beta * (pi_w - ref_w), beta * (pi_l - ref_l)
    h, p = r_w - r_l, torch.sigmoid(beta * delta)
    return Preference(-p * F.logsigmoid(h) - (1 - p) * F.logsigmoid(-h), r_w.detach(), r_l.detach())


def dpop(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, penalty: float) -> Preference:
    """-log sigma(beta [(pi_w - ref_w) - (pi_l - ref_l) - penalty max(0, ref_w - pi_w)]).

    DPO-Positive, arXiv 2402.13228: the chosen answer may not become less likely than under the reference, which DPO
    does to pairs that share a long prefix, as QDPO's do.
    """
    r_w, r_l = beta * (pi_w - ref_w), beta * (pi_l - ref_l)
    h = r_w - r_l - beta * penalty * torch.relu(ref_w - pi_w)
    return Preference(-F.logsigmoid(h), r_w.detach(), r_l.detach())


def label_margin(fp_w: Tensor, fp_l: Tensor, q_w: Tensor, q_l: Tensor) -> LabelMargin:
    """delta = [fp_w - fp_l] + [q_l - q_w]: with target pi_fp and reference pi_q, r_w - r_l = beta delta.

    Each bracket is >= 0 if y_w is pi_fp's most likely answer and y_l is pi_q's; re-derived, the paper's wording not
    seen.
    """
    fp, q = fp_w - fp_l, q_l - q_w
    return LabelMargin(fp, q, fp + q)


def target_loss(delta: Tensor, *, beta: float) -> Tensor:
    """L* = mean -log sigma(beta delta): the loss of pi_fp itself against reference pi_q; below it training overshoots.

    Against reference pi_fp the same model has h = 0, that is delta = 0 and L* = log 2.
    """
    return -F.logsigmoid(beta * delta).mean()
