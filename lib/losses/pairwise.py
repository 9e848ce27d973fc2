"""Pairwise losses other than DPO against a reference: what TRL's DPOTrainer offers, IPO in both conventions, MinorDPO.

All take summed log-probs (B,) of policy and reference. u_w = pi_w - ref_w, u_l = pi_l - ref_l, d = u_w - u_l; implicit
rewards are beta u. Sources: the paper named in each line; formulas as in TRL 1.16, against which a test holds them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.losses.dpo import Preference


def _preference(loss: Tensor, r_w: Tensor, r_l: Tensor) -> Preference:
    return Preference(loss, r_w.detach(), r_l.detach())


def _rewards(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    return beta * (pi_w - ref_w), beta * (pi_l - ref_l)


def robust(
    pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, label_smoothing: float
) -> Preference:
    """[-(1-e) log sigma(beta d) + e log sigma(-beta d)] / (1 - 2e), 0 <= e < 1/2: unbiased under flipped labels. arXiv
    2403.00409."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"robust DPO takes a flip rate in [0, 0.5), given {label_smoothing}")
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    clean, flipped = F.logsigmoid(r_w - r_l), F.logsigmoid(r_l - r_w)
    return _preference(
        ((label_smoothing - 1) * clean + label_smoothing * flipped) / (1 - 2 * label_smoothing), r_w, r_l
    )


