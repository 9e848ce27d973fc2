"""What an experiment of MRPO learns from and is judged on: preferences of one oracle, or of people."""

from __future__ import annotations

from typing import NamedTuple

from lib.harness import seeding
from lib.studies.mrpo.candidates import Candidates, Choice, choices


class Task(NamedTuple):
    """Preferences of one oracle: what the policy learns from, what made its complementary reference, what everything is
    judged on."""

    name: str  # of the reward, or of people's preferences
    train: list[Choice]
    reference: list[Choice]
    validation: list[Choice]
    test: list[Choice]
    category: str = ""  # of the prompts it is about; empty: all


def of_reward(splits: dict[str, Candidates], reward: str, cfg, *, scarce: bool) -> Task:
    """The preferences of one reward. A scarce set takes half of the prompts' categories; the complementary reference
    saw the other half."""
    kinds = sorted({p.category for p in splits["train"].prompts})
    own, others = (kinds[1::2], kinds[::2]) if scarce else (kinds, kinds)
    size = cfg.n_scarce if scarce else cfg.n_abundant

    def pick(split, what, *, n, seed, categories=None):
        rng = seeding.numpy_rng(seed, f"{reward} {what}")
        return choices(splits[split], reward, n=n, rng=rng, categories=categories)

    return Task(
        reward,
        pick("train", "train", n=size, seed=cfg.seed, categories=own),
        pick("train", "reference", n=cfg.n_reference, seed=cfg.seed, categories=others),
        pick("validation", "validation", n=cfg.n_heldout // 2, seed=0),
        pick("test", "test", n=cfg.n_heldout, seed=0),
    )


def of_people(splits: dict[str, Candidates], name: str, cfg, *, scarce: bool) -> Task:
    """The preferences of one set of `candidates.of_pairs`; other pairs of it make the complementary reference."""
    of = {
        split: [Choice(i, 0, 1, 1.0) for i, p in enumerate(c.prompts) if p.category == name]
        for split, c in splits.items()
    }
    train = [of["train"][i] for i in seeding.numpy_rng(cfg.seed, f"{name} train").permutation(len(of["train"]))]
    n = cfg.n_scarce if scarce else cfg.n_abundant
    return Task(
        f"{name}, {'few' if scarce else 'many'}",
        train[cfg.n_reference :][:n],
        train[: cfg.n_reference],
        of["validation"],
        of["test"],
        name,
    )
