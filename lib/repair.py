"""One study of a quantized model and its repairs: the same data, steps and evaluation for every arm.

`Study` keeps the full-precision model, one student that is reset before each arm, and what was measured. An arm is a name
and either a post-training quantizer or an objective; `Study` trains it, measures it on the held-out prompts, and records
per-prompt scores, the training curve and sample answers in the run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lib import evaluation, metrics, training
from lib.flipping import Fidelity, Forced
from lib.harness import seeding
from lib.quantization import block_linears, rtn
from lib.quantization.ste import codes_changed


class Study:
    """cfg: the run's settings; run: where results go; test and validation: `Fidelity` on held-out prompts."""

    def __init__(self, cfg, run, fp, tokenizer, *, test: Fidelity, validation: Fidelity, test_ids: Sequence[str], task: dict):
        self.cfg, self.run, self.fp, self.tokenizer = cfg, run, fp, tokenizer
        self.test, self.validation, self.test_ids, self.task = test, validation, list(test_ids), task
        self.arms = cfg.items_of("arms")
        self.format = dict(bits=cfg.bits, group=cfg.group, symmetric=cfg.symmetric)
        self.quantizer = partial(rtn.fake_quant, **self.format)
        self.student = copy.deepcopy(fp)
        self.sources = {name: m.weight for name, m in block_linears(fp).items()}
        self.answers: dict[str, list[list[int]]] = {}
        self.scores: dict[str, dict[str, np.ndarray]] = {}
        self.forced: dict[str, Forced] = {}
        self.tasks: dict[str, evaluation.Accuracy] = {}
        self.curves: dict[str, list[dict]] = {}

    def post_training(self, arm: str, apply: Callable) -> None:
        """Quantize a copy of the full-precision model with `apply(model)` and measure it."""
        if arm in self.arms:
            with self.run.stage(arm):
                model = copy.deepcopy(self.fp)
                apply(model)
                self.measure(arm, model)

    def quantized(self):
        """The student as round-to-nearest leaves it: every trained arm starts here."""
        training.Latent(block_linears(self.student), partial(training.Full, quantizer=self.quantizer), self.sources)
        return self.student

    def train(
        self, arm: str, objective: Callable, n: int, *, lr: float, target: float | None = None, lora: bool = False
    ) -> None:
        """Reset the student, train its latent weights on `objective` over n examples, keep the best validation KL, measure.

        `target`: stop when the mean loss of the last three steps falls to it (L* of papers' notes: beyond it the model is
        pushed past full precision). Every arm gets the same steps, batch, warm-up, clipping and checkpoint rule.
        """
        if arm not in self.arms:
            return
        cfg = self.cfg
        make = partial(training.Full, quantizer=self.quantizer)
        if lora:
            generator = seeding.torch_generator(cfg.seed, "lora")
            make = partial(training.LoRA, quantizer=self.quantizer, rank=cfg.lora_rank, alpha=cfg.lora_alpha, generator=generator)
        with self.run.stage(arm):
            latent = training.Latent(block_linears(self.student), make, self.sources)
            before = self._codes(latent)
            self.curves[arm] = training.fit(
                latent,
                training.epochs(n, min(cfg.batch, n), seeding.torch_generator(cfg.seed, "order")),
                objective,
                steps=cfg.steps,
                lr=lr,
                warmup=cfg.warmup,
                clip=cfg.clip,
                micro=cfg.micro,
                validate=lambda: self.validation.validation(self.student),
                every=cfg.validate_every,
                select="kl",
                stop=None if target is None else lambda curve: _reached(curve, target),
                desc=arm,
            )
            self.run.curve(arm, self.curves[arm])
            changed = codes_changed(before, self._codes(latent))
            self.run.metric("training", "train", arm, "codes changed", changed)
            self.run.metric("training", "train", arm, "steps", self.curves[arm][-1]["step"])
            self.run.metric("training", "train", arm, "kept step", kept_step(self.curves[arm]))
            self.measure(arm, self.student)

    def _codes(self, latent) -> dict:
        return {name: rtn.quantize(_plain(x), **self.format) for name, x in latent.latents.items()}

    def measure(self, arm: str, model, answers: Sequence[Sequence[int]] | None = None) -> None:
        """Fidelity on the test prompts, task accuracy, items and samples of one arm."""
        scores, self.forced[arm], self.answers[arm] = self.test.measure(model, answers)
        self.scores[arm] = scores
        tokens = scores["tokens"]
        for name, values in scores.items():
            if name in ("flips", "kl", "fp answer logprob"):  # sums over tokens: the weight turns them into rates
                self.run.items("test prompts", arm, name, self.test_ids, values / tokens, weights=tokens)
            elif name != "tokens":
                self.run.items("test prompts", arm, name, self.test_ids, values)
        for name in ("flips", "kl", "fp answer logprob"):
            self.run.metric("arms", "test prompts", arm, name, scores[name].sum() / tokens.sum(), n=len(tokens))
        for name in ("agreement prefix", "exact match", "rouge-l", "fp likelihood", "length ratio"):
            self.run.metric("arms", "test prompts", arm, name, scores[name].mean(), n=len(tokens))
        self.run.metric("arms", "test prompts", arm, "distinct-2", metrics.distinct_n(self.answers[arm], 2), n=len(tokens))
        if arm in self.cfg.items_of("task_arms"):
            result = evaluation.multiple_choice(
                model, self.tokenizer, self.task, batch_size=self.cfg.eval_batch, limit=self.cfg.n_questions
            )
            self.tasks[arm] = result
            self.run.items("common knowledge", arm, "accuracy", result.ids, np.asarray(result.correct, float))
            self.run.metric("arms", "common knowledge", arm, "accuracy", np.mean(result.correct), n=len(result.ids))
            if "fp" in self.tasks:
                flips = np.asarray(result.predicted) != np.asarray(self.tasks["fp"].predicted)
                self.run.items("common knowledge", arm, "answer flips", result.ids, flips.astype(float))
                self.run.metric("arms", "common knowledge", arm, "answer flips", flips.mean(), n=len(flips))

    def judge(self, judge, ours: str, theirs: str) -> dict[str, float]:
        """Win, tie and lose of one arm against another on the test prompts, in both orders with FastChat's tie rule."""
        from lib.scoring import judge_both_orders

        verdicts = judge_both_orders(
            judge, self.test.prompts, self.answers[ours], self.answers[theirs], margin=self.cfg.judge_margin
        )
        rates = metrics.win_rates(verdicts)
        for name in ("win", "lose"):
            hits = np.array([v == name for v in verdicts], float)
            self.run.items(f"judge vs {theirs}", ours, name, self.test_ids, hits)
            self.run.metric("judge", f"judge vs {theirs}", ours, name, hits.mean(), n=len(hits))
        return rates


def _plain(latent) -> Tensor:
    """The weight before the quantizer."""
    with torch.no_grad():
        quantizer, latent.quantizer = latent.quantizer, None
        try:
            return latent.weight().detach()
        finally:
            latent.quantizer = quantizer


def _reached(curve: list[dict], target: float) -> bool:
    losses = [r["loss"] for r in curve if "loss" in r][-3:]
    return len(losses) == 3 and sum(losses) / 3 <= target


def kept_step(curve: list[dict]) -> int:
    """The step whose weights `fit` kept: the smallest validation KL."""
    checked = [r for r in curve if "validation kl" in r]
    return min(checked, key=lambda r: r["validation kl"])["step"]
