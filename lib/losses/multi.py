"""Losses with more than one objective: mixtures, and margins that other rewards contribute."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lib.losses.dpo import Preference, dpo
from lib.losses.pairwise import bco, capped_exp


def mixed(
    pi_w: Tensor,
    pi_l: Tensor,
    ref_w: Tensor,
    ref_l: Tensor,
    *,
    beta: float,
    weights: tuple[float, float, float],
    shift: float | Tensor,
    length_w: Tensor,
) -> Preference:
    """w_p DPO + w_q BCO + w_g (-pi_w / |y_w|). MPO, arXiv 2411.10442: weights 0.8, 0.2, 1; shift a running mean of the
    rewards."""
    p, q = dpo(pi_w, pi_l, ref_w, ref_l, beta=beta), bco(pi_w, pi_l, ref_w, ref_l, beta=beta, shift=shift)
    return p._replace(loss=weights[0] * p.loss + weights[1] * q.loss - weights[2] * pi_w / length_w)


def modpo(
    pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, weight: float, margin: Tensor
) -> Preference:
    """-log sigma([beta d - margin] / weight), margin (B,) = sum_j w_j [r_j(y_w) - r_j(y_l)] of the other objectives'
    frozen rewards.

    weight: w_0 of this preference. arXiv 2310.03708.
    """
    r_w, r_l = beta * (pi_w - ref_w), beta * (pi_l - ref_l)
    return Preference(-F.logsigmoid((r_w - r_l - margin) / weight), r_w.detach(), r_l.detach())


def spo(
    pi_w: Tensor,
    pi_l: Tensor,
    ref_w: Tensor,
    ref_l: Tensor,
    *,
    beta: float,
    earlier_w: Tensor,
    earlier_l: Tensor,
    multiplier: float,
) -> Preference:
    """Second round of sequential preference optimization: -log sigma(beta d - multiplier [earlier_w - earlier_l]).

    ref: the policy of round one; earlier (B,): its implicit rewards, beta_1 log(pi_1 / pi_0). Re-derived from the
    Lagrangian of arXiv 2405.12739; sign and scale of the multiplier are ours.
    """
    return modpo(pi_w, pi_l, ref_w, ref_l, beta=beta, weight=1.0, margin=multiplier * (earlier_w - earlier_l))


def hpo(
    pi_w: Tensor,
    pi_l: Tensor,
    ref_w: Tensor,
    ref_l: Tensor,
    *,
    beta: float,
    gamma: float,
    tau: float,
    advantage_w: Tensor,
    advantage_l: Tensor,
) -> Preference:
    """DPO - gamma mean over both answers of exp(A / tau) log pi: preference plus advantage-weighted likelihood.

    advantage (B,) of auxiliary rewards, given; their exponentials are capped (`pairwise.capped_exp`). arXiv 2405.17956;
    a working form after summaries, the paper's was not seen.
    """
    p = dpo(pi_w, pi_l, ref_w, ref_l, beta=beta)
    auxiliary = (capped_exp(advantage_w / tau) * pi_w + capped_exp(advantage_l / tau) * pi_l) / 2
    return p._replace(loss=p.loss - gamma * auxiliary)
