"""The work that both sides of a comparison do: the same weights, token ids, lengths and clock."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from lib.data import Pair
from lib.harness import paths

BETA, LR = 0.1, 1e-6
LORA = dict(
    r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
)


def token_pairs(model, n: int, prompt: int, answer: int) -> list[Pair]:
    """n pairs of seeded random token ids: exact lengths, and no tokenizer on either side."""
    g = torch.Generator().manual_seed(0)
    draw = lambda k: torch.randint(5, model.config.vocab_size - 5, (k,), generator=g).tolist()  # noqa: E731
    return [Pair(str(i), draw(prompt), draw(answer), draw(answer), 0) for i in range(n)]


def text_prompts(tokenizer, n: int) -> list[list[int]]:
    """The first n training prompts as token ids."""
    from lib.data import encode, load_prompts

    return encode(tokenizer, load_prompts(paths.DATA / "prompts.jsonl", "train")[:n])


class Gate:
    """Times pieces of work: `enter` before, `leave` after. The first is a warm-up and is not counted.

    With "paired" in the spec the parent decides when each piece runs: `enter` says "#ready" and waits for a line,
    `leave` says "#done".
    """

    def __init__(self, spec: dict):
        self.paired, self.device, self.seconds, self.warm = spec.get("paired", False), spec["device"], [], False

    def enter(self) -> None:
        if self.paired and self.warm:
            print("#ready", flush=True)
            sys.stdin.readline()
        synchronize(self.device)
        self.began = time.perf_counter()

    def leave(self) -> None:
        synchronize(self.device)
        seconds = time.perf_counter() - self.began
        if self.warm:
            self.seconds.append(seconds)
            if self.paired:
                print("#done", flush=True)
        self.warm = True


def timed(work: Callable, device: str) -> tuple[float, object]:
    synchronize(device)
    began = time.perf_counter()
    value = work()
    synchronize(device)
    return time.perf_counter() - began, value


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize(device)


def scored(model, tokenizer, spec: dict) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Prompts and the random completions of each: (prompts), (prompts, candidates, tokens)."""
    g = torch.Generator().manual_seed(0)
    prompts = text_prompts(tokenizer, spec["prompts"])
    shape = (len(prompts), spec["candidates"], spec["tokens"])
    return prompts, torch.randint(5, model.config.vocab_size - 5, shape, generator=g).tolist()
