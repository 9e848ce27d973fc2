"""What the machine and the arithmetic allow: the roof over every measured rate."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch

from lib.engine import latents, objectives
from lib.engine.generation import generate
from lib.losses import dpo
from lib.quantization import block_linears
from lib.speed.work import BETA, text_prompts, timed, token_pairs


def matmul_peak(device: str, dtype: torch.dtype, *, size: int = 4096, repeats: int = 7) -> float:
    """Best FLOP/s of one square matrix product."""
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(timed(lambda: a @ a, device)[0] for _ in range(repeats))


def copy_bandwidth(device: str, *, gigabytes: float = 1.0, repeats: int = 7) -> float:
    """Best bytes/s, read plus written, of copying a tensor much larger than the caches."""
    a = torch.zeros(int(gigabytes * 2**30), dtype=torch.uint8, device=device)
    b = torch.zeros_like(a)
    return 2 * len(a) / min(timed(lambda: b.copy_(a), device)[0] for _ in range(repeats))


def train_flops(model, pairs: int, prompt: int, answer: int) -> float:
    """Multiply-adds times two of one step of ours: 6 per trained weight and token, head forward and its gradient;
    attention left out."""
    body = sum(m.weight.numel() for m in block_linears(model).values())
    head = model.get_output_embeddings().weight.numel()
    return pairs * ((prompt + 2 * answer) * 6 * body + 2 * answer * 4 * head)


def trl_flops(model, pairs: int, prompt: int, answer: int, *, reference: bool) -> float:
    """The same of TRL on a CPU: the prompt twice, the head (trained in no case, yet differentiated) at every
    position."""
    body = sum(m.weight.numel() for m in block_linears(model).values())
    head = model.get_output_embeddings().weight.numel()
    tokens = pairs * 2 * (prompt + answer)
    return tokens * (6 * body + 4 * head + reference * 2 * (body + head))


def state_bytes(model) -> float:
    """Bytes a step of ours must hold whatever its batch: all weights in the model's dtype, and of the trained ones
    float32 masters, both moments of AdamW and the gradient's sum."""
    trained = sum(m.weight.numel() for m in block_linears(model).values())
    return sum(p.numel() * p.element_size() for p in model.parameters()) + trained * 4 * 4


def decode_bytes(model, rows: int, slots: int) -> float:
    """Bytes a decoding step must read: every weight once, and the keys and values of all slots."""
    c = model.config
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    weights = sum(p.numel() for p in model.parameters())
    return (weights + rows * slots * 2 * c.num_hidden_layers * c.num_key_value_heads * head) * model.dtype.itemsize


def score_flops(model, prompts: int, prompt: int, candidates: int, answer: int) -> tuple[float, float]:
    """(ours, a plain forward's) of scoring every candidate: the prompt once or once a candidate, the head at answers or
    everywhere."""
    body = sum(m.weight.numel() for m in block_linears(model).values())
    head = model.get_output_embeddings().weight.numel()
    ours = (prompt + candidates * answer) * 2 * body + candidates * answer * 2 * head
    return prompts * ours, prompts * candidates * (prompt + answer) * 2 * (body + head)


def decode_profile(model, tokenizer, prompts: int, *, tokens: int = 8) -> pd.Series:
    """Share of greedy decoding by operator, largest first."""
    ids = text_prompts(tokenizer, prompts)
    work = partial(generate, model, ids, max_new_tokens=tokens, stop_ids=[], batch=prompts)
    work()
    return _shares(work)


def step_profile(model, pairs: int, prompt: int, answer: int) -> pd.Series:
    """Share of a step's forward and backward by operator, largest first."""
    latent = latents.Latent(block_linears(model), partial(latents.Full, quantizer=None))
    zero = torch.zeros(pairs)
    objective = objectives.preference(
        model, token_pairs(model, pairs, prompt, answer), partial(dpo, beta=BETA), ref_w=zero, ref_l=zero
    )

    def work():
        with latent.training():
            objective(range(pairs))[0].backward()

    work()
    return _shares(work)


def _shares(work) -> pd.Series:
    with torch.profiler.profile() as profile:
        work()
    used = {
        e.key.removeprefix("aten::"): e.self_device_time_total or e.self_cpu_time_total for e in profile.key_averages()
    }
    return (pd.Series(used) / sum(used.values())).sort_values(ascending=False)
