"""Losses on a teacher's next-token distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def distill(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p_T || p_S) per token (N,), from logits (N, V), in at least float32.

    Differs from the soft-target cross-entropy of logit distillation (LLM-QAT, TSLD release) by the teacher's entropy,
    which has no gradient. A token the teacher forbids (logit -inf) adds 0; one that only the student forbids makes the
    KL infinite. `logprobs.token_kl` is the same without materialising all logits.
    """
    s, t = (x.to(torch.promote_types(x.dtype, torch.float32)).log_softmax(-1) for x in (student, teacher))
    return (t.exp() * (t - s).masked_fill(t == -torch.inf, 0.0)).sum(-1)


def token_scale(teacher_nll: Tensor, row: Tensor, *, tau: float) -> Tensor:
    """a_t = softmax over the tokens of a row of (teacher's cross-entropy on the true token / tau), (N,), detached.

    Token-scaled logit distillation (TSLD release): L = sum_t a_t CE_t; the weights of each row sum to 1. row (N,)
    numbers the answers from 0.
    """
    x = teacher_nll.detach() / tau
    rows = int(row.max()) + 1
    top = x.new_full((rows,), -torch.inf).scatter_reduce(0, row, x, "amax")
    e = (x - top[row]).exp()
    return e / e.new_zeros(rows).index_add(0, row, e)[row]
