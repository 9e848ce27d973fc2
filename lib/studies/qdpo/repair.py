"""One study of a quantized model and its repairs: the same data, steps and evaluation for every arm.

`Study` keeps the full-precision model, one student that is reset before each arm, and what was measured. An arm is a
name and either a post-training quantizer or an objective; `Study` trains it, measures it on the held-out prompts, and
records per-prompt scores, the training curve and sample answers in the run.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import data, scoring
from lib.data import Pair, Prompt
from lib.engine import training
from lib.harness import seeding
from lib.losses import LabelMargin, label_margin
from lib.quantization import block_linears, rtn
from lib.quantization.blocks import check_covered
from lib.quantization.ste import codes_changed
from lib.scoring import metrics
from lib.scoring.flipping import Fidelity, Forced, breakdown
from lib.scoring.likelihood import judge_both_orders, reference_logprobs


class Study:
    """cfg: the run's settings; run: where results go; test and validation: `Fidelity` on held-out prompts."""

    def __init__(
        self, cfg, run, fp, tokenizer, *, test: Fidelity, validation: Fidelity, test_ids: Sequence[str], task: dict
    ):
        check_covered(fp)
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
        self.tasks: dict[str, scoring.Accuracy] = {}
        self.curves: dict[str, list[dict]] = {}

    def post_training(self, arm: str, apply: Callable) -> None:
        """Quantize a copy of the full-precision model with `apply(model)` and measure it."""
        if arm in self.arms:
            with self.run.stage(arm):
                model = copy.deepcopy(self.fp).float()  # AWQ's scales would be lost in part in bfloat16
                stored = list(apply(model).values())
                size = sum(q.bits_per_weight * q.codes.numel() for q in stored) / sum(q.codes.numel() for q in stored)
                self.run.metric("arms", "weights", arm, "bits per weight", size)
                self.measure(arm, model.to(self.fp.dtype))

    def quantized(self):
        """The student as round-to-nearest leaves it: every trained arm starts here."""
        training.Latent(block_linears(self.student), partial(training.Full, quantizer=self.quantizer), self.sources)
        return self.student

    def train(
        self,
        arm: str,
        objective: Callable,
        pairs: Sequence[Pair],
        *,
        lr: float,
        target: float | None = None,
        lora: bool = False,
        start: training.Latent | None = None,
    ) -> training.Latent | None:
        """Reset the student, train its latent weights on `objective` over the pairs, keep the best validation KL,
        measure.

        `target`: stop when the mean loss of the last three steps falls to it (L* of papers' notes: beyond it the model
        is pushed past full precision). Every arm gets the same steps, batch, warm-up, clipping and checkpoint rule.
        `start`: go on from what an earlier call returned, instead of from full precision. Returns None for an arm that
        is not asked for.
        """
        if arm not in self.arms:
            return None
        cfg, n = self.cfg, len(pairs)
        lengths = [len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs]
        make = partial(training.Full, quantizer=self.quantizer)
        if lora:
            generator = seeding.torch_generator(cfg.seed, "lora")
            make = partial(
                training.LoRA, quantizer=self.quantizer, rank=cfg.lora_rank, alpha=cfg.lora_alpha, generator=generator
            )
        with self.run.stage(arm):
            latent = start or training.Latent(block_linears(self.student), make, self.sources)
            latent.sync()
            before = self._codes(latent)
            size = sum(q.bits_per_weight * q.codes.numel() for q in before.values()) / sum(
                q.codes.numel() for q in before.values()
            )
            self.run.metric("arms", "weights", arm, "bits per weight", size)
            self.curves[arm] = training.fit(
                latent,
                training.epochs(n, min(cfg.batch, n), seeding.torch_generator(cfg.seed, "order"), lengths=lengths),
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
            changed = self._changed(before, self._codes(latent))
            self.run.metric("training", "train", arm, "learning rate", lr)
            self.run.metric("training", "train", arm, "codes changed", changed)
            self.run.metric("training", "train", arm, "steps", self.curves[arm][-1]["step"])
            kept = next(r for r in self.curves[arm] if r["step"] == kept_step(self.curves[arm]))
            self.run.metric("training", "train", arm, "kept step", kept["step"])
            self.run.metric("training", "validation prompts", arm, "kept kl", kept["validation kl"])
            self.run.metric("training", "validation prompts", arm, "kept flips", kept["validation flip rate"])
            self.measure(arm, self.student)
        return latent

    def _codes(self, latent) -> dict:
        return {name: rtn.quantize(_plain(x), **self.format) for name, x in latent.latents.items()}

    @staticmethod
    def _changed(before: dict, after: dict) -> float:
        """Share of all weights whose level differs (`ste.codes_changed`)."""
        total = sum(q.codes.numel() for q in before.values())
        return sum(codes_changed(before[k], after[k]) * before[k].codes.numel() for k in before) / total

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
        self.run.metric(
            "arms", "test prompts", arm, "distinct-2", metrics.distinct_n(self.answers[arm], 2), n=len(tokens)
        )
        if arm in self.cfg.items_of("task_arms"):
            result = scoring.multiple_choice(
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
        verdicts = judge_both_orders(
            judge, self.test.prompts, self.answers[ours], self.answers[theirs], margin=self.cfg.judge_margin
        )
        rates = metrics.win_rates(verdicts)
        for name in ("win", "lose"):
            hits = np.array([v == name for v in verdicts], float)
            self.run.items(f"judge vs {theirs}", ours, name, self.test_ids, hits)
            self.run.metric("judge", f"judge vs {theirs}", ours, name, hits.mean(), n=len(hits))
        return rates

    def reference(self, model, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        """Summed log-probs of every pair's answers under a frozen model: {"ref_w": (N,), "ref_l": (N,)}, computed
        once."""
        columns = zip(*((p.prompt, p.chosen, p.rejected) for p in pairs))
        w, l = reference_logprobs(model, *columns, policy=self.student, batch=self.cfg.micro).unbind(1)
        return {"ref_w": w, "ref_l": l}

    def label_table(self, pairs: Sequence[Pair], label: LabelMargin) -> pd.DataFrame:
        """How often the label argument's three inequalities hold, on whole answers and cut at the first differing
        token."""
        short = [p.truncated() for p in pairs]
        sides = [self.reference(m, short).values() for m in (self.fp, self.quantized())]
        rows = []
        for name, margin in (
            ("whole answers", label),
            ("cut at the first divergence", label_margin(*sides[0], *sides[1])),
        ):
            for part, values in zip(("full-precision bracket", "quantized bracket", "delta"), margin):
                hold = (values >= 0).double().numpy()
                self.run.items(f"pairs, {name}", "label", part, [p.id for p in pairs], hold)
                self.run.metric("label", f"pairs, {name}", "label", f"{part} >= 0", hold.mean(), n=len(hold))
                rows.append(
                    {
                        "pairs": name,
                        "quantity": part,
                        "share >= 0": hold.mean(),
                        "mean, nats": values.mean().item(),
                        "smallest, nats": values.min().item(),
                    }
                )
        self.run.metric("label", "train", "label", "pairs", len(pairs), n=self.cfg.n_train)
        return pd.DataFrame(rows)

    def margins(self, arm: str) -> None:
        """Full-precision margin at flipped and at kept positions, and flip probability by margin decile."""
        f, n = self.forced[arm], len(self.test_ids)
        for name, chosen in (("margin where flipped", f.flip), ("margin where kept", ~f.flip)):
            count = f.per_row(chosen, n)
            has = count > 0
            mean = f.per_row(f.margin * chosen, n)[has] / count[has]
            self.run.items(
                "test prompts", arm, name, [i for i, h in zip(self.test_ids, has) if h], mean, weights=count[has]
            )
            self.run.metric(
                "flips", "test prompts", arm, name, np.average(mean, weights=count[has]), n=int(count.sum())
            )
        for k, d in enumerate(metrics.flip_by_margin_decile(f.margin, f.flip), 1):
            self.run.metric("flips", "test prompts", arm, f"flip rate, margin decile {k}", d["rate"], n=d["n"])

    def breakdown(self, arm: str, *, steps: int, stop_ids: Sequence[int]) -> None:
        """Record the four-way breakdown at each prompt's first divergence of `arm` (a round-to-nearest student)."""
        parts = breakdown(
            self.fp, self.quantized(), self.test.prompts, self.test.answers, self.answers[arm],
            steps=steps, stop_ids=stop_ids, batch=self.cfg.generation_batch,
        )  # fmt: skip
        ids = [self.test_ids[i] for i in parts.pop("index")["prompt"]]
        for variant, values in parts.items():
            for metric, v in values.items():
                self.run.items("first divergence", variant, metric, ids, v)
                self.run.metric("breakdown", "first divergence", variant, metric, v.mean(), n=len(v))

    def formats(self, bits: Sequence[str], groups: Sequence[str]) -> None:
        """Flip rate and KL of untrained round-to-nearest over formats, teacher-forced on the validation prompts."""
        for b, g in itertools.product(map(int, bits), map(int, groups)):
            quantizer = partial(rtn.fake_quant, bits=b, group=g, symmetric=self.cfg.symmetric)
            training.Latent(block_linears(self.student), partial(training.Full, quantizer=quantizer), self.sources)
            for name, value in self.validation.validation(self.student).items():
                self.run.metric(
                    "formats", "validation prompts", f"W{b} g{g}", name, value, n=len(self.validation.prompts)
                )

    def contests(self) -> list[tuple[str, str]]:
        """Which arms the judge compares: every arm with full precision, and QDPO with every other arm."""
        measured = [a for a in self.answers if a != "fp"]
        return [(a, "fp") for a in measured] + [("qdpo", a) for a in measured if a != "qdpo" and "qdpo" in measured]

    def examples(self, prompts: Sequence[Prompt], arms: Sequence[str], *, n: int) -> pd.DataFrame:
        """The first n test prompts with each arm's answer; `/` marks where it leaves the full-precision answer."""
        rows = []
        for i, prompt in enumerate(prompts[:n]):
            for arm in (a for a in arms if a in self.answers):
                y = self.answers[arm][i]
                t = data.agreement_prefix(y, self.answers["fp"][i])
                head, tail = (self.tokenizer.decode(part, skip_special_tokens=True) for part in (y[:t], y[t:]))
                text = head if arm == "fp" else f"{head} / {tail}"
                rows.append({"prompt": prompt.text, "arm": arm, "answer": text})
        self.run.samples(rows)
        return pd.DataFrame(rows).set_index(["prompt", "arm"])


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
