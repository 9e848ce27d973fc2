"""Our side: what the notebooks run, measured."""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch

from lib import models, objectives, training
from lib.generation import generate
from lib.losses import dpo
from lib.quantization import block_linears, rtn
from lib.scoring import completion_logprobs
from lib.speed.work import BETA, LORA, LR, scored, text_prompts, timed, token_pairs


def steps(model, tokenizer, spec: dict) -> dict:
    """Seconds of each optimizer step after the first, and the losses. side: ours or dense, or quantized (Q(W) at 4 bits, group 64)."""
    pairs = token_pairs(model, spec["pairs"], spec["prompt"], spec["answer"])
    if spec["task"] == "lora":
        wrapped, latent = lora(model)
        model = wrapped.get_base_model()
    else:
        quantizer = partial(rtn.fake_quant, bits=4, group=64, symmetric=False) if spec["side"] == "quantized" else None
        latent = training.Latent(block_linears(model), partial(training.Full, quantizer=quantizer))
    columns = zip(*((p.prompt, p.chosen, p.rejected) for p in pairs))
    began = time.perf_counter()
    w, l = completion_logprobs(model, *columns, batch=spec["micro"]).unbind(1)
    reference = time.perf_counter() - began
    objective = objectives.preference(model, pairs, partial(dpo, beta=BETA), ref_w=w, ref_l=l)
    batches = iter([list(range(len(pairs)))] * (spec["steps"] + 1))
    curve = training.fit(latent, batches, objective, steps=spec["steps"] + 1, lr=spec.get("lr", LR), warmup=1, clip=1.0, micro=spec["micro"], desc="steps")
    ends = [r["seconds"] for r in curve]
    return {"seconds": [b - a for a, b in zip(ends, ends[1:])], "units": len(pairs), "reference": reference, "losses": [r["loss"] for r in curve]}


def lora(model, *, seed: int = 0):
    """(peft model, latents): adapters computed in the model's dtype, their master weights in float32; no casts in between."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    wrapped = get_peft_model(model, LoraConfig(**LORA, task_type="CAUSAL_LM"), autocast_adapter_dtype=False)
    adapters = {n: m for n, m in wrapped.named_modules() if isinstance(m, torch.nn.Linear) and ("lora_A" in n or "lora_B" in n)}
    wrapped.requires_grad_(False)
    return wrapped, training.Latent(adapters, partial(training.Full, quantizer=None))


def samples(model, tokenizer, spec: dict) -> dict:
    """Seconds and new tokens of `candidates` samples of each prompt, or of one greedy answer (task greedy)."""
    prompts, stop = text_prompts(tokenizer, spec["prompts"]), models.stop_ids(model, tokenizer)
    g = torch.Generator(device=spec["device"]).manual_seed(0)
    sampling = {} if spec["task"] == "greedy" else dict(n=spec["candidates"], temperature=1.0, generator=g)
    ask = partial(generate, model, prompts, stop_ids=stop, batch=spec["batch"], **sampling)
    ask(max_new_tokens=2)
    seconds, done = timed(lambda: ask(max_new_tokens=spec["tokens"]), spec["device"])
    return {"seconds": [seconds], "units": sum(len(c.tokens) for c in done), "length": statistics.mean(len(c.tokens) for c in done)}


def scores(model, tokenizer, spec: dict) -> dict:
    """Summed log-probs of `candidates` completions of each prompt, which share its forward."""
    prompts, answers = scored(model, tokenizer, spec)
    columns, few = list(zip(*answers)), spec["batch"]
    completion_logprobs(model, prompts[:few], *(c[:few] for c in columns), batch=few)  # warm-up
    seconds, values = timed(lambda: completion_logprobs(model, prompts, *columns, batch=few).flatten(), spec["device"])
    return {"seconds": [seconds], "units": values.numel(), "mean": values.mean().item()}
