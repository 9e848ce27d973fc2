"""Token flipping: where a quantized model departs from its full-precision self, and what the departure costs.

A flip at step t: both models read the same prompt and the same full-precision answer up to t, and their most likely
next tokens differ. Everything teacher-forced is computed from final hidden states and the shared LM head, in chunks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib import data
from lib.engine import attention
from lib.engine.generation import left_pad
from lib.engine.head import Head, as_head, head_of
from lib.engine.logprobs import CHUNK, first_largest
from lib.engine.objectives import teacher_states
from lib.scoring import metrics

Ids = Sequence[Sequence[int]]
VARIANTS = {  # (whose cache of the context, which token comes next, who continues)
    "flip only": ("fp", "flipped", "fp"),
    "perturbed KV only": ("q", "kept", "fp"),
    "flip + perturbed KV": ("q", "flipped", "fp"),
    "full quantized decoding": ("q", "flipped", "q"),
}


class Forced(NamedTuple):
    """Teacher-forced comparison on M answer tokens."""

    row: Tensor  # (M,) which answer
    flip: Tensor  # (M,) bool
    kl: Tensor  # (M,) KL(FP || Q), nats
    margin: Tensor  # (M,) FP probability of its first choice minus its second
    logit_margin: Tensor  # (M,) the same in logits
    q_logprob: Tensor  # (M,) log-probability of the FP answer's token under Q

    def per_row(self, values: Tensor, rows: int) -> np.ndarray:
        """Sum over each answer's tokens, (rows,) float64."""
        return np.bincount(self.row.numpy(), weights=values.double().numpy(), minlength=rows)


@torch.inference_mode()
def teacher_forced(
    fp_states: Sequence[Tensor], q_states: Sequence[Tensor], answers: Ids, head: Tensor | Head
) -> Forced:
    """Compare two models' next-token distributions along the same answers; states as `objectives.teacher_states` gives
    them, head the weight (V, D) or the `Head` that both share."""
    head = as_head(head)
    row = torch.cat([torch.full((len(a),), i) for i, a in enumerate(answers)])
    target = torch.cat([torch.as_tensor(a) for a in answers])
    parts = []
    for i in range(0, len(row), CHUNK):
        s = slice(i, i + CHUNK)
        f, q = (head.logits(torch.cat(list(x))[s].to(head.device)).float() for x in (fp_states, q_states))
        prob, logit = metrics.margins(f)
        q_log = q.log_softmax(-1)
        flip = first_largest(f) != first_largest(q)
        q_lp = q_log.gather(-1, target[s, None].to(q.device))[:, 0]
        parts.append([x.cpu() for x in (flip, metrics.kl(f, q), prob, logit, q_lp)])
    return Forced(row, *(torch.cat(x) for x in zip(*parts)))


class Fidelity:
    """Measures models against full precision along its answers to fixed prompts: one object per run."""

    def __init__(self, fp, prompts: Ids, *, max_new_tokens: int, stop_ids: Sequence[int], batch: int, answers: Ids):
        self.prompts, self.answers = [list(p) for p in prompts], [list(a) for a in answers]
        self.generation: dict[str, Any] = dict(max_new_tokens=max_new_tokens, stop_ids=list(stop_ids), batch=batch)
        self.batch = batch
        self.head = head_of(fp)
        self.states = teacher_states(fp, self.prompts, self.answers, batch=batch)

    def forced(self, model) -> Forced:
        """Teacher-forced comparison of `model` with full precision on the full-precision answers."""
        states = teacher_states(model, self.prompts, self.answers, batch=self.batch)
        return teacher_forced(self.states, states, self.answers, self.head)

    def validation(self, model) -> dict[str, float]:
        """Pooled KL and flip rate: what the training curves show and checkpoints are chosen by."""
        f = self.forced(model)
        return {"kl": f.kl.mean().item(), "flip rate": f.flip.float().mean().item()}


def noise_floor(model, prompts: Ids, answers: Ids, *, batch: int, other_batch: int) -> dict[str, float]:
    """Flip rate and KL of full precision against itself at another batch size: what rounding alone does."""
    a, b = (teacher_states(model, prompts, answers, batch=n) for n in (batch, other_batch))
    forced = teacher_forced(a, b, answers, head_of(model))
    return {"flip rate": forced.flip.float().mean().item(), "kl": forced.kl.mean().item(), "tokens": len(forced.flip)}


class Context(NamedTuple):
    """Contexts as a model has read them, left-padded, for another to go on from."""

    cache: Any
    mask: Tensor  # (B, T)
    position: Tensor  # (B, 1): of the last token


