"""Batched sampling with a KV cache: one prefill a prompt however many candidates, log-probs for free.

The candidates of a prompt are extra positions of one sequence, not extra rows: a decoding step feeds every unfinished
candidate's last token side by side, and a mask lets it see the prompt and its own past only. So the prompt's keys and
values are computed, stored and read once; keys are written in place; finished candidates and rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.engine import attention
from lib.engine.draws import draw
from lib.engine.head import head_of
from lib.engine.prepacked import logits, prepacked
from lib.engine.rows import check_rows
from lib.engine.weights import fingerprint
from lib.harness.cache import cached

PROMPT, PADDING = 0, -1  # owners of cache slots; candidates are 1, 2, ...


class Completion(NamedTuple):
    tokens: list[int]  # with the end-of-turn token, if the model produced one
    logprobs: list[float]  # of each token at temperature 1 and no top-p, nats
    finish: str  # "stop" or "length"
    states: tuple[Tensor, Tensor] | None = (
        None  # what a watched block gave for the prompt (P, D) and the answer (T, D), on the CPU
    )


class Sampling(NamedTuple):
    """How answers are drawn: temperature 0 is greedy; above it a generator is required, and top_p < 1 draws from the
    smallest set of tokens whose probability reaches it. n answers to each prompt."""

    temperature: float = 0.0
    generator: torch.Generator | None = None
    n: int = 1
    top_p: float = 1.0

    def check(self) -> None:
        """ValueError if this cannot be drawn, or not be repeated."""
        if self.n < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "n is at least 1, temperature at least 0 and top_p lies in (0, 1], got "
                f"{self.n}, {self.temperature} and {self.top_p}"
            )
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"greedy decoding gives {self.n} equal answers; ask for one, or for a temperature above 0")
        if self.temperature > 0 and self.generator is None:
            raise ValueError("sampling at a temperature above 0 needs a torch.Generator, so that it can be repeated")


GREEDY = Sampling()


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
    sampling: Sampling = GREEDY,
    steer: Callable[[Tensor], Tensor] | None = None,
    watch: torch.nn.Module | None = None,
    track: Callable = lambda it, desc: it,
) -> list[Completion]:
    """sampling.n completions per prompt, in the order of the prompts, those of one prompt together.

    steer: what is added to the logits (m, V) of final hidden states (m, D); log-probs are then those of the steered
    model.
    watch: a block whose output is kept for every token, so that nobody runs the text again; an answer's last token was
    never read: 0.

    `batch` counts prompts. Prompts of similar length share a batch; the batch plan depends on the prompts alone, so the
    same call gives the same text; another `batch` may round differently (see `flipping.noise_floor`).
    """
    n = sampling.n
    if max_new_tokens < 1 or batch < 1:
        raise ValueError(f"max_new_tokens and batch must be at least 1, got {max_new_tokens} and {batch}")
    sampling.check()
    if watch is not None and not attention.shares_prompt(model):
        raise ValueError(f"{attention.name_of(model)} cannot share a prompt, so that no block of it can be watched")
    check_rows(model, prompts, new_tokens=max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    plan = [order[i : i + batch] for i in range(0, len(order), batch)]
    out: list[Any] = [None] * (len(prompts) * n)
    draw_ = partial(draw, temperature=sampling.temperature, generator=sampling.generator, top_p=sampling.top_p)
    seen: list[Tensor] = []
    hook = (
        None
        if watch is None
        else watch.register_forward_hook(
            lambda block, args, out: seen.append(out if isinstance(out, Tensor) else out[0])
        )
    )
    width, products = min(batch, len(prompts)) * n, max_new_tokens * len(plan)
    head, stop = _logits(model, steer, width, products), set(stop_ids)
    try:
        with prepacked(model, width, products=products):
            for rows in track(plan, "generate"):
                some = [prompts[i] for i in rows]
                if attention.shares_prompt(model):
                    done = _batch(model, some, n, max_new_tokens, stop, draw_, head, seen)
                else:
                    done = _batch_apart(model, some, n, max_new_tokens, stop, draw_, head)
                for i, completions in zip(rows, done):
                    out[i * n : (i + 1) * n] = completions
    finally:
        if hook is not None:
            hook.remove()
    return out


def recorded(done: Sequence[Any]) -> list[Tensor]:
    """What the watched block gave for one prompt and each of its answers: [(P, D), (T, D), ...], as `trunk.states` has
    it."""
    return [done[0].states[0], *(c.states[1] for c in done)]


class _Slots:
    """Keys and values of one batch, written in place: [layer] (B, H, slots, D), and of each slot whose it is and at
    which position, (B, slots)."""

    def __init__(self, layers: int, owner: Tensor, position: Tensor, capacity: int):
        self.keys: list[Any] = [None] * layers  # a tensor from its layer's first update on
        self.values: list[Any] = [None] * layers
        self.owner, self.position, self.used, self.capacity = owner, position, owner.shape[1], capacity

    def update(self, key: Tensor, value: Tensor, layer: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """What a transformers attention layer calls; the slots of the step were claimed before the forward."""
        start, stop = self.used - key.shape[2], self.used
        for store, new in ((self.keys, key), (self.values, value)):
            if store[layer] is None:
                store[layer] = new.new_empty(new.shape[0], new.shape[1], self.capacity, new.shape[3])
            store[layer][:, :, start:stop] = new
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]

    def claim(self, owner: Tensor, position: Tensor) -> Tensor:
        """Slots for the next (B, n) tokens; returns their mask (B, 1, n, slots): the prompt, and one's own past and
        present."""
        self.owner, self.position = torch.cat([self.owner, owner], 1), torch.cat([self.position, position], 1)
        self.used += owner.shape[1]
        seen = self.owner[:, None, :]
        return ((seen == PROMPT) | ((seen == owner[:, :, None]) & (seen != PADDING)))[:, None]

    def select(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self.owner, self.position = self.owner[rows], self.position[rows]
        for store in (self.keys, self.values):
            for i, x in enumerate(store):
                smaller = x.new_empty(len(rows), *x.shape[1:])
                smaller[:, :, : self.used] = x[rows, :, : self.used]
                store[i] = smaller

    def get_seq_length(self, *args) -> int:
        return self.used

    def get_mask_sizes(self, queries: int, *args) -> tuple[int, int]:
        """(keys, where they begin), for models that make their own masks."""
        return self.used, 0

    def get_query_offset(self, *args) -> int:
        return 0  # rules are asked for positions (`attention.layout`), not for slots


def _logits(model, steer, rows: int, products: int) -> Callable[[Tensor], Tensor]:
    plain = logits(head_of(model), rows, products=products)
    return plain if steer is None else lambda hidden: plain(hidden).float() + steer(hidden)


def _forward(model, ids: Tensor, position: Tensor, mask: Tensor, slots: _Slots) -> Tensor:
    """Final hidden states (B, n, D) of the next n tokens, whose slots are claimed."""
    with attention.layout(mask, position, slots.position, model=model) as mask:
        return model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=slots, use_cache=True
        ).last_hidden_state


def _batch_apart(model, prompts, n, max_new_tokens, stop, draw_, head) -> list[list[Completion]]:
    """`_batch` for a model whose candidates cannot share a prompt: every candidate is a row, read anew each step.

    Slower by the length of the answer, and right for whatever a model keeps of its past: states, convolutions, biases
    by distance.
    """
    rows = [list(p) for p in prompts for _ in range(n)]
    tokens, logprobs = [[] for _ in rows], [[] for _ in rows]
    alive = list(range(len(rows)))
    for _ in range(max_new_tokens):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[r] + tokens[r]) for r in alive], batch_first=True)
        last = torch.tensor([len(rows[r]) + len(tokens[r]) - 1 for r in alive])
        hidden = model.base_model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
        drawn = draw_(head(hidden[torch.arange(len(alive)), last]))
        for r, t, lp in zip(alive, *(x.tolist() for x in drawn)):
            tokens[r].append(t)
            logprobs[r].append(lp)
        alive = [r for r in alive if tokens[r][-1] not in stop]
        if not alive:
            break
    done = [Completion(t, lp, "stop" if t[-1] in stop else "length") for t, lp in zip(tokens, logprobs)]
    return [done[i : i + n] for i in range(0, len(done), n)]


def _batch(model, prompts, n, max_new_tokens, stop, draw_, head, seen: list[Tensor]) -> list[list[Completion]]:
    device = model.device
    lengths = torch.tensor([len(p) for p in prompts])
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    for i, p in enumerate(prompts):
        ids[i, : len(p)] = torch.as_tensor(p)
    position = torch.arange(width).expand(len(prompts), -1)
    owner = torch.where(position < lengths[:, None], PROMPT, PADDING).to(device)
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    slots = _Slots(layers, owner, position.to(device), width + n * max_new_tokens)
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril().expand(len(prompts), 1, -1, -1)
    last = _forward(model, ids.to(device), slots.position, causal, slots)[torch.arange(len(prompts)), lengths - 1]
    of_prompts = [x[:k].cpu() for x, k in zip(seen.pop(), lengths)] if seen else None
    done = [[([], [], []) for _ in range(n)] for _ in prompts]
    rows = list(range(len(prompts)))  # row of the batch -> prompt
    alive = [
        list(range(n)) for _ in prompts
    ]  # row of the batch -> candidates still growing, in the order of their columns
    hidden = last[:, None].expand(-1, n, -1).reshape(len(prompts) * n, -1)
    for step in range(max_new_tokens):
        tokens, logprobs = (x.tolist() for x in draw_(head(hidden)))
        count, at = [len(a) for a in alive], 0
        kept = []
        for r, candidates in enumerate(alive):
            left = []
            for j, t, lp in zip(candidates, tokens[at : at + count[r]], logprobs[at : at + count[r]]):
                done[rows[r]][j][0].append(t)
                done[rows[r]][j][1].append(lp)
                if t not in stop:
                    left.append((j, t))
            at += count[r]
            kept.append(left)
        if step + 1 == max_new_tokens or not any(kept):
            break
        full = [r for r, left in enumerate(kept) if left]
        if len(full) <= 0.9 * len(rows):  # a copy of the cache: not for every row that ends
            slots.select(torch.tensor(full, device=device))
            rows, lengths, kept = [rows[r] for r in full], lengths[full], [kept[r] for r in full]
        alive = [[j for j, _ in left] for left in kept]
        columns = max(map(len, alive))
        ids = torch.zeros(len(rows), columns, dtype=torch.long)
        owner = torch.full_like(ids, PADDING)
        for r, left in enumerate(kept):
            for c, (j, t) in enumerate(left):
                ids[r, c], owner[r, c] = t, j + 1
        real = (owner != PADDING).to(device)
        position = (lengths[:, None] + step).expand(-1, columns)
        mask = slots.claim(owner.to(device), position.to(device))
        hidden = _forward(model, ids.to(device), position.to(device), mask, slots)[real]
        if of_prompts is not None:
            whose = [done[rows[r]][j][2] for r, candidates in enumerate(alive) for j in candidates]
            for states, x in zip(whose, seen.pop()[real].cpu()):
                states.append(x)

    def completion(r: int, tokens, logprobs, states) -> Completion:
        kept = (
            None if of_prompts is None else (of_prompts[r], torch.stack([*states, torch.zeros_like(of_prompts[r][0])]))
        )
        return Completion(tokens, logprobs, "stop" if tokens[-1] in stop else "length", kept)

    return [[completion(r, *candidate) for candidate in d] for r, d in enumerate(done)]


def generate_cached(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    batch: int,
    track: Callable = lambda it, desc: it,
) -> list[list[int]]:
    """Token ids of greedy answers, computed once per (weights, prompts, settings, dtype, device) and kept in
    data/cache."""
    settings: dict[str, Any] = dict(max_new_tokens=max_new_tokens, stop_ids=stop_ids, batch=batch)
    key = {
        "code": 3,  # raise it when greedy tokens can change
        "weights": fingerprint(model),
        "dtype": str(model.dtype),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "prompts": [list(p) for p in prompts],
        "settings": settings,
    }
    return cached("greedy", key, lambda: [c.tokens for c in generate(model, prompts, track=track, **settings)])
