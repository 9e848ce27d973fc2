"""A world of truth for QDPO: skills that the full-precision model is taught first, whose answers a program can check.

Full precision answers most of the held-out questions and the quantized model fewer; that is the premise, measured in
every run. What a repair is worth is then the share of the damage that it takes back, by truth and by no model's
likelihood: (repaired - quantized) / (full precision - quantized).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lib import data
from lib.engine import checkpoint, latents, objectives, training
from lib.engine.generation import generate
from lib.engine.models import end_of_turn
from lib.engine.weights import fingerprint
from lib.harness import cache, paths, seeding
from lib.quantization import block_linears
from lib.synthesis import exams
from lib.synthesis.exams import Question
from lib.taxonomy.tree import Leaf


class Teaching(NamedTuple):
    """How the skills are taught to full precision: passes over the questions, rows a step and a forward, peak rate."""

    epochs: int
    batch: int
    micro: int
    lr: float


class Exam(NamedTuple):
    """Held-out questions as the model reads them, and what checks its answers."""

    questions: tuple[Question, ...]
    prompts: list[list[int]]
    leaves: Sequence[Leaf]
    tokenizer: Any
    decoding: dict  # max_new_tokens, stop_ids, batch


def ask(tokenizer, questions: Sequence[Question]) -> list[list[int]]:
    """Each question as one user turn: its context, an empty line, the question."""
    texts = ["\n\n".join(x for x in (q.context, q.question) if x) for q in questions]
    return data.encode(tokenizer, [data.Prompt(q.id, q.leaf, t, "") for q, t in zip(questions, texts)])


def exam(tokenizer, leaves: Sequence[Leaf], questions: Sequence[Question], **decoding) -> Exam:
    """An exam of these questions, decoded greedily as `decoding` says (max_new_tokens, stop_ids, batch)."""
    return Exam(tuple(questions), ask(tokenizer, questions), leaves, tokenizer, decoding)


def right(of: Exam, model) -> np.ndarray:
    """Whether the model's greedy answer to each question is one that counts, (N,) bool: word for word, or by the
    skill's checker."""
    done = generate(model, of.prompts, **of.decoding)
    texts = [of.tokenizer.decode(c.tokens, skip_special_tokens=True).strip() for c in done]
    said = exams.accepted(of.questions, texts, of.leaves)
    return np.array([ok or text in q.right for ok, text, q in zip(said, texts, of.questions)])


def teach(model, tokenizer, questions: Sequence[Question], how: Teaching, *, stop_ids: Sequence[int], seed: int) -> str:
    """Supervised fine-tuning of every block on the questions' first right answers, in place; kept in the cache by the
    model's weights, the questions and `how`. Returns the name under which it is kept."""
    end = end_of_turn(tokenizer, stop_ids)
    X = ask(tokenizer, questions)
    Y = [[*tokenizer.encode(q.right[0], add_special_tokens=False), end] for q in questions]
    key = cache.fingerprint({"weights": fingerprint(model), "rows": [X, Y], "how": how._asdict(), "seed": seed})
    path = paths.CACHE / "taught" / f"{key}.safetensors"
    layers = block_linears(model)
    if path.exists():
        for name, weight in checkpoint.load(path).items():
            layers[name].weight.data.copy_(weight)
        return path.stem
    latent = latents.Latent(layers, partial(latents.Full, quantizer=None))
    order = seeding.torch_generator(seed, "teaching")
    steps = max(1, round(how.epochs * len(X) / how.batch))
    training.fit(
        latent,
        training.epochs(len(X), how.batch, order, lengths=[len(x) + len(y) for x, y in zip(X, Y)]),
        objectives.supervised(model, X, Y),
        training.AdamW(how.lr, warmup=max(1, steps // 10), clip=1.0, horizon=steps),
        steps=steps,
        micro=how.micro,
        desc="teaching",
    )
    latent.sync()
    checkpoint.save(path, {name: m.weight for name, m in layers.items()})
    return path.stem
