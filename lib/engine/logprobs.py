"""Log-probabilities of completions: one forward for a prompt and all its branches, head only where it counts.

Axes: B rows, L row length, M scored tokens of the whole batch, D hidden size, V vocabulary.

A *row* is one prompt followed by its branches (chosen and rejected, or a single completion). The prompt runs once;
every branch restarts its positions right after the prompt and cannot see the other branches, so the numbers are those
of separate sequences. The LM head runs only on the M positions that predict a completion token, in chunks, with the
log-softmax in float32; nothing of size (B, L, V) ever exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 256  # head positions at a time: their logits over a vocabulary of 49k are 25 MB in bfloat16
BLOCK = (
    8  # of which so many are widened to float32 together on a CPU: 1.6 MB stay in its cache from one pass to the next
)


class Packed(NamedTuple):
    """A batch of rows; `branch` numbers the branches of the batch in order (row 0's first)."""

    input_ids: Tensor  # (B, L)
    position_ids: Tensor  # (B, L)
    attention_mask: Tensor  # (B, 1, L, L) bool, True where attention is allowed
    row: Tensor  # (M,) row of each scored token
    source: Tensor  # (M,) position whose hidden state predicts it
    target: Tensor  # (M,) the token id
    branch: Tensor  # (M,) branch it belongs to
    branches: int  # number of branches in the batch

    def to(self, device) -> Packed:
        return Packed(*(x.to(device) if isinstance(x, Tensor) else x for x in self))


def pack(rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> Packed:
    """Lay out (prompt ids, [branch ids, ...]) rows, right-padded; the padding is never attended to by a real token.

    Raises ValueError for an empty prompt or an empty branch (it would have no log-probability).
    """
    length = max(len(p) + sum(map(len, bs)) for p, bs in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, -1)  # -1 padding, 0 prompt, 1.. branches
    row, source, target, branch = [], [], [], []
    n = 0
    for r, (prompt, branches) in enumerate(rows):
        if not len(prompt) or not all(len(b) for b in branches):
            raise ValueError(f"row {r} has an empty prompt or an empty completion; drop such rows before packing")
        p = len(prompt)
        ids[r, :p], positions[r, :p], segment[r, :p] = torch.as_tensor(prompt), torch.arange(p), 0
        start = p
        for k, b in enumerate(branches, 1):
            stop = start + len(b)
            ids[r, start:stop] = torch.as_tensor(b)
            positions[r, start:stop] = torch.arange(p, p + len(b))
            segment[r, start:stop] = k
            row += [r] * len(b)
            source += [p - 1, *range(start, stop - 1)]  # the first token is predicted by the prompt's last position
            target += list(b)
            branch += [n] * len(b)
            n, start = n + 1, stop
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    mask = (causal & same)[:, None]
    as_long = lambda x: torch.tensor(x, dtype=torch.long)  # noqa: E731
    return Packed(ids, positions, mask, as_long(row), as_long(source), as_long(target), as_long(branch), n)


def hidden_states(model, packed: Packed, embeds: Tensor | None = None) -> Tensor:
    """Final hidden states (M, D) that predict the scored tokens; `model` is any causal LM with a `base_model`.

    embeds (B, L, D): what the model reads in place of the rows' token embeddings (`lib.engine.trunk`).

    Rows were checked when the batch was planned (`models.check_rows`): a look at every batch would stall a GPU.
    """
    out = model.base_model(
        input_ids=packed.input_ids if embeds is None else None,
        inputs_embeds=embeds,
        attention_mask=packed.attention_mask,
        position_ids=packed.position_ids,
        use_cache=False,
    )
    return out.last_hidden_state[packed.row, packed.source]


def check_finite(values: Tensor, rows: Sequence) -> Tensor:
    """`values` (N, ...) as given; FloatingPointError naming the rows whose log-probabilities are not finite."""
    good = torch.isfinite(values.detach()).view(len(values), -1).all(1)
    if not good.all():
        bad = [r for r, g in zip(rows, good.tolist()) if not g]
        raise FloatingPointError(
            f"the log-probabilities of rows {bad[:8]} are not finite: the model's weights or logits are broken"
        )
    return values


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(h W^T)[target] for a frozen head W. The gradient with respect to h is g (W[target] - p W), and p W
    is formed in the forward while the chunk's p is at hand, so the backward needs neither logits nor a second pass."""

    @staticmethod
    def forward(ctx, hidden, weight, target, chunk):
        wide = torch.promote_types(hidden.dtype, torch.float32)  # float64 stays, so that formulas can be checked
        out = torch.empty(len(target), dtype=wide, device=hidden.device)
        jacobian = torch.empty_like(hidden) if hidden.requires_grad else None
        block = BLOCK if hidden.device.type == "cpu" else chunk
        for i in range(0, len(target), chunk):
            s = slice(i, i + chunk)
            logits, totals = hidden[s] @ weight.T, []
            for at, rows, which in zip(range(i, len(target), block), logits.split(block), target[s].split(block)):
                wider = rows.to(wide, copy=True)
                picked, top = wider.gather(-1, which[:, None]), wider.amax(-1, keepdim=True)
                e = wider.sub_(top).exp_()
                totals.append(e.sum(-1, keepdim=True))
                out[at : at + len(rows)] = (picked - top - totals[-1].log())[:, 0]
                if jacobian is not None:
                    rows.copy_(e)  # what the norm needed serves p too
            if jacobian is not None:
                jacobian[s] = weight[target[s]] - (logits @ weight) / torch.cat(totals)
        ctx.save_for_backward(jacobian)
        return out

    @staticmethod
    def backward(ctx, grad):
        (jacobian,) = ctx.saved_tensors
        return (grad[:, None] * jacobian.to(grad.dtype)).to(jacobian.dtype), None, None, None


def token_logprobs(hidden: Tensor, weight: Tensor, target: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """log p(target | context) of each token, (M,) nats, at least float32, from hidden states (M, D) and the head weight
    (V, D)."""
    if not weight.requires_grad:
        return _TokenLogprobs.apply(hidden, weight, target, chunk)
    logits = (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32))
    return -torch.nn.functional.cross_entropy(logits, target, reduction="none")


def greedy_tokens(hidden: Tensor, weight: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """The likeliest token after each of M positions, (M,) ids, from hidden states (M, D) and the head weight (V, D); of
    equally likely ones the first, as in greedy decoding."""
    block = BLOCK if hidden.device.type == "cpu" else chunk
    out = torch.empty(len(hidden), dtype=torch.long, device=hidden.device)
    for i in range(0, len(hidden), chunk):
        for at, rows in zip(range(i, len(hidden), block), (hidden[i : i + chunk] @ weight.T).split(block)):
            out[at : at + len(rows)] = rows.to(torch.promote_types(rows.dtype, torch.float32)).argmax(
                -1
            )  # a bfloat16 argmax is slower than the cast
    return out


class _TokenKL(torch.autograd.Function):
    """KL(p_teacher || p_student) per token from hidden states and one shared frozen head; d/dh_S = (p_S - p_T) W."""

    @staticmethod
    def forward(ctx, student, teacher, weight, chunk):
        wide = torch.promote_types(student.dtype, torch.float32)
        out = torch.empty(len(student), dtype=wide, device=student.device)
        jacobian = torch.empty_like(student) if student.requires_grad else None
        for i in range(0, len(student), chunk):
            s = slice(i, i + chunk)
            log_t = (teacher[s] @ weight.T).to(wide).log_softmax(-1)
            log_s = (student[s] @ weight.T).to(wide).log_softmax(-1)
            p_t = log_t.exp()
            out[s] = (p_t * (log_t - log_s)).sum(-1)
            if jacobian is not None:
                jacobian[s] = log_s.exp_().sub_(p_t).to(weight.dtype) @ weight
        ctx.save_for_backward(jacobian)
        return out

    @staticmethod
    def backward(ctx, grad):
        (jacobian,) = ctx.saved_tensors
        return (grad[:, None] * jacobian.to(grad.dtype)).to(jacobian.dtype), None, None, None


def token_kl(student: Tensor, teacher: Tensor, weight: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """KL(p_T || p_S) of each token's next-token distribution, (M,) nats, at least float32.

    Hidden states (M, D) of student and teacher, which share the frozen head `weight` (V, D): true here because only
    the linears inside the blocks are quantized. Same gradient as the soft-target cross-entropy of logit distillation.
    """
    return _TokenKL.apply(student, teacher, weight, chunk)


def sum_logprob(tokens: Tensor, branch: Tensor, branches: int) -> Tensor:
    """Summed log-probability of each branch, (branches,): log pi(y|x) = sum_t log pi(y_t | x, y_<t). EOS counts."""
    return tokens.new_zeros(branches).index_add(0, branch, tokens)


def mean_logprob(tokens: Tensor, branch: Tensor, branches: int) -> Tensor:
    """Log-probability per token of each branch, (branches,)."""
    return sum_logprob(tokens, branch, branches) / torch.bincount(branch, minlength=branches)
