"""Our side: what the notebooks run, measured."""

from __future__ import annotations

import time
from functools import partial

import torch

from lib.engine import latents, models, objectives, training
from lib.engine.generation import GREEDY, Sampling, generate
from lib.losses import dpo
from lib.quantization import block_linears, rtn
from lib.scoring.likelihood import completion_logprobs
from lib.speed.work import BETA, LORA, LR, Gate, scored, text_prompts, token_pairs


def steps(model, tokenizer, spec: dict) -> dict:
    """Seconds of every optimizer step after the first, and the losses. side: ours or dense, or quantized (Q(W) at 4
    bits, group 64)."""
    pairs = token_pairs(model, spec["pairs"], spec["prompt"], spec["answer"])
    if spec["task"] == "lora":
        wrapped, latent = lora(model)
        model = wrapped.get_base_model()
    else:
        quantizer = partial(rtn.fake_quant, bits=4, group=64, symmetric=False) if spec["side"] == "quantized" else None
        latent = latents.Latent(block_linears(model), partial(latents.Full, quantizer=quantizer))
    columns = zip(*((p.prompt, p.chosen, p.rejected) for p in pairs))
    began = time.perf_counter()
    w, l = completion_logprobs(model, *columns, batch=spec["micro"]).unbind(1)
    reference = time.perf_counter() - began
    objective = objectives.preference(model, pairs, partial(dpo, beta=BETA), ref_w=w, ref_l=l)
    gate, steps_ = Gate(spec), spec["repeats"] + 1

    def batches():
        for _ in range(steps_):
            gate.enter()
            yield list(range(len(pairs)))
            gate.leave()

    feed = batches()
    curve = training.fit(
        latent,
        feed,
        objective,
        training.AdamW(spec.get("lr", LR), warmup=1, clip=1.0),
        steps=steps_,
        micro=spec["micro"],
        desc="steps",
    )
    next(feed, None)  # the last step has left too
    return {
        "seconds": gate.seconds,
        "units": [len(pairs)] * len(gate.seconds),
        "reference": reference,
        "losses": [r["loss"] for r in curve],
    }


def lora(model, *, seed: int = 0):
    """(peft model, latents): adapters computed in the model's dtype, their master weights in float32; no casts in
    between."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    wrapped = get_peft_model(model, LoraConfig(**LORA, task_type="CAUSAL_LM"), autocast_adapter_dtype=False)
    adapters = {
        n: m for n, m in wrapped.named_modules() if isinstance(m, torch.nn.Linear) and ("lora_A" in n or "lora_B" in n)
    }
    wrapped.requires_grad_(False)
    return wrapped, latents.Latent(adapters, partial(latents.Full, quantizer=None))


def samples(model, tokenizer, spec: dict) -> dict:
    """Seconds and new tokens of `candidates` samples of each prompt, or of one greedy answer (task greedy)."""
    prompts, stop = text_prompts(tokenizer, spec["prompts"]), models.stop_ids(model, tokenizer)
    g = torch.Generator(device=spec["device"]).manual_seed(0)
    sampling = GREEDY if spec["task"] == "greedy" else Sampling(1.0, g, n=spec["candidates"])
    ask = partial(generate, model, prompts, stop_ids=stop, batch=spec["batch"], sampling=sampling)
    gate, units, length = Gate(spec), [], 0.0
    for k in range(spec["repeats"] + 1):
        gate.enter()
        done = ask(max_new_tokens=spec["tokens"] if k else 2)
        gate.leave()
        units.append(sum(len(c.tokens) for c in done))
        length = units[-1] / len(done)
    return {"seconds": gate.seconds, "units": units[1:], "length": length}


def scores(model, tokenizer, spec: dict) -> dict:
    """Summed log-probs of `candidates` completions of each prompt, which share its forward."""
    prompts, answers = scored(model, tokenizer, spec)
    columns, few, gate = list(zip(*answers)), spec["batch"], Gate(spec)
    for k in range(spec["repeats"] + 1):
        part = slice(None) if k else slice(few)
        gate.enter()
        values = completion_logprobs(model, prompts[part], *(c[part] for c in columns), batch=few)
        gate.leave()
    return {"seconds": gate.seconds, "units": [values.numel()] * len(gate.seconds), "mean": values.mean().item()}
