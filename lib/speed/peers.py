"""The other side: TRL's DPOTrainer, transformers' generate, and a plain transformers forward."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from lib.engine import fused, models
from lib.engine.generation import generate, left_pad
from lib.quantization import block_linears
from lib.speed.work import BETA, LORA, LR, Gate, scored, text_prompts, token_pairs


def steps(model, tokenizer, spec: dict) -> dict:
    """TRL's DPOTrainer on the same ids; only its tokenization is bypassed. side: trl or trl-precomputed."""
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

        def _get_train_sampler(self, dataset=None):
            return torch.utils.data.SequentialSampler(self.train_dataset)  # every step the same pairs, as ours

    gate = Gate(spec)

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            gate.enter()

        def on_step_end(self, *args, **kwargs):
            gate.leave()

    reference_model = copy.deepcopy(model) if spec["task"] == "dpo" and spec["side"] == "trl" else None
    pairs = token_pairs(model, spec["pairs"], spec["prompt"], spec["answer"])
    rows = [{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in pairs]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if spec["task"] == "dpo":
        model.requires_grad_(False)
        for m in block_linears(model).values():  # the same weights train on both sides
            m.weight.requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            output_dir=folder, per_device_train_batch_size=spec["trl_micro"],
            gradient_accumulation_steps=spec["pairs"] // spec["trl_micro"],
            max_steps=spec["repeats"] + 1, bf16=spec.get("dtype") != "float32", use_cpu=spec["device"] == "cpu",
            gradient_checkpointing=False, learning_rate=spec.get("lr", LR),
            lr_scheduler_type="constant", beta=BETA, precompute_ref_log_probs=spec["side"] != "trl", report_to="none",
            save_strategy="no", logging_steps=1,
            disable_tqdm=True, max_length=None, dataloader_pin_memory=False, remove_unused_columns=False,
        )  # fmt: skip
        began = time.perf_counter()
        trainer = Trainer(
            model=model, ref_model=reference_model, args=args,
            train_dataset=Dataset.from_list(rows * (spec["repeats"] + 1)), processing_class=tokenizer,
            callbacks=[Clock()],
            peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM") if spec["task"] == "lora" else None,
        )  # fmt: skip
        reference = time.perf_counter() - began
        trainer.train()
    losses = [r["loss"] for r in trainer.state.log_history if "loss" in r]
    return {
        "seconds": gate.seconds,
        "units": [len(pairs)] * len(gate.seconds),
        "reference": reference,
        "losses": losses,
    }


@torch.inference_mode()
def answers(
    model, prompts: Sequence[Sequence[int]], stop: Sequence[int], batch: int, tokens: int, **more: Any
) -> list[list[int]]:
    """transformers' generate on left-padded batches of similar length; answers up to their end-of-turn token, shortest
    prompt first."""
    order, done = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), []
    for i in range(0, len(order), batch):
        ids, mask = left_pad([prompts[r] for r in order[i : i + batch]], model.device)
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, pad_token_id=stop[0], **more)[
            :, ids.shape[1] :
        ]
        ended = torch.isin(out, torch.tensor(stop, device=out.device)).long()
        done += [a[:n].tolist() for a, n in zip(out, (ended.cumsum(1) - ended == 0).sum(1))]
    return done


def samples(model, tokenizer, spec: dict) -> dict:
    """The same as `ours.samples`, by transformers' generate."""
    prompts, stop = text_prompts(tokenizer, spec["prompts"]), models.stop_ids(model, tokenizer)
    torch.manual_seed(0)
    more = dict(do_sample=False) if spec["task"] == "greedy" else dict(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=spec["candidates"]
    )  # fmt: skip
    gate, units, length = Gate(spec), [], 0.0
    for k in range(spec["repeats"] + 1):
        gate.enter()
        done = answers(model, prompts, stop, spec["their_batch"], spec["tokens"] if k else 2, **more)
        gate.leave()
        units.append(sum(map(len, done)))
        length = units[-1] / len(done)
    return {"seconds": gate.seconds, "units": units[1:], "length": length}


def greedy_parity(spec: str, *, prompts: int, tokens: int, device: str) -> pd.DataFrame:
    """Share of equal greedy answers, by dtype: ours beside transformers', and transformers' beside itself at batch 1
    (the noise floor)."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        model, tokenizer = models.load(spec, dtype=dtype, device=device)
        ids, stop = text_prompts(tokenizer, prompts), models.stop_ids(model, tokenizer)
        ours = [
            c.tokens for c in generate(model, sorted(ids, key=len), max_new_tokens=tokens, stop_ids=stop, batch=prompts)
        ]
        model.set_attn_implementation("sdpa")
        fused.remove(model)
        theirs, alone = (answers(model, ids, stop, batch, tokens, do_sample=False) for batch in (prompts, 1))
        share = lambda a, b: sum(x == y for x, y in zip(a, b, strict=True)) / len(a)  # noqa: E731
        rows.append((str(dtype).removeprefix("torch."), share(ours, theirs), share(alone, theirs)))
    return pd.DataFrame(rows, columns=["dtype", "ours = transformers", "transformers = itself at batch 1"])


def scores(model, tokenizer, spec: dict) -> dict:
    """The same log-probs from a plain forward of right-padded sequences, full logits."""
    prompts, many = scored(model, tokenizer, spec)
    rows, batch, gate = [(p, a) for p, row in zip(prompts, many) for a in row], spec["their_batch"], Gate(spec)
    for k in range(spec["repeats"] + 1):
        gate.enter()
        values = _plain_scores(model, rows if k else rows[:batch], batch)
        gate.leave()
    return {"seconds": gate.seconds, "units": [values.numel()] * len(gate.seconds), "mean": values.mean().item()}


@torch.inference_mode()
def _plain_scores(model, rows: Sequence[tuple[list[int], list[int]]], batch: int) -> torch.Tensor:
    """Summed log-prob of the second part of each row, (N,)."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    out = torch.empty(len(rows))
    for i in range(0, len(order), batch):
        part = order[i : i + batch]
        width = max(len(rows[r][0]) + len(rows[r][1]) for r in part)
        ids, mask, answer = (torch.zeros(len(part), width, dtype=torch.long) for _ in range(3))
        for k, r in enumerate(part):
            p, a = rows[r]
            ids[k, : len(p) + len(a)] = torch.tensor([*p, *a])
            mask[k, : len(p) + len(a)] = 1
            answer[k, len(p) : len(p) + len(a)] = 1
        ids = ids.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask.to(model.device)).logits[:, :-1].float()
        tokens = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        out[part] = (tokens * answer[:, 1:].to(tokens.device)).sum(1).cpu()
    return out
