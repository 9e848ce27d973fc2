"""KTO: answers are good or bad one at a time; arXiv 2402.01306."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.losses.dpo import Preference


def kto(log_ratio: Tensor, good: Tensor, *, beta: float, kl: Tensor, weight_good: float, weight_bad: float) -> Tensor:
    """w_D [1 - sigma(beta (u - z))] for a good answer, w_U [1 - sigma(beta (z - u))] for a bad one, (B,). Eq. 8.

    log_ratio: u = log pi - log ref (B,); good (B,) bool; kl: mean u on mismatched prompts and answers, z = max(0, kl),
    detached.
    """
    z = kl.detach().clamp(min=0)
    return torch.where(
        good,
        weight_good * (1 - (beta * (log_ratio - z)).sigmoid()),
        weight_bad * (1 - (beta * (z - log_ratio)).sigmoid()),
    )


def kto_pair(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Preference:
    """[1 - sigma(beta (u_w - z_l)) + 1 - sigma(beta (z_w - u_l))] / 2, z = max(0, batch mean of u) of the other half.

    What TRL called kto_pair until 0.8 (there the two halves are separate rows, whose mean this is). Not to be split
    into micro-batches.
    """
    u_w, u_l = pi_w - ref_w, pi_l - ref_l
    z_w, z_l = (u.mean().clamp(min=0).detach() for u in (u_w, u_l))
    loss = (1 - (beta * (u_w - z_l)).sigmoid() + 1 - (beta * (z_w - u_l)).sigmoid()) / 2
    return Preference(loss, (beta * u_w).detach(), (beta * u_l).detach())
