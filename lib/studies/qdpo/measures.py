"""What is measured of an arm of the QDPO study and recorded in its run: truth on an exam, flips and KL on open prompts,
a judge's verdicts, and where and why it flips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from lib import data
from lib.engine import latents
from lib.engine.generation import generate_cached
from lib.engine.weights import fingerprint
from lib.harness.cache import cached
from lib.quantization import rtn
from lib.scoring import flipping, metrics
from lib.scoring.likelihood import judge_both_orders
from lib.studies.qdpo import truth
from lib.studies.qdpo.study import Study, anew, quantized

EXAM, TEST = "exam", "test prompts"


def measure(study: Study, arm: str, model) -> None:
    """Truth on the exam, with how far its answers are full precision's; flips and KL along full precision's answers to
    the test prompts. Only for a judge the arm writes answers of its own to these."""
    run, ids = study.run, [q.id for q in study.exam.questions]
    said = study.answers[arm] = truth.answers(study.exam, model)
    right = study.right[arm] = truth.right(study.exam, said)
    full = study.answers["fp"] if "fp" in study.answers else said
    scores = {
        "accuracy": right.astype(float),
        "exact match": np.array([metrics.exact_match(a, b) for a, b in zip(said, full)], float),
        "agreement prefix": np.array([data.agreement_prefix(a, b) for a, b in zip(said, full)], float),
    }
    for name, values in scores.items():
        run.items(EXAM, arm, name, ids, values)
        run.metric("arms", EXAM, arm, name, values.mean(), n=len(ids))
    forced = study.forced[arm] = study.test.forced(model)
    tokens = np.array([len(a) for a in study.test.answers], float)
    for name, said_of in (("flips", forced.flip), ("kl", forced.kl), ("fp answer logprob", forced.q_logprob)):
        sums = forced.per_row(said_of, len(tokens))  # sums over tokens: the weight turns them into rates
        run.items(TEST, arm, name, study.test_ids, sums / tokens, weights=tokens)
        run.metric("arms", TEST, arm, name, sums.sum() / tokens.sum(), n=len(tokens))
    if study.cfg.judge != "none":
        study.written[arm] = generate_cached(model, study.test.prompts, **study.test.generation)


def judge(study: Study, judge, ours: str, theirs: str) -> dict[str, float]:
    """Win, tie and lose of one arm against another on the test prompts, in both orders with FastChat's tie rule. Under
    the name of what it is: JUDGE=fp tells which text full precision finds likelier, and nothing of its worth."""
    verdicts = judge_both_orders(
        judge, study.test.prompts, study.written[ours], study.written[theirs], margin=study.cfg.judge_margin
    )
    rates = metrics.win_rates(verdicts)
    kind = "likelihood under full precision" if study.cfg.judge == "fp" else "judge"
    for name in ("win", "lose"):
        hits = np.array([v == name for v in verdicts], float)
        study.run.items(f"{kind} vs {theirs}", ours, name, study.test_ids, hits)
        study.run.metric("judge", f"{kind} vs {theirs}", ours, name, hits.mean(), n=len(hits))
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


def breakdown(study: Study, *, steps: int, stop_ids: Sequence[int]) -> None:
    """Record the four-way breakdown at each test prompt's first divergence of round-to-nearest from full precision.
    No seed moves it, so it is kept in the cache."""
    student, test = quantized(study), study.test
    said = generate_cached(student, test.prompts, **test.generation)
    how = dict(steps=steps, stop_ids=list(stop_ids), batch=study.cfg.generation_batch)
    key = {"code": 1, "weights": [fingerprint(m) for m in (study.fp, student)], "torch": torch.__version__} | how
    key |= {"rows": [test.prompts, test.answers, said], "threads": torch.get_num_threads()}

    def compute():
        found = flipping.breakdown(study.fp, student, test.prompts, test.answers, said, **how)
        return {name: {m: v.tolist() for m, v in part.items()} for name, part in found.items()}

    parts = {k: {m: np.array(v) for m, v in p.items()} for k, p in cached("breakdown", key, compute).items()}
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
    measured = [a for a in study.written if a != "fp"]
    return [(a, "fp") for a in measured] + [("qdpo", a) for a in measured if a != "qdpo" and "qdpo" in measured]


def premise(study: Study) -> pd.DataFrame:
    """What the world is worth: full precision's accuracy, each arm's, and the share of the damage it takes back."""
    full, start = study.right["fp"].mean(), study.right["rtn"].mean()
    rows = []
    for arm, right in study.right.items():
        back = truth.recovered(right.mean(), start, full) if full > start else np.nan
        rows.append((arm, right.mean(), right.sum(), len(right), np.nan if arm in ("fp", "rtn") else back))
    return pd.DataFrame(rows, columns=["arm", "accuracy", "right", "questions", "damage taken back"]).set_index("arm")


def examples(study: Study, arms: Sequence[str], *, n: int) -> pd.DataFrame:
    """The first questions that round-to-nearest gets wrong and full precision right, with each arm's answer; `/` marks
    where it leaves the full-precision answer."""
    lost = np.flatnonzero(study.right["fp"] & ~study.right["rtn"])[:n]
    rows = []
    for i in lost if len(lost) else range(n):
        text = study.tokenizer.decode(study.exam.prompts[i], skip_special_tokens=True)
        for arm in (a for a in arms if a in study.answers):
            y = study.answers[arm][i]
            t = data.agreement_prefix(y, study.answers["fp"][i])
            head, tail = (study.tokenizer.decode(part, skip_special_tokens=True) for part in (y[:t], y[t:]))
            answer = head if arm == "fp" else f"{head} / {tail}"
            rows.append({"prompt": text, "arm": arm, "answer": answer, "right": bool(study.right[arm][i])})
    study.run.samples(rows)
    return pd.DataFrame(rows).set_index(["prompt", "arm"])