def hinge(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Preference:
    """max(0, 1 - beta d). SLiC arXiv 2305.10425, RSO arXiv 2309.06657."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(torch.relu(1 - (r_w - r_l)), r_w, r_l)


def ipo_sum(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Preference:
    """(d - 1 / (2 beta))^2 of summed log-probs: eq. 17 of arXiv 2310.12036 as printed; the original DPO repository's
    convention."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(((r_w - r_l) / beta - 1 / (2 * beta)) ** 2, r_w, r_l)


def ipo_mean(
    pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, length_w: Tensor, length_l: Tensor
) -> Preference:
    """(u_w / |y_w| - u_l / |y_l| - 1 / (2 beta))^2: the per-token convention of TRL's DPOTrainer."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    gap = (pi_w - ref_w) / length_w - (pi_l - ref_l) / length_l
    return _preference((gap - 1 / (2 * beta)) ** 2, r_w, r_l)


def exo(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, label_smoothing: float) -> Preference:
    """q log(q / (1-e)) + (1-q) log((1-q) / e), q = sigma(beta d), e > 0: reverse KL to smoothed labels. Eq. 16, arXiv
    2402.00856."""
    if not 0 < label_smoothing < 1:
        raise ValueError(f"EXO takes a label smoothing in (0, 1), given {label_smoothing}")
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    log_q, log_not = F.logsigmoid(r_w - r_l), F.logsigmoid(r_l - r_w)
    loss = log_q.exp() * (log_q - math.log1p(-label_smoothing)) + log_not.exp() * (log_not - math.log(label_smoothing))
    return _preference(loss, r_w, r_l)


def nca(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Preference:
    """-log sigma(beta u_w) - log sigma(-beta u_w) / 2 - log sigma(-beta u_l) / 2. arXiv 2402.05369."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(-F.logsigmoid(r_w) - 0.5 * F.logsigmoid(-r_w) - 0.5 * F.logsigmoid(-r_l), r_w, r_l)


def bco(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, shift: float | Tensor) -> Preference:
    """-log sigma(beta u_w - shift) - log sigma(-(beta u_l - shift)). arXiv 2404.04656, where shift is a running mean of
    the rewards; TRL today: 0."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(-F.logsigmoid(r_w - shift) - F.logsigmoid(shift - r_l), r_w, r_l)


def sppo_hard(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Preference:
    """(u_w - 1 / (2 beta))^2 + (u_l + 1 / (2 beta))^2. Eq. 4.7 of arXiv 2405.00675 with a certain winner."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference((pi_w - ref_w - 0.5 / beta) ** 2 + (pi_l - ref_l + 0.5 / beta) ** 2, r_w, r_l)


def apo_zero(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Preference:
    """1 - sigma(beta u_w) + sigma(beta u_l): chosen answers better than the policy's own. Eq. 7, arXiv 2408.06266."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(1 - r_w.sigmoid() + r_l.sigmoid(), r_w, r_l)


def apo_down(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Preference:
    """sigma(beta u_w) + 1 - sigma(beta d): chosen answers worse than the policy's own, so both are pushed down. Eq. 8,
    arXiv 2408.06266."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(r_w.sigmoid() + 1 - (r_w - r_l).sigmoid(), r_w, r_l)


def _smoothed(x: Tensor, label_smoothing: float) -> Tensor:
    return -(1 - label_smoothing) * F.logsigmoid(x) - label_smoothing * F.logsigmoid(-x)


def aot(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, label_smoothing: float) -> Preference:
    """-log sigma(beta [sort(pi_w - pi_l) - sort(ref_w - ref_l)]), sorted over the batch. arXiv 2406.05882, paired.

    Not a function of one pair: do not split such a batch into micro-batches.
    """
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(
        _smoothed(beta * ((pi_w - pi_l).sort().values - (ref_w - ref_l).sort().values), label_smoothing), r_w, r_l
    )


def aot_unpaired(
    pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, label_smoothing: float
) -> Preference:
    """-log sigma(beta [sort(u_w) - sort(u_l)]), sorted over the batch. arXiv 2406.05882, unpaired. Not to be split
    either."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(_smoothed(r_w.sort().values - r_l.sort().values, label_smoothing), r_w, r_l)


def discopop(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, tau: float) -> Preference:
    """(1-m) [-log sigma(beta d)] + m exp(-beta d), m = sigma(beta d / tau). Eq. 5, arXiv 2406.08414."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    x = r_w - r_l
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    logistic, exponential = (-y / tau).sigmoid() * -F.logsigmoid(y), (F.logsigmoid(y / tau) - y).exp()  # no 0 * inf
    return _preference(logistic + exponential, r_w, r_l)


def sigmoid_norm(
    pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, length_w: Tensor, length_l: Tensor
) -> Preference:
    """-log sigma(beta [u_w / |y_w| - u_l / |y_l|]): DPO of log-ratios per token (TRL's name)."""
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(-F.logsigmoid(r_w / length_w - r_l / length_l), r_w, r_l)


def minor_dpo(pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Preference:
    """-log sigma(beta u_w - beta max(0, u_l)): the rejected answer is pushed only while it is likelier than under the
    reference.

    arXiv 2408.09834; the formula is from memory and consistent with the summaries that could be read.
    """
    r_w, r_l = _rewards(pi_w, pi_l, ref_w, ref_l, beta)
    return _preference(-F.logsigmoid(r_w - torch.relu(r_l)), r_w, r_l)


def capped_exp(x: Tensor) -> Tensor:
    """e^x in at least float32, of x no larger than half the exponent that overflows: products with it stay finite."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.clamp(max=math.log(torch.finfo(x.dtype).max) / 2).exp()


def f_score(log_ratio: Tensor, kind: str, *, alpha: float | None = None) -> Tensor:
    """f'(pi / ref) of an f-divergence from u = log(pi / ref), up to a constant that cancels in a pair.

    reverse_kl: u; forward_kl: -exp(-u); js: log sigma(u); alpha: exp((alpha-1) u) / (alpha-1). arXiv 2309.16240.
    Exponentials are capped (`capped_exp`): beyond some 44 nats a score stays where it is and has no gradient.
    """
    if kind == "reverse_kl":
        return log_ratio
    if kind == "forward_kl":
        return -capped_exp(-log_ratio)
    if kind == "js":
        return F.logsigmoid(log_ratio)
    if kind == "alpha" and alpha is not None:
        return log_ratio if alpha == 1 else capped_exp((alpha - 1) * log_ratio) / (alpha - 1)
    raise ValueError(
        f"an f-divergence is one of reverse_kl, forward_kl, js, alpha (which needs alpha), given {kind!r} and {alpha}"
    )


def f_dpo(
    pi_w: Tensor, pi_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, kind: str, alpha: float | None = None
) -> Preference:
    """-log sigma(beta [f'(pi_w/ref_w) - f'(pi_l/ref_l)]). arXiv 2309.16240; reverse_kl is DPO."""
    r_w, r_l = (beta * f_score(x, kind, alpha=alpha) for x in (pi_w - ref_w, pi_l - ref_l))
    return _preference(-F.logsigmoid(r_w - r_l), r_w, r_l)
