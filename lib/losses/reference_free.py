"""Pairwise losses without a reference model. `chosen` and `rejected` are the scaled scores that the loss compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.losses.dpo import Preference


def simpo(pi_w: Tensor, pi_l: Tensor, *, beta: float, gamma: float, length_w: Tensor, length_l: Tensor) -> Preference:
    """-log sigma(beta [pi_w / |y_w| - pi_l / |y_l|] - gamma); pi summed (B,), gamma a target margin. arXiv
    2405.14734."""
    r_w, r_l = beta * pi_w / length_w, beta * pi_l / length_l
    return Preference(-F.logsigmoid(r_w - r_l - gamma), r_w.detach(), r_l.detach())


def cpo(pi_w: Tensor, pi_l: Tensor, *, beta: float, nll_weight: float, length_w: Tensor) -> Preference:
    """-log sigma(beta (pi_w - pi_l)) - nll_weight pi_w / |y_w|. Eq. 3, arXiv 2401.08417 (TRL weighs the NLL by the
    batch's tokens)."""
    r_w, r_l = beta * pi_w, beta * pi_l
    return Preference(-F.logsigmoid(r_w - r_l) - nll_weight * pi_w / length_w, r_w.detach(), r_l.detach())


def orpo(pi_w: Tensor, pi_l: Tensor, *, beta: float, length_w: Tensor, length_l: Tensor) -> Preference:
    """-a_w - beta log sigma(o), o = log[odds(a_w) / odds(a_l)], a = pi / |y| per token, odds = e^a / (1 - e^a). Eqs.
    4-7, arXiv 2403.07691."""
    a_w, a_l = pi_w / length_w, pi_l / length_l
    log_odds = (a_w - a_l) - (_log1mexp(a_w) - _log1mexp(a_l))
    return Preference(-a_w - beta * F.logsigmoid(log_odds), (beta * a_w).detach(), (beta * a_l).detach())


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x <= 0, without cancellation near 0; at 0, where it has no value, that of the nearest number.

    Each branch sees its own side alone: the gradient of the one not taken would be infinite, and 0 times that is NaN.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    near, far = x.clamp(-0.693, -torch.finfo(torch.float32).tiny), x.clamp(max=-0.693)
    return torch.where(x > -0.693, torch.log(-torch.expm1(near)), torch.log1p(-far.exp()))
