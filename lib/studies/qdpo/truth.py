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
from lib.engine.generation import generate_cached
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


class World(NamedTuple):
    """The skills and their questions, no two alike: those taught, those that are asked in the end, those that choose
    rates, and those whose full-precision answers a repair may learn from."""

    leaves: list[Leaf]
    taught: list[Question]
    test: list[Question]
    validation: list[Question]
    repair: list[Question]


def world(leaves: Sequence[Leaf], skills: Sequence[str], *, taught: int, test: int, validation: int, repair: int,
          seed: int) -> World:  # fmt: skip
    """So many questions of each named skill (the last part of its path). The world is the same for every seed but for
    the repair's questions. ValueError for a skill that there is not, or one without a checker."""
    known = {leaf.path.rpartition("/")[2]: leaf for leaf in leaves if leaf.checker}
    if wrong := [name for name in skills if name not in known]:
        raise ValueError(f"a skill is one of {', '.join(sorted(known))}, given {', '.join(wrong)}")
    mine = [leaf for leaf in known.values() if leaf.path.rpartition("/")[2] in skills]
    made: dict[str, list[Question]] = {}
    parts = (("test", test, 0), ("taught", taught, 1), ("validation", validation, 2), ("repair", repair, 1000 + seed))
    for name, each, draw in parts:
        before = [q for part in made.values() for q in part]
        more = exams.skills(mine, each=each, seed=draw, others=before) if each else []
        made[name] = [q._replace(id=f"{name}: {q.id}") for q in more]
    return World(mine, **made)


def prompts(questions: Sequence[Question]) -> list[data.Prompt]:
    """Each question as one user turn: its context, an empty line, the question."""
    texts = ["\n\n".join(x for x in (q.context, q.question) if x) for q in questions]
    return [data.Prompt(q.id, q.leaf.rpartition("/")[2], t, "") for q, t in zip(questions, texts)]


def ask(tokenizer, questions: Sequence[Question]) -> list[list[int]]:
    """The token ids of `prompts`."""
    return data.encode(tokenizer, prompts(questions))


def exam(tokenizer, leaves: Sequence[Leaf], questions: Sequence[Question], **decoding) -> Exam:
    """An exam of these questions, decoded greedily as `decoding` says (max_new_tokens, stop_ids, batch)."""
    return Exam(tuple(questions), ask(tokenizer, questions), leaves, tokenizer, decoding)


def answers(of: Exam, model) -> list[list[int]]:
    """The model's greedy answers, as token ids."""
    return generate_cached(model, of.prompts, **of.decoding)


def right(of: Exam, given: Sequence[Sequence[int]]) -> np.ndarray:
    """Whether each answer (token ids) is one that counts, (N,) bool: word for word, or by the skill's checker."""
    texts = [of.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in given]
    said = exams.accepted(of.questions, texts, of.leaves)
    return np.array([ok or text in q.right for ok, text, q in zip(said, texts, of.questions)])


def recovered(repaired: float, quantized: float, full: float) -> float:
    """(repaired - quantized) / (full - quantized): the share of the damage that a repair takes back. ValueError where
    quantization did none."""
    if not full > quantized:
        raise ValueError(f"nothing was lost that could come back: full precision {full:.3f}, quantized {quantized:.3f}")
    return (repaired - quantized) / (full - quantized)


def teach(model, tokenizer, questions: Sequence[Question], how: Teaching, *, stop_ids: Sequence[int], seed: int) -> str:
    """Supervised fine-tuning of every block on the questions' first right answers, in place; kept in the cache by the
    model's weights, the questions and `how`. Returns the name under which it is kept; without questions nothing is
    taught, and the name is empty."""
    if not questions:
        return ""
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
