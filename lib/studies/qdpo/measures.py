"""What is measured of an arm of the QDPO study and recorded in its run: fidelity, tasks, the judge's verdicts, and
where and why it flips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from lib import data, scoring
from lib.data import Prompt
from lib.engine import latents
from lib.quantization import rtn
from lib.scoring import flipping, metrics
from lib.scoring.likelihood import judge_both_orders
from lib.studies.qdpo.study import Study, anew, quantized


def measure(study: Study, arm: str, model, answers: Sequence[Sequence[int]] | None = None) -> None:
    """Fidelity on the test prompts, task accuracy, items and samples of one arm."""
    scores, study.forced[arm], study.answers[arm] = study.test.measure(model, answers)
    study.scores[arm] = scores
    tokens = scores["tokens"]
    for name, values in scores.items():
        if name in ("flips", "kl", "fp answer logprob"):  # sums over tokens: the weight turns them into rates
            study.run.items("test prompts", arm, name, study.test_ids, values / tokens, weights=tokens)
        elif name != "tokens":
            study.run.items("test prompts", arm, name, study.test_ids, values)
    for name in ("flips", "kl", "fp answer logprob"):
        study.run.metric("arms", "test prompts", arm, name, scores[name].sum() / tokens.sum(), n=len(tokens))
    for name in ("agreement prefix", "exact match", "rouge-l", "fp likelihood", "length ratio"):
        study.run.metric("arms", "test prompts", arm, name, scores[name].mean(), n=len(tokens))
    study.run.metric(
        "arms", "test prompts", arm, "distinct-2", metrics.distinct_n(study.answers[arm], 2), n=len(tokens)
    )
    if arm in study.cfg.items_of("task_arms"):
        result = scoring.multiple_choice(
            model, study.tokenizer, study.task, batch_size=study.cfg.eval_batch, limit=study.cfg.n_questions
        )
        study.tasks[arm] = result
        study.run.items("common knowledge", arm, "accuracy", result.ids, np.asarray(result.correct, float))
        study.run.metric("arms", "common knowledge", arm, "accuracy", np.mean(result.correct), n=len(result.ids))
        if "fp" in study.tasks:
            flips = np.asarray(result.predicted) != np.asarray(study.tasks["fp"].predicted)
            study.run.items("common knowledge", arm, "answer flips", result.ids, flips.astype(float))
            study.run.metric("arms", "common knowledge", arm, "answer flips", flips.mean(), n=len(flips))


def judge(study: Study, judge, ours: str, theirs: str) -> dict[str, float]:
    """Win, tie and lose of one arm against another on the test prompts, in both orders with FastChat's tie rule."""
    verdicts = judge_both_orders(
        judge, study.test.prompts, study.answers[ours], study.answers[theirs], margin=study.cfg.judge_margin
    )
    rates = metrics.win_rates(verdicts)
    for name in ("win", "lose"):
        hits = np.array([v == name for v in verdicts], float)
        study.run.items(f"judge vs {theirs}", ours, name, study.test_ids, hits)
        study.run.metric("judge", f"judge vs {theirs}", ours, name, hits.mean(), n=len(hits))
    return rates


def margins(study: Study, arm: str) -> None:
    """Full-precision margin at flipped and at kept positions, and flip probability by margin decile."""
    f, n = study.forced[arm], len(study.test_ids)
    for name, chosen in (("margin where flipped", f.flip), ("margin where kept", ~f.flip)):
        count = f.per_row(chosen, n)
        has = count > 0
        mean = f.per_row(f.margin * chosen, n)[has] / count[has]
        study.run.items(
            "test prompts", arm, name, [i for i, h in zip(study.test_ids, has) if h], mean, weights=count[has]
        )
        study.run.metric("flips", "test prompts", arm, name, np.average(mean, weights=count[has]), n=int(count.sum()))
    for k, d in enumerate(metrics.flip_by_margin_decile(f.margin, f.flip), 1):
        study.run.metric("flips", "test prompts", arm, f"flip rate, margin decile {k}", d["rate"], n=d["n"])


def breakdown(study: Study, arm: str, *, steps: int, stop_ids: Sequence[int]) -> None:
    """Record the four-way breakdown at each prompt's first divergence of `arm` (a round-to-nearest student)."""
    parts = flipping.breakdown(
        study.fp,
        quantized(study),
        study.test.prompts,
        study.test.answers,
        study.answers[arm],
        steps=steps,
        stop_ids=stop_ids,
        batch=study.cfg.generation_batch,
    )
    ids = [study.test_ids[i] for i in parts.pop("index")["prompt"]]
    for variant, values in parts.items():
        for metric, v in values.items():
            study.run.items("first divergence", variant, metric, ids, v)
            study.run.metric("breakdown", "first divergence", variant, metric, v.mean(), n=len(v))


def formats(study: Study, bits: Sequence[int], groups: Sequence[int]) -> None:
    """Flip rate and KL of untrained round-to-nearest over formats, teacher-forced on the validation prompts."""
    for b, g in itertools.product(bits, groups):
        quantizer = partial(rtn.fake_quant, **study.format | {"bits": b, "group": g})
        anew(study, partial(latents.Full, quantizer=quantizer))
        for name, value in study.validation.validation(study.student).items():
            study.run.metric(
                "formats", "validation prompts", f"W{b} g{g}", name, value, n=len(study.validation.prompts)
            )


def contests(study: Study) -> list[tuple[str, str]]:
    """Which arms the judge compares: every arm with full precision, and QDPO with every other arm."""
    measured = [a for a in study.answers if a != "fp"]
    return [(a, "fp") for a in measured] + [("qdpo", a) for a in measured if a != "qdpo" and "qdpo" in measured]


def examples(study: Study, prompts: Sequence[Prompt], arms: Sequence[str], *, n: int) -> pd.DataFrame:
    """The first n test prompts with each arm's answer; `/` marks where it leaves the full-precision answer."""
    rows = []
    for i, prompt in enumerate(prompts[:n]):
        for arm in (a for a in arms if a in study.answers):
            y = study.answers[arm][i]
            t = data.agreement_prefix(y, study.answers["fp"][i])
            head, tail = (study.tokenizer.decode(part, skip_special_tokens=True) for part in (y[:t], y[t:]))
            text = head if arm == "fp" else f"{head} / {tail}"
            rows.append({"prompt": prompt.text, "arm": arm, "answer": text})
    study.run.samples(rows)
    return pd.DataFrame(rows).set_index(["prompt", "arm"])