@torch.inference_mode()
def read(model, contexts: Ids) -> Context:
    """Keys and values of each context under `model`. ValueError for a model that keeps more than these."""
    from transformers import DynamicCache

    if not attention.shares_prompt(model):
        raise ValueError(
            f"{attention.name_of(model)} keeps more than keys and values: no other model can go on from it"
        )
    ids, mask = left_pad(contexts, model.device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    model.base_model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
    return Context(cache, mask, position[:, -1:])


@torch.inference_mode()
def forced_from(context: Context, model, tokens: Tensor) -> Tensor:
    """Hidden states (B, T, D) of `model` that reads the tokens (B, T) after a context that any model of its shapes has
    read; the context stays as it is."""
    if not attention.shares_prompt(model):
        raise ValueError(f"{attention.name_of(model)} keeps more than keys and values: it cannot go on from another's")
    cache, mask, last = copy.deepcopy(context.cache), context.mask, context.position
    steps = torch.arange(1, tokens.shape[1] + 1, device=last.device)
    out = model.base_model(
        input_ids=tokens.to(last.device),
        attention_mask=torch.cat([mask, mask.new_ones(tokens.shape)], 1),
        position_ids=last + steps,
        past_key_values=cache,
        use_cache=True,
    )
    return out.last_hidden_state


@torch.inference_mode()
def decode_from(context: Context, model, first: Sequence[int], *, steps: int) -> tuple[Tensor, Tensor]:
    """Greedy tokens (B, steps) and the hidden states (B, steps, D) they came from: `model` reads `first` and goes on
    alone, whoever read the context."""
    head = head_of(model)
    cache, mask, position = copy.deepcopy(context.cache), context.mask, context.position
    token = torch.as_tensor(list(first), device=model.device)[:, None]
    tokens, states = [], []
    for _ in range(steps):
        mask, position = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), position + 1
        out = model.base_model(
            input_ids=token, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        states.append(out.last_hidden_state[:, -1])
        token = first_largest(head.logits(states[-1]))[:, None]
        tokens.append(token[:, 0])
    return torch.stack(tokens, 1).cpu(), torch.stack(states, 1)


METRICS = ("agreement", "kl", "js", "forced kl", "forced flips")


def breakdown(
    fp, q, prompts: Ids, fp_answers: Ids, q_answers: Ids, *, steps: int, stop_ids: Sequence[int], batch: int
) -> dict[str, dict[str, np.ndarray]]:
    """What one flip costs, split four ways at the first divergence of each prompt's free-running answers.

    For each of VARIANTS, per prompt, against full precision's own continuation (up to its end): with its own
    continuation "agreement" of the next `steps` tokens, and the mean "kl" KL(FP || variant) and "js" at matched
    positions; and without the cascade, every variant reading full precision's continuation after its first token,
    "forced kl" and "forced flips" (share of positions whose most likely token differs). Prompts whose answers never
    differ, or differ only in where they stop, are left out; "index" says which remain.
    """
    stop = set(stop_ids)
    points = []
    for i, (y, f) in enumerate(zip(fp_answers, q_answers, strict=True)):
        t = data.first_divergence(y, f)
        if t is not None and t < min(len(y), len(f)) and y[t] not in stop and f[t] not in stop:
            points.append((i, list(prompts[i]) + list(y[:t]), y[t], f[t]))
    out = {name: {m: [] for m in METRICS} for name in VARIANTS}
    models, head = {"fp": fp, "q": q}, head_of(fp)
    points.sort(key=lambda p: len(p[1]))
    for k in range(0, len(points), batch):
        _, contexts, kept, flipped = (list(x) for x in zip(*points[k : k + batch]))
        read_by = {name: read(m, contexts) for name, m in models.items()}
        base_tokens, base_states = decode_from(read_by["fp"], fp, kept, steps=steps)
        valid = _until_stop(base_tokens, stop)
        told = lambda first: torch.cat([torch.as_tensor(first)[:, None], base_tokens[:, :-1]], 1)  # noqa: E731, B023
        logits = lambda states: head.logits(states[valid.to(states.device)]).float()  # noqa: E731, B023
        base, forced = logits(base_states), logits(forced_from(read_by["fp"], fp, told(kept)))
        count = valid.sum(1).clamp(min=1)
        for name, (cache, token, model) in VARIANTS.items():
            first = flipped if token == "flipped" else kept
            tokens, states = decode_from(read_by[cache], models[model], first, steps=steps)
            own, led = logits(states), logits(forced_from(read_by[cache], models[model], told(first)))
            same = ((tokens == base_tokens) & valid).sum(1) / count
            out[name]["agreement"] += same.tolist()
            for metric, values in (
                ("kl", metrics.kl(base, own)),
                ("js", metrics.js_divergence(base, own)),
                ("forced kl", metrics.kl(forced, led)),
                ("forced flips", (first_largest(forced) != first_largest(led)).float()),
            ):
                per = torch.zeros(valid.shape, dtype=torch.float32)
                per[valid] = values.cpu()
                out[name][metric] += (per.sum(1) / count).tolist()
    order = np.argsort([p[0] for p in points])
    result = {name: {m: np.array(v)[order] for m, v in d.items()} for name, d in out.items()}
    result["index"] = {"prompt": np.array([p[0] for p in points], int)[order]}
    return result


def _until_stop(tokens: Tensor, stop: set[int]) -> Tensor:
    """(B, T) bool: True up to and including the first end-of-turn token."""
    ended = torch.isin(tokens, torch.as_tensor(sorted(stop))).cumsum(1)
    return (ended - torch.isin(tokens, torch.as_tensor(sorted(stop))).long()) == 0
