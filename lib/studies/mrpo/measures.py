"""What is measured of a policy in MRPO's world and recorded in its run: accuracy on held-out pairs, weights of the
rules, what it knows, what people prefer, and what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib import scoring
from lib.data import Comparison, Prompt, encode
from lib.engine import trunk
from lib.engine.generation import Completion, Sampling, generate, recorded
from lib.engine.models import end_of_turn
from lib.harness import seeding
from lib.losses import references
from lib.scoring.likelihood import completion_logprobs
from lib.scoring.oracles import score
from lib.studies.mrpo import arms
from lib.studies.mrpo.candidates import Choice, gather
from lib.studies.mrpo.scores import under_top
from lib.studies.mrpo.tasks import Task
from lib.studies.mrpo.world import World, load, standing_in


def measure(
    world: World,
    arm: str,
    name: str,
    picks: Sequence[Choice],
    *,
    table: references.Table,
    own: tuple[Tensor, Tensor],
    policy: Tensor,
    normalized: bool = False,
) -> None:
    """Held-out accuracy four ways and the margin, per prompt, of the policy whose candidate log-probs are `policy`.

    own: the method's reference log-probs, per token if `normalized`, as the policy's are then; table: row 0 is the
    primary. Strictly greater counts, so the base scores
    0 against itself.
    """
    w, l = gather(policy, picks)
    lengths = table.chosen_tokens[0], table.rejected_tokens[0]
    mine = (w / lengths[0], l / lengths[1]) if normalized else (w, l)
    primary = (w - table.chosen[0]) - (l - table.rejected[0])
    hits = {
        "accuracy, own reference": (mine[0] - own[0]) - (mine[1] - own[1]) > 0,
        "accuracy, primary reference": primary > 0,
        "accuracy, reference-free sum": w > l,
        "accuracy, reference-free mean": w / lengths[0] > l / lengths[1],
        "margin, nats": primary,
    }
    ids = [world.splits["test"].prompts[c.row].id for c in picks]
    names, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    for metric, values in hits.items():
        mean = np.bincount(place, weights=values.double().numpy()) / counts
        world.run.items(f"held-out {name}", arm, metric, names, mean, weights=counts)
        world.run.metric("accuracy", f"held-out {name}", arm, metric, np.average(mean, weights=counts), n=len(picks))


def concentration(world: World, t: Task, seconds: Sequence[str]) -> None:
    """How much weight each rule gives every second reference beside the primary, on training pairs."""
    for second in (n for n in seconds if n == "mis-scored" or n in world.weights or (n, "train") in world.counts):
        for rule in ("arwc", "vdw", "vaw"):
            a = arms.weights_of(world, rule, ["base", second], "train", t.train, t.validation)[1]
            world.run.metric("weights", t.name, second, rule, a.mean().item())
            if rule == "arwc":
                world.run.items(f"weights {t.name}", second, "arwc", range(len(a)), a.tolist())


def questions(world: World, arm: str, task: dict) -> None:
    """lm-eval's multiple choice with the policy as it stands: what a preference for style costs in knowledge."""
    got = scoring.multiple_choice(world.model, world.tokenizer, task, batch_size=16)
    world.run.items("questions", arm, "accuracy", got.ids, got.correct)


def benchmarks(world: World, arm: str, tasks: Sequence[str], include: Path | None = None) -> None:
    """lm-eval's own tasks with the policy as it stands."""
    how = dict(batch_size=world.cfg.eval_batch, include=include)
    for name, found in scoring.benchmarks(world.model, world.tokenizer, tasks, **how).items():
        for metric, value in found.items():
            world.run.metric("benchmarks", name, arm, metric, value)


def transfer(world: World, arm: str, name: str, pairs: Sequence[Comparison]) -> None:
    """Accuracy on preferences of people, which nothing here was trained on, with the policy as it stands: no
    reference enters."""
    prompts = encode(world.tokenizer, [Prompt(str(i), name, p.text, "test", p.prompt) for i, p in enumerate(pairs)])
    end = end_of_turn(world.tokenizer, world.stop)
    chosen, rejected = (
        [[*world.tokenizer.encode(pair[k], add_special_tokens=False), end] for pair in pairs] for k in (1, 2)
    )
    w, l = completion_logprobs(world.model, prompts, chosen, rejected, batch=world.cfg.eval_batch).unbind(1)
    n, m = (torch.tensor([len(a) for a in side]) for side in (chosen, rejected))
    for kind, hit in (("sum", w > l), ("mean", w / n > l / m)):
        metric = f"accuracy, reference-free {kind}"
        world.run.items(f"transfer {name}", arm, metric, range(len(pairs)), hit.double().tolist())


def generated(world: World, arm: str, t: Task, *, to: Sequence[str]) -> None:
    """True reward (where it is known) of answers sampled from the policy as it stands, and their KL to stored
    models: E log pi - log pi_k."""
    c, name = world.splits["test"].part(t.category), f"samples {t.name}"
    done = _answers(world, arm, t)
    ids, texts = [p.id for p in c.prompts], [world.tokenizer.decode(x.tokens, skip_special_tokens=True) for x in done]
    if not t.category:
        world.run.items(name, arm, "true reward", ids, score(t.name, texts).tolist())
    world.run.items(name, arm, "length", ids, [len(x.tokens) for x in done])
    own = torch.tensor([sum(x.logprobs) for x in done])
    rows = [(p, [x.tokens]) for p, x in zip(c.ids, done)]
    pieces = [recorded([x]) for x in done]  # the same for all references
    with standing_in(world):
        for k in to:
            load(world, world.weights[k])
            world.run.items(name, arm, f"KL to {k}", ids, (own - under_top(world, rows, pieces)).tolist())


def _answers(world: World, arm: str, t: Task) -> list[Completion]:
    """One sampled answer to each test prompt of the task; the base's are drawn once for all tasks of a category."""
    if arm == "base" and t.category in world.base_answers:
        return world.base_answers[t.category]
    done = generate(
        world.model,
        world.splits["test"].part(t.category).ids,
        sampling=Sampling(1.0, seeding.torch_generator(world.cfg.seed, "evaluation samples")),
        max_new_tokens=world.cfg.tokens,
        stop_ids=world.stop,
        batch=world.cfg.generation_batch,
        watch=trunk.end(world.model, world.cfg.blocks),
    )
    if arm == "base":
        world.base_answers[t.category] = done
    return done
