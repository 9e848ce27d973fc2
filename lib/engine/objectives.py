"""What `training.fit` minimises: a loss over packed rows, for preference pairs, single answers, and a teacher's logits.

Each builder returns `loss(indices) -> (sum over those examples, {name: sum})`, differentiable in the compute weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib.data import Pair
from lib.engine.head import head_of
from lib.engine.logprobs import check_finite, hidden_states, mean_logprob, pack, sum_logprob, token_kl, token_logprobs
from lib.engine.rows import check_rows
from lib.losses import Preference, token_scale

Objective = Callable[[Sequence[int]], tuple[Tensor, dict[str, float]]]


def preference(model, pairs: Sequence[Pair], loss: Callable[..., Preference], **columns: Tensor) -> Objective:
    """`loss(pi_w, pi_l, **columns)` of summed log-probs (B,); each column (N,) is indexed along with the pairs.

    For QDPO: loss = partial(losses.dpo, beta=...), columns ref_w and ref_l, arXiv 2407.03051 (Sec. not seen).
    """
    check_rows(model, *zip(*((p.prompt, p.chosen, p.rejected) for p in pairs)))
    head = head_of(model)

    def objective(indices):
        packed = pack([(pairs[i].prompt, (pairs[i].chosen, pairs[i].rejected)) for i in indices]).to(model.device)
        tokens = token_logprobs(hidden_states(model, packed), head, packed.target)
        w, l = check_finite(sum_logprob(tokens, packed.branch, packed.branches).view(-1, 2), indices).unbind(1)
        out = loss(w, l, **{name: c[list(indices)].to(w.device) for name, c in columns.items()})
        logged = {
            "chosen logprob": w.sum().item(),
            "rejected logprob": l.sum().item(),
            "margin": (out.chosen - out.rejected).sum().item(),
            "reward accuracy": (out.chosen > out.rejected).float().sum().item(),
        }
        return out.loss.sum(), logged

    return objective


def supervised(model, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Objective:
    """Cross-entropy on the answer, mean over its tokens."""
    check_rows(model, prompts, answers)
    head = head_of(model)

    def objective(indices):
        packed = pack([(prompts[i], (answers[i],)) for i in indices]).to(model.device)
        tokens = token_logprobs(hidden_states(model, packed), head, packed.target)
        return -mean_logprob(tokens, packed.branch, packed.branches).sum(), {}

    return objective


def together(*parts: tuple[float, Objective]) -> Objective:
    """sum of weight * loss over (weight, objective) of the same rows; what each logs is kept, the last of a name."""

    def objective(indices):
        total, logged = 0.0, {}
        for weight, part in parts:
            loss, found = part(indices)
            total, logged = total + weight * loss, logged | found
        return total, logged

    return objective


@torch.inference_mode()
def teacher_states(
    model, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, batch: int
) -> list[Tensor]:
    """Final hidden states (T, D) of the teacher on each answer: the teacher's logits are one product with the head
    away."""
    check_rows(model, prompts, answers)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(answers[i]))
    out: list[Tensor] = [torch.empty(0)] * len(prompts)
    for i in range(0, len(order), batch):
        rows = order[i : i + batch]
        packed = pack([(prompts[r], (answers[r],)) for r in rows]).to(model.device)
        for r, h in zip(rows, hidden_states(model, packed).split([len(answers[r]) for r in rows])):
            out[r] = h.clone()
    return out


def distillation(
    model,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    teacher: Sequence[Tensor],
    *,
    tau: float | None,
) -> Objective:
    """KL(p_T || p_S) on the teacher's own answers. tau None: mean over the tokens (logit distillation); a number:
    TSLD's weights, softmax over the answer of the teacher's cross-entropy / tau (tau 10 in its release)."""
    check_rows(model, prompts, answers)
    head = head_of(model)

    def objective(indices):
        packed = pack([(prompts[i], (answers[i],)) for i in indices]).to(model.device)
        target = torch.cat([teacher[i] for i in indices]).to(model.device)
        kl = token_kl(hidden_states(model, packed), target, head)
        if tau is None:
            loss = mean_logprob(kl, packed.branch, packed.branches).sum()
        else:
            nll = -token_logprobs(target, head, packed.target)
            loss = (token_scale(nll, packed.branch, tau=tau) * kl).sum()
        return loss, {"kl": mean_logprob(kl.detach(), packed.branch, packed.branches).sum().item()}

    return objective
