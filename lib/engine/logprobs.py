"""Log-probabilities of completions: one forward for a prompt and all its branches, head only where it counts.

Axes: B rows, L row length, M scored tokens of the whole batch, D hidden size, V vocabulary.

A *row* is one prompt followed by its branches (chosen and rejected, or a single completion). The prompt runs once;
every branch restarts its positions right after the prompt and cannot see the other branches, so the numbers are those
of separate sequences. The LM head runs only on the M positions that predict a completion token, in chunks, with the
log-softmax in float32; nothing of size (B, L, V) ever exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.engine import attention
from lib.engine.cuts import Cut, cut
from lib.engine.head import Head, as_head

CHUNK = 256  # head positions at a time: their logits over a vocabulary of 49k are 25 MB in bfloat16
BLOCK = 8  # so many of them are widened to float32 together on a CPU: 1.6 MB stay in its cache between passes
TIE = 1e-12  # float64 logits that near, as a share of the row's largest, are equal: rounding decides no tie


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
    cut: Cut | None = None  # the rows in parts that attend apart, where that is less work

    def to(self, device) -> Packed:
        moved: Any = (x.to(device) if isinstance(x, (Tensor, Cut)) else x for x in self)
        return Packed(*moved)


def pack(rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> Packed:
    """Lay out (prompt ids, [branch ids, ...]) rows, right-padded; the padding is never attended to by a real token.

    Raises ValueError for an empty prompt or an empty branch (it would have no log-probability).
    """
    length = max(len(p) + sum(map(len, bs)) for p, bs in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, -1)  # -1 padding, 0 prompt, 1.. branches
    row, source, target, branch = [], [], [], []
    heads, tails = [], []  # prompts, which see themselves, and branches, which see their prompt too
    n = 0
    for r, (prompt, branches) in enumerate(rows):
        if not len(prompt) or not all(len(b) for b in branches):
            raise ValueError(f"row {r} has an empty prompt or an empty completion; drop such rows before packing")
        p = len(prompt)
        ids[r, :p], positions[r, :p], segment[r, :p] = torch.as_tensor(prompt), torch.arange(p), 0
        start, shared = p, list(range(r * length, r * length + p))
        heads.append((shared, shared))
        for k, b in enumerate(branches, 1):
            stop = start + len(b)
            ids[r, start:stop] = torch.as_tensor(b)
            positions[r, start:stop] = torch.arange(p, p + len(b))
            segment[r, start:stop] = k
            row += [r] * len(b)
            source += [p - 1, *range(start, stop - 1)]  # the first token is predicted by the prompt's last position
            target += list(b)
            branch += [n] * len(b)
            own = list(range(r * length + start, r * length + stop))
            tails.append((own, shared + own))
            n, start = n + 1, stop
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    mask = (causal & same)[:, None]
    as_long = lambda x: torch.tensor(x, dtype=torch.long)  # noqa: E731
    told: list[Any] = [as_long(x) for x in (row, source, target, branch)]
    told += [n, cut([heads, tails], len(rows), length)]
    return Packed(ids, positions, mask, *told)


def forward(model, packed: Packed, embeds: Tensor | None = None) -> Tensor:
    """Final hidden states (B, L, D) of every position of packed rows, in one forward.

    A model with our attention makes its own masks (windows and chunks included) and asks for the packing; any other
    gets the packed mask as it is.
    """
    position = packed.position_ids
    with attention.layout(packed.attention_mask, position, position, model=model, cut=packed.cut) as mask:
        out = model.base_model(
            input_ids=packed.input_ids if embeds is None else None,
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=position,
            use_cache=False,
        )
    return out.last_hidden_state


def hidden_states(model, packed: Packed, embeds: Tensor | None = None) -> Tensor:
    """Final hidden states (M, D) that predict the scored tokens; `model` is any causal LM with a `base_model`.

    embeds (B, L, D): what the model reads in place of the rows' token embeddings (`lib.engine.trunk`).
    A model whose branches cannot share a prompt (`lib.engine.architecture`) reads each branch in a row of its own.

    Rows were checked when the batch was planned (`rows.check_rows`): a look at every batch would stall a GPU.
    """
    if attention.shares_prompt(model):
        return forward(model, packed, embeds)[packed.row, packed.source]
    if embeds is not None:
        raise ValueError(
            f"{attention.name_of(model)} cannot share a prompt, so that it cannot go on from a trunk's states"
        )
    ids, row, source = unpack(packed)
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state[row, source]


def unpack(packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Each branch in a row of its own, right-padded: (ids (branches, L), row (M,), source (M,)), scored tokens in the
    order they had. A branch's row is what its last scored position sees."""
    seen = packed.attention_mask[:, 0]
    last = torch.zeros(packed.branches, dtype=torch.long, device=packed.row.device)
    last = last.scatter_reduce(0, packed.branch, packed.source, "amax")
    row = torch.zeros_like(last).scatter(0, packed.branch, packed.row)
    own = seen[row, last]  # (branches, L)
    rows = [packed.input_ids[r][o] for r, o in zip(row.tolist(), own)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    place = own.long().cumsum(-1) - 1
    return ids, packed.branch, place[packed.branch, packed.source]


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


class _HeadLogprobs(torch.autograd.Function):
    """The same for a head that does more than multiply (`Head.pull`), a chunk at a time."""

    @staticmethod
    def forward(ctx, hidden, head, target, chunk):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(len(target), dtype=wide, device=hidden.device)
        jacobian = torch.empty_like(hidden) if hidden.requires_grad else None
        for i in range(0, len(target), chunk):
            s = slice(i, i + chunk)
            logits, which = head.logits(hidden[s]), target[s, None]
            log_p = logits.log_softmax(-1)
            out[s] = log_p.gather(-1, which)[:, 0]
            if jacobian is not None:
                grad = log_p.exp_().neg_()
                grad.scatter_add_(-1, which, torch.ones_like(which, dtype=grad.dtype))
                jacobian[s] = head.pull(grad, logits)
        ctx.save_for_backward(jacobian)
        return out

    @staticmethod
    def backward(ctx, grad):
        (jacobian,) = ctx.saved_tensors
        return (grad[:, None] * jacobian.to(grad.dtype)).to(jacobian.dtype), None, None, None


def token_logprobs(hidden: Tensor, head: Tensor | Head, target: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """log p(target | context) of each token, (M,) nats, at least float32, from hidden states (M, D) and the head: its
    weight (V, D), or a `Head`."""
    head = as_head(head)
    if not head.learns:
        return (
            _TokenLogprobs.apply(hidden, head.weight, target, chunk)
            if head.plain
            else _HeadLogprobs.apply(hidden, head, target, chunk)
        )
    logits = head.logits(hidden).to(torch.promote_types(hidden.dtype, torch.float32))
    return -torch.nn.functional.cross_entropy(logits, target, reduction="none")


def first_largest(logits: Tensor) -> Tensor:
    """The first index (B,) of the largest value of each row (B, V).

    In float64, where formulas are checked, values within rounding (`TIE`) of the largest are equal to it, so that no
    order of summation decides; in the dtypes of models the largest is taken as it is.
    """
    if logits.dtype != torch.float64:
        return logits.to(torch.float32).argmax(-1)  # a bfloat16 argmax is slower than the cast
    top = logits.amax(-1, keepdim=True)
    return (logits >= top - TIE * logits.abs().amax(-1, keepdim=True)).int().argmax(-1)


def greedy_tokens(hidden: Tensor, head: Tensor | Head, *, chunk: int = CHUNK) -> Tensor:
    """The likeliest token after each of M positions, (M,) ids, from hidden states (M, D) and the head (its weight
    (V, D), or a `Head`); of equally likely ones the first (`first_largest`), as in greedy decoding."""
    head, block = as_head(head), BLOCK if hidden.device.type == "cpu" else chunk
    out = torch.empty(len(hidden), dtype=torch.long, device=hidden.device)
    for i in range(0, len(hidden), chunk):
        for at, rows in zip(range(i, len(hidden), block), head.logits(hidden[i : i + chunk]).split(block)):
            out[at : at + len(rows)] = first_largest(rows)
    return out


class _TokenKL(torch.autograd.Function):
    """KL(p_teacher || p_student) per token from hidden states and one shared frozen head; d/dz_S = p_S - p_T."""

    @staticmethod
    def forward(ctx, student, teacher, head, chunk):
        wide = torch.promote_types(student.dtype, torch.float32)
        out = torch.empty(len(student), dtype=wide, device=student.device)
        jacobian = torch.empty_like(student) if student.requires_grad else None
        for i in range(0, len(student), chunk):
            s = slice(i, i + chunk)
            log_t = head.logits(teacher[s]).to(wide).log_softmax(-1)
            logits = head.logits(student[s])
            log_s = logits.to(wide).log_softmax(-1)
            p_t = log_t.exp()
            out[s] = (p_t * (log_t - log_s)).sum(-1)
            if jacobian is not None:
                jacobian[s] = head.pull(log_s.exp_().sub_(p_t), logits)
        ctx.save_for_backward(jacobian)
        return out

    @staticmethod
    def backward(ctx, grad):
        (jacobian,) = ctx.saved_tensors
        return (grad[:, None] * jacobian.to(grad.dtype)).to(jacobian.dtype), None, None, None


def token_kl(student: Tensor, teacher: Tensor, head: Tensor | Head, *, chunk: int = CHUNK) -> Tensor:
    """KL(p_T || p_S) of each token's next-token distribution, (M,) nats, at least float32.

    Hidden states (M, D) of student and teacher, which share the frozen head (its weight (V, D), or a `Head`): true
    here because only the linears inside the blocks are quantized. Same gradient as the soft-target cross-entropy of
    logit distillation.
    """
    return _TokenKL.apply(student, teacher, as_head(head), chunk)


def sum_logprob(tokens: Tensor, branch: Tensor, branches: int) -> Tensor:
    """Summed log-probability of each branch, (branches,): log pi(y|x) = sum_t log pi(y_t | x, y_<t). EOS counts."""
    return tokens.new_zeros(branches).index_add(0, branch, tokens)


def mean_logprob(tokens: Tensor, branch: Tensor, branches: int) -> Tensor:
    """Log-probability per token of each branch, (branches,)."""
    return sum_logprob(tokens, branch, branches) / torch.bincount(branch, minlength=branches)
