"""Batched sampling with a KV cache: greedy or temperature, log-probs for free, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib.harness.cache import cached
from lib.models import fingerprint


class Completion(NamedTuple):
    tokens: list[int]  # with the end-of-turn token, if the model produced one
    logprobs: list[float]  # of each token at temperature 1, nats
    finish: str  # "stop" or "length"


def left_pad(rows: Sequence[Sequence[int]], device="cpu") -> tuple[Tensor, Tensor]:
    """(ids (B, L), mask (B, L)); real tokens at the right, mask 0 on padding (which is id 0, whatever that means)."""
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :] = torch.as_tensor(row, device=device)
        mask[i, length - len(row) :] = 1
    return ids, mask


@torch.inference_mode()
def generate(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    batch: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    track: Callable = lambda it, desc: it,
) -> list[Completion]:
    """One completion per prompt, in the order given. temperature 0 is greedy; above it `generator` is required.

    Prompts of similar length share a batch. The batch plan depends on the prompts alone, so the same call gives the
    same text; another `batch` may round differently (see `flipping.noise_floor`).
    """
    if max_new_tokens < 1 or batch < 1:
        raise ValueError(f"max_new_tokens and batch must be at least 1, got {max_new_tokens} and {batch}")
    if temperature > 0 and generator is None:
        raise ValueError("sampling at a temperature above 0 needs a torch.Generator, so that the run can be repeated")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    plan = [order[i : i + batch] for i in range(0, len(order), batch)]
    out: list[Completion | None] = [None] * len(prompts)
    for rows in track(plan, "generate"):
        for i, c in zip(rows, _batch(model, [prompts[i] for i in rows], max_new_tokens, stop_ids, temperature, generator)):
            out[i] = c
    return out


def _batch(model, prompts, max_new_tokens, stop_ids, temperature, generator):
    from transformers import DynamicCache

    device = model.device
    stop = torch.as_tensor(list(stop_ids), device=device)
    ids, mask = left_pad(prompts, device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    alive = torch.arange(len(prompts), device=device)
    done = [([], [], "length") for _ in prompts]
    for _ in range(max_new_tokens):
        out = model.base_model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
        logits = model.get_output_embeddings()(out.last_hidden_state[:, -1]).float()
        token = draw(logits, temperature, generator)
        logprob = logits.gather(-1, token[:, None])[:, 0] - logits.logsumexp(-1)
        ended = torch.isin(token, stop)
        for row, t, lp, e in zip(alive.tolist(), token.tolist(), logprob.tolist(), ended.tolist()):
            tokens, logprobs, _ = done[row]
            tokens.append(t)
            logprobs.append(lp)
            if e:
                done[row] = (tokens, logprobs, "stop")
        if ended.all():
            break
        if ended.any():
            keep = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            token, mask, position, alive = token[keep], mask[keep], position[keep], alive[keep]
        ids = token[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        position = position[:, -1:] + 1
    return [Completion(*d) for d in done]


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One token per row of logits (B, V): the largest, or an exact sample by the Gumbel-max trick (no softmax needed)."""
    if temperature == 0:
        return logits.argmax(-1)
    noise = torch.empty_like(logits).exponential_(generator=generator).log_().neg_()
    return (logits / temperature + noise).argmax(-1)


def generate_cached(model, prompts: Sequence[Sequence[int]], **settings) -> list[list[int]]:
    """Token ids of greedy answers, computed once per (weights, prompts, settings, dtype, device) and kept in data/cache."""
    key = {
        "weights": fingerprint(model),
        "dtype": str(model.dtype),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "prompts": [list(p) for p in prompts],
        "settings": {k: v for k, v in settings.items() if k != "track"},
    }
    return cached("greedy", key, lambda: [c.tokens for c in generate(model, prompts, **settings)])
