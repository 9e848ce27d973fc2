"""The second references of MRPO: trained here on a task's own pairs, or a model of another family
with a tokenizer of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib import data
from lib.engine import models, objectives, training
from lib.harness import seeding
from lib.harness.cache import cached
from lib.harness.progress import track
from lib.losses import Preference, dpo
from lib.scoring.likelihood import completion_logprobs
from lib.studies.mrpo.answers import Answers
from lib.studies.mrpo.candidates import Candidates, halves
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
    """`scored` under the model that `spec` names, loaded for that alone."""
    model, tokenizer = models.load(spec, dtype=dtype, device=device)
    return scored(model, tokenizer, c, stop_ids=stop_ids, batch=batch)


def scored(model, tokenizer, c: Candidates, *, stop_ids: Sequence[int], batch: int) -> tuple[Tensor, Tensor]:
    """Log-probs and token counts, both (N, n), of candidates under a model of another family: its own tokenizer,
    template and end token.

    An answer that ended in one of `stop_ids` ends in the other model's end of turn, so both score the end or
    neither does.
    """
    answers = [[spelled(tokenizer, model, t, ended=a[-1] in stop_ids) for t, a in zip(*row)]
        for row in zip(c.texts, c.answers)]  # fmt: skip
    scores = completion_logprobs(model, data.encode(tokenizer, c.prompts), *zip(*answers), batch=batch)
    return scores, lengths(answers)


def spelled(tokenizer, model, text: str, *, ended: bool) -> list[int]:
    """A text's ids, with the end of turn where it ended, and where there is nothing else."""
    end = models.end_of_turn(tokenizer, models.stop_ids(model, tokenizer))
    return [*tokenizer.encode(text, add_special_tokens=False), *[end] * (ended or not text)]


class Local(NamedTuple):
    """How the small model of another family is made that no download is needed for."""

    steps: int
    batch: int
    lr: float


def local(c: Candidates, rewards: Tensor, rows: Sequence[int], how: Local, *, stop_ids: Sequence[int]):
    """(model, tokenizer): a Llama of four thin layers that reads bytes, trained from random weights to write the better
    half of the answers, by their rewards (N, n), to the prompts `rows`."""
    model, tokenizer = models.load("tiny-random", dtype=torch.float32)
    best = {i: rewards[i].argsort(descending=True)[: max(1, rewards.shape[1] // 2)].tolist() for i in rows}
    encoded = data.encode(tokenizer, c.prompts)
    prompts = [encoded[i] for i in rows for _ in best[i]]
    answers = [spelled(tokenizer, model, c.texts[i][k], ended=c.answers[i][k][-1] in stop_ids)
        for i in rows for k in best[i]]  # fmt: skip
    order = training.epochs(len(prompts), min(how.batch, len(prompts)), torch.Generator().manual_seed(0))
    objective = objectives.supervised(model.requires_grad_(True), prompts, answers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.lr)  # embeddings too: they are random as all else is
    for _ in track(range(how.steps), "foreign reference"):
        rows_now = next(order)
        optimizer.zero_grad()
        (objective(rows_now)[0] / len(rows_now)).backward()
        optimizer.step()
    model.requires_grad_(False)
    return model, tokenizer


def other_family(said: Mapping[str, Answers], reward: str, cfg, *, stop_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Log-probs and token counts (P, n) of all splits' answers, one split after the other, under `cfg.second_model`, or
    where that is none under a `local` model, made of the better answers to the topics that no policy sees; once, kept
    in data/cache."""
    settings: Any = dict(stop_ids=list(stop_ids), batch=cfg.eval_batch)
    if cfg.second_model != "none":
        place: Any = dict(dtype=getattr(torch, cfg.dtype), device=cfg.device)
        parts = [foreign(cfg.second_model, a.candidates, **settings, **place) for a in said.values()]
        sums, counts = (torch.cat(column) for column in zip(*parts))
        return sums, counts
    how = Local(cfg.tilt_steps, 16, 3e-3)
    key = {
        "code": 1,  # raise it when a value can change
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "texts": [[p.text, *row] for a in said.values() for p, row in zip(a.candidates.prompts, a.candidates.texts)],
        "reward": reward,
        "how": list(how),
        **settings,
    }

    def compute():
        c = said["train"].candidates
        rows = halves(c.prompts)[1]
        model, tokenizer = local(c, c.rewards(reward), rows, how, stop_ids=stop_ids)
        found = [scored(model, tokenizer, a.candidates, **settings) for a in said.values()]
        return [torch.cat(column).tolist() for column in zip(*found)]

    sums, counts = (torch.tensor(x) for x in cached("foreign", key, compute))
    return sums, counts
