"""Task accuracy through lm-evaluation-harness, on a model in memory and questions on disk; no hub, no network."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import yaml

from lib.data import read_rows


class Accuracy(NamedTuple):
    """Per-question results of one model, in the order of the file."""

    ids: list[str]
    predicted: np.ndarray  # (N,) option with the largest summed log-likelihood
    correct: np.ndarray  # (N,) bool, lm-eval's acc
    correct_norm: np.ndarray  # (N,) bool, lm-eval's acc_norm: log-likelihood per character of the option
    version: str  # of lm-eval and of the task


class Rows(list):
    """Questions as lm-eval 0.4.13 reads them: of a datasets.Dataset it asks for rows, length and `features`."""

    @property
    def features(self) -> dict:
        return dict.fromkeys(self[0])


def load_task(path: Path | str) -> dict:
    """An lm-eval task from YAML, with the checked rows of the JSON-lines file beside it under "rows".

    The file's name is that of `dataset_kwargs.data_files`, else the YAML's own. Raises FileNotFoundError or ValueError
    naming the line: an id and a question, four different choices, a gold answer 0 to 3.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no task file at {path}; give a YAML file that has its JSON-lines file beside it")
    config = _config(path)
    rows_path = path.with_name(Path(_data_file(config) or path.with_suffix(".jsonl")).name)
    if not rows_path.is_file():
        raise FileNotFoundError(f"no task file at {rows_path}; {path.name} needs it beside itself")
    rows, lines = [], {}
    for n, row in read_rows(rows_path, "question"):
        rows.append(_checked(row, f"{rows_path.name} line {n}"))
        if row["id"] in lines:
            raise ValueError(
                f"{rows_path.name} uses an id twice, {row['id']!r} at lines {lines[row['id']]} and {n}; results are "
                "paired by id"
            )
        lines[row["id"]] = n
    return {**config, "rows": rows}


def _config(path: Path) -> dict:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        where = f"{path.name} line {mark.line + 1}" if mark else path.name
        raise ValueError(f"{where} is no YAML: {getattr(e, 'problem', None) or e}") from None
    if not isinstance(config, dict) or not {"task", "test_split"} <= set(config):
        raise ValueError(f"{path.name} is no task of lm-evaluation-harness: it needs 'task' and 'test_split'")
    return config


def _data_file(config: dict) -> str | None:
    """The file that the task names: one for all splits, or one a split, or a list of which the first is meant."""
    named = config.get("dataset_kwargs")
    named = named.get("data_files") if isinstance(named, dict) else None
    named = named.get(config["test_split"]) if isinstance(named, dict) else named
    named = named[0] if isinstance(named, list) and named else named
    return named if isinstance(named, str) else None


def _checked(row: dict, where: str) -> dict:
    missing = {"id", "question", "choices", "answer"} - {k for k, v in row.items() if v is not None}
    if missing:
        raise ValueError(f"{where} lacks {', '.join(sorted(missing))}")
    choices, answer = row["choices"], row["answer"]
    if isinstance(row["id"], bool) or not isinstance(row["id"], (str, int)):
        raise ValueError(f"{where} needs an id that is a text or a whole number, it has {row['id']!r}")
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise ValueError(f"{where} needs a question that is a text, it has {row['question']!r}")
    texts = isinstance(choices, list) and all(isinstance(c, str) and c.strip() for c in choices)
    if not texts or len(choices) != 4 or len(set(choices)) != 4:
        raise ValueError(f"{where} needs four choices, all different texts, it has {choices!r}")
    if type(answer) is not int or answer not in range(4):
        raise ValueError(f"{where} needs an answer 0 to 3, it has {answer!r}")
    return row


