"""Task accuracy through lm-evaluation-harness, on a model in memory and questions on disk; no hub, no network."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml


class Accuracy(NamedTuple):
    """Per-question results of one model."""

    ids: list[str]
    predicted: np.ndarray  # (N,) option with the largest summed log-likelihood
    correct: np.ndarray  # (N,) bool, lm-eval's acc
    correct_norm: np.ndarray  # (N,) bool, lm-eval's acc_norm (log-likelihood per byte)
    version: str  # of lm-eval


def load_task(path: Path | str) -> dict:
    """An lm-eval task from YAML, with the rows of the JSON-lines file of the same name under "rows".

    Raises FileNotFoundError or ValueError naming the row: four choices, gold answer 0 to 3.
    """
    path = Path(path)
    rows_path = path.with_suffix(".jsonl")
    for p in (path, rows_path):
        if not p.is_file():
            raise FileNotFoundError(f"no task file at {p}; a task is a YAML file and a JSON-lines file of the same name")
    rows = [json.loads(line) for line in rows_path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows:
        raise ValueError(f"{rows_path.name} holds no question")
    for n, r in enumerate(rows, 1):
        if len(r["choices"]) != 4 or r["answer"] not in range(4):
            raise ValueError(f"{rows_path.name} line {n} needs four choices and an answer 0 to 3, it has {len(r['choices'])} and {r['answer']}")
    return {**yaml.safe_load(path.read_text(encoding="utf-8")), "rows": rows}


def multiple_choice(model, tokenizer, task: dict, *, batch_size: int, limit: int | None = None) -> Accuracy:
    """Score every question with lm-eval's own task, request and metric code; log-softmax in float32."""
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import lm_eval
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    rows = task["rows"][:limit]
    config = {k: v for k, v in task.items() if k != "rows"}
    config["custom_dataset"] = lambda **_: {"test": Dataset.from_list(rows)}
    quiet = not os.environ.get("PLUMBLINE_SHOW_LM_EVAL")
    before = os.environ.get("TQDM_DISABLE")
    if quiet:  # one bar per request type and arm would drown the notebook
        os.environ["TQDM_DISABLE"] = "1"
    try:
        harness_task = ConfigurableTask(config=config)
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32", backend="causal")
        out = evaluate(lm=lm, task_dict={config["task"]: harness_task}, bootstrap_iters=0, log_samples=True)
    finally:
        if quiet:
            os.environ.pop("TQDM_DISABLE") if before is None else os.environ.__setitem__("TQDM_DISABLE", before)
    samples = sorted(out["samples"][config["task"]], key=lambda s: s["doc_id"])
    predicted = np.array([int(np.argmax([float(r[0]) for r in s["filtered_resps"]])) for s in samples])
    acc, norm = (np.array([bool(s[m]) for s in samples]) for m in ("acc", "acc_norm"))
    return Accuracy([rows[s["doc_id"]]["id"] for s in samples], predicted, acc, norm, lm_eval.__version__)


def answer_flips(a: Accuracy, b: Accuracy) -> dict[str, float]:
    """From a to b: share of questions whose answer changed, went right to wrong, wrong to right (arXiv 2407.09141)."""
    if a.ids != b.ids:
        raise ValueError("answer flips compare two models on the same questions in the same order")
    return {
        "changed": float((a.predicted != b.predicted).mean()),
        "right to wrong": float((a.correct & ~b.correct).mean()),
        "wrong to right": float((~a.correct & b.correct).mean()),
    }
