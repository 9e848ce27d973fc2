"""The second references of MRPO: trained here on a task's own pairs, or another model with a tokenizer of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib import data
from lib.engine import models
from lib.harness import seeding
from lib.losses import Preference, dpo
from lib.scoring.likelihood import completion_logprobs
from lib.studies.mrpo.candidates import Candidates
from lib.studies.mrpo.scores import table
from lib.studies.mrpo.tasks import Task
from lib.studies.mrpo.training import fit, steps
from lib.studies.mrpo.world import World, lengths, snapshot


def make(world: World, t: Task) -> None:
    """Train and store the references of a task: "complementary" (the same oracle, its own pairs) and "equal" (own
    samples, no oracle)."""
    primary = table(world, ["base"], "train", t.reference)
    coin = seeding.numpy_rng(world.cfg.seed, "coin").random(len(t.reference)) < 0.5
    blind = [c._replace(chosen=c.rejected, rejected=c.chosen) if heads else c for c, heads in zip(t.reference, coin)]

    def preferred(w, l, i):
        return dpo(w, l, primary.chosen[0, i].to(w.device), primary.rejected[0, i].to(w.device), beta=world.cfg.beta)

    def likely(w, l, i):
        return Preference(-w / world.tokens["train"].mean(), w.detach(), l.detach())

    for name, picks, loss in (("complementary", t.reference, preferred), ("equal", blind, likely)):
        desc = f"{name} reference, {t.name}"
        fit(world, picks, loss, lr=world.cfg.lr, steps=steps(world, len(picks)), desc=desc)
        world.weights[name] = snapshot(world.linears)
    for key in [k for k in world.matrices if k[0] != "base" and k not in world.counts]:
        del world.matrices[key]


def add_foreign(world: World, name: str, spec: str) -> None:
    """Score every candidate once with another model, loaded for that alone: a second reference under its own
    tokenizer."""
    how = dict(batch=world.cfg.eval_batch, dtype=world.model.dtype, device=str(world.model.device))
    for split, c in world.splits.items():
        world.matrices[name, split], world.counts[name, split] = foreign(spec, c, stop_ids=world.stop, **how)


def foreign(
    spec: str, c: Candidates, *, stop_ids: Sequence[int], batch: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """Log-probs and token counts, both (N, n), of candidates under a model of another family: its own tokenizer,
    template and end token.

    An answer that ended in one of `stop_ids` ends in the other model's end of turn, so both score the end or
    neither does.
    """
    model, tokenizer = models.load(spec, dtype=dtype, device=device)
    end = models.end_of_turn(tokenizer, models.stop_ids(model, tokenizer))

    def spell(text, ids):
        ended = ids[-1] in stop_ids or not text
        return [*tokenizer.encode(text, add_special_tokens=False), *[end] * ended]

    answers = [[spell(t, a) for t, a in zip(*row)] for row in zip(c.texts, c.answers)]
    scores = completion_logprobs(model, data.encode(tokenizer, c.prompts), *zip(*answers), batch=batch)
    return scores, lengths(answers)