def multiple_choice(model, tokenizer, task: dict, *, batch_size: int, limit: int | None = None) -> Accuracy:
    """Score every question (the first `limit`) with lm-eval's own task, request and metric code.

    s(q, c) = sum over the tokens t of " " + c of log p(t | q, tokens before t), log-softmax in float32; the answer is
    the c of largest s. No chat template, no examples. Raises ValueError, or FloatingPointError if an s is not finite.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"batch_size and limit are at least 1, given {batch_size} and {limit}")
    if not task.get("rows"):
        raise ValueError("the task has no rows; take it from load_task")
    rows, name = Rows(task["rows"][:limit]), task["task"]
    config = {k: v for k, v in task.items() if k != "rows"}
    with _quiet():
        import lm_eval
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.evaluator import evaluate  # simple_evaluate would spend seconds on describing the machine
        from lm_eval.models.huggingface import HFLM
        from lm_eval.utils import env

        harness_task = ConfigurableTask(config=config | {"custom_dataset": lambda **_: {task["test_split"]: rows}})
        own = copy.deepcopy(tokenizer)  # HFLM gives it a padding token
        lm = HFLM(model, backend="causal", tokenizer=own, batch_size=batch_size, softmax_dtype="float32")
        # lm-eval compiles a task's templates anew at every question, which is most of a small model's time
        with mock.patch.object(env, "from_string", cache(env.from_string)):
            out = evaluate(lm=lm, task_dict={name: harness_task}, bootstrap_iters=0, log_samples=True)
    samples = sorted(out["samples"][name], key=lambda s: s["doc_id"])
    scores = np.array([[float(r[0]) for r in s["filtered_resps"]] for s in samples])  # (N, 4)
    if not np.isfinite(scores).all():
        bad = rows[int(np.argmin(np.isfinite(scores).all(1)))]["id"]
        raise FloatingPointError(f"the model's log-likelihoods are not finite, first at question {bad}")
    version = f"lm-eval {lm_eval.__version__}, {name} {task.get('metadata', {}).get('version', 'without version')}"
    correct, correct_norm = (np.array([s[m] == 1 for s in samples]) for m in ("acc", "acc_norm"))
    return Accuracy([rows[s["doc_id"]]["id"] for s in samples], scores.argmax(1), correct, correct_norm, version)


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval draws three bars a model and logs what we know; errors are exceptions and still come through."""
    loggers = [logging.getLogger(n) for n in ("lm_eval", "transformers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@cache
def _manager(include: str | None):
    """lm-eval's index of its tasks and of those in the folder `include`: thousands of files, read once a process."""
    with _quiet():
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=include)


def check_tasks(tasks: Sequence[str], include: Path | None = None):
    """lm-eval's task manager, if it knows every "name:shots"; ValueError naming those it does not, before any work."""
    if not tasks:
        return None
    manager = _manager(include and str(include))
    if bad := [t for t in tasks if t.rpartition(":")[0] not in manager.all_tasks or not t.rpartition(":")[2].isdigit()]:
        raise ValueError(
            "a task is given as a name that lm-eval knows and its number of examples, arc_challenge:25, given "
            f"{', '.join(bad)}"
        )
    return manager


def benchmarks(
    model, tokenizer, tasks: Sequence[str], *, batch_size: int, include: Path | None = None
) -> dict[str, dict[str, float]]:
    """lm-eval's own tasks, "name:shots" each: {name: {metric: value}} of every task or group, without standard errors.

    include: a folder with tasks of your own. A second task of the same name takes the first one's place.
    """
    if not tasks:
        return {}
    manager, out = check_tasks(tasks, include), {}
    with _quiet():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(
            model, backend="causal", tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size, softmax_dtype="float32"
        )
        for name, _, shots in (t.rpartition(":") for t in tasks):
            found = simple_evaluate(
                lm, tasks=[name], num_fewshot=int(shots), bootstrap_iters=0, log_samples=False, task_manager=manager
            )
            results = found.get("groups", {}).get(name) or found["results"][name]
            out[name] = {
                k.removesuffix(",none"): float(v)
                for k, v in results.items()
                if isinstance(v, (int, float)) and "stderr" not in k
            }
    return out


def answer_flips(a: Accuracy, b: Accuracy) -> dict[str, float]:
    """From a to b: share of questions whose answer changed, went right to wrong, wrong to right (arXiv 2407.09141).

    Two models of equal accuracy can differ in many answers: "changed" also counts one wrong answer for another.
    """
    if a.ids != b.ids or not a.ids:
        raise ValueError("answer flips compare two models on the same questions in the same order, at least one")
    return {
        "changed": float((a.predicted != b.predicted).mean()),
        "right to wrong": float((a.correct & ~b.correct).mean()),
        "wrong to right": float((~a.correct & b.correct).mean()),
    }
