"""What a model's answers are made of: their texts, their log-probs under the model that wrote
them, and the model's own features of them, from the one pass that sampled them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib.data import Prompt
from lib.engine.generation import Sampling, generate
from lib.engine.models import fingerprint
from lib.harness.cache import cached
from lib.studies.mrpo.candidates import Candidates, Ids

DIGITS = 4  # of a stored feature


class Draws(NamedTuple):
    """How answers are drawn. One temperature: pairs of two would be told apart by these, which no reward asks for."""

    temperature: float
    each: int
    max_new_tokens: int
    stop_ids: Sequence[int]
    batch: int


class Answers(NamedTuple):
    """Candidates with what the model that sampled them says of each; N prompts, n answers."""

    candidates: Candidates
    log_probs: Tensor  # (N, n) float64 nats, of the model itself: at temperature 1
    states: Tensor  # (N, n, D) float64: mean of the last hidden states over an answer


def sample(model, tokenizer, prompts: Sequence[Prompt], ids: Ids, how: Draws, *, seed: int) -> Answers:
    """Answers to each prompt, drawn once per (weights, prompts, settings) and kept in data/cache."""
    settings = dict(max_new_tokens=how.max_new_tokens, stop_ids=list(how.stop_ids), batch=how.batch)
    key = {
        "code": 1,  # raise it when a draw or a state can change
        "weights": fingerprint(model),
        "dtype": str(model.dtype),
        "device": model.device.type,
        "torch": torch.__version__,
        "prompts": [list(p) for p in ids],
        "temperature": how.temperature,
        "each": how.each,
        "seed": seed,
        **settings,
    }

    def draw():
        generator = torch.Generator(device=model.device).manual_seed(seed)
        sampling = Sampling(how.temperature, generator, n=how.each)
        done = generate(model, ids, sampling=sampling, watch=last_norm(model), **settings)
        states = [_mean(c.states[0], c.states[1]).tolist() for c in done]
        return {
            "tokens": [c.tokens for c in done],
            "log_probs": [sum(c.logprobs) for c in done],
            "states": [[float(f"{x:.{DIGITS}g}") for x in row] for row in states],
        }

    found, shape = cached("answers", key, draw), (len(ids), how.each)
    tokens = [found["tokens"][i * how.each : (i + 1) * how.each] for i in range(len(ids))]
    texts = [[tokenizer.decode(a, skip_special_tokens=True) for a in row] for row in tokens]
    states = torch.tensor(found["states"], dtype=torch.float64).view(*shape, -1)
    log_probs = torch.tensor(found["log_probs"], dtype=torch.float64).view(shape)
    return Answers(Candidates(list(prompts), [list(i) for i in ids], tokens, texts), log_probs, states)


def last_norm(model) -> torch.nn.Module:
    """The module after the last block, whose output the head reads. ValueError where there is not exactly one."""
    norms = [m for name, m in model.base_model.named_children() if name.endswith("norm")]
    if len(norms) != 1:
        raise ValueError(f"{type(model).__name__} has {len(norms)} final norms, one is needed")
    return norms[0]


def _mean(prompt: Tensor, answer: Tensor) -> Tensor:
    """Mean state (D,) over an answer's tokens but the last, which was never read; over the prompt's last token where
    there is no other."""
    return (answer[:-1] if len(answer) > 1 else prompt[-1:]).double().mean(0)
