"""The language world whose losses have optima: a language model's own answers, and policies that tilt it.

A policy is pi_theta(y|x) ~ pi_0(y|x) exp(theta . phi(x, y)): the form of every optimum of reward minus KL to the model
pi_0. phi are principal components of the model's last hidden states, mean over an answer, of deviation 1 within a
prompt. The normaliser cancels within a pair, so that each loss is convex in theta (`lib.studies.mrpo.convex`) and is
solved: no optimizer stands between a reference and what it does. Texts, log-probs, tokenizers and rewards are real.

Answers are draws of pi_0, so over the A answers of a prompt pi_theta weighs each by softmax(theta . phi): its expected
reward and its KL to pi_0 are taken from these. Axes: W draws of pairs, P prompts (those that train, validate and test
one after the other), A answers, d features, K references; float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.harness import seeding
from lib.losses import references
from lib.scoring.oracles import NOTHING, TIE
from lib.studies.mrpo import exact
from lib.studies.mrpo.answers import Answers
from lib.studies.mrpo.candidates import halves
from lib.studies.mrpo.convex import Problem, solve
from lib.studies.mrpo.exact import Draws

LABELS = "bradley-terry"  # of rewards in deviations, as in the exact world
SPLITS = ("train", "validation", "test")


class Texts(NamedTuple):
    """One oracle's world; all cells and arms of a run share it."""

    draws: Draws  # features and rewards, the same in every draw; pairs of half of the training prompts' categories
    others: Draws  # the same with pairs of the other half: what a complementary reference learned from
    base: Tensor  # pi_0's log-probs (P, A), nats
    tokens: Tensor  # (P, A)
    test: slice  # of the prompts
    ids: list[str]  # of the prompts that test


def texts(answers: Mapping[str, Answers], reward: str, cfg: Any) -> Texts:
    """The world of a reward; its features are those of the training prompts. ValueError where pairs or features are
    too few."""
    parts = [answers[split] for split in SPLITS]
    base, states = torch.cat([a.log_probs for a in parts]), torch.cat([a.states for a in parts])
    raw = torch.cat([a.candidates.rewards(reward) for a in parts])
    sizes = [len(a.log_probs) for a in parts]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    features = components(states, sizes[0], cfg.tilt_dim)
    own, rest = halves(parts[0].candidates.prompts)
    rewards = standardised(raw, sizes[0])
    draws, others = (_draws(cfg, f"{reward} {name}", features, rewards, (rows, list(range(ends[0], ends[1]))))
        for name, rows in (("pairs", own), ("reference", rest)))  # fmt: skip
    lengths = torch.tensor([[len(a) for a in row] for part in parts for row in part.candidates.answers])
    ids = [p.id for p in parts[-1].candidates.prompts]
    return Texts(draws, others, base, lengths.double(), slice(ends[1], ends[2]), ids)


def components(states: Tensor, train: int, d: int) -> Tensor:
    """Features (P, A, d): the d directions in which answers to one of the first `train` prompts differ most, each of
    deviation 1 there. ValueError if they differ in fewer."""
    centred = states - states.mean(1, keepdim=True)
    known = centred[:train].flatten(0, 1)
    values, vectors = torch.linalg.eigh(known.mT @ known / len(known))
    if not 1 <= d <= len(values) or values[-d] <= 1e-9 * values[-1]:
        raise ValueError(f"answers differ in fewer than {d} directions: ask for fewer features, or sample more answers")
    return centred @ (vectors[:, -d:] / values[-d:].sqrt())


def standardised(raw: Tensor, train: int) -> Tensor:
    """Rewards (P, A) of mean 0 a prompt and deviation 1 within the first `train` prompts; an answer without a word is
    the worst of all that have some. ValueError where they do not differ."""
    spoken = raw > NOTHING
    raw = torch.where(spoken, raw, raw[spoken].min() if spoken.any() else 0.0)
    centred = raw - raw.mean(1, keepdim=True)
    deviation = centred[:train].square().mean().sqrt()
    if deviation <= TIE:
        raise ValueError("the reward says the same of all answers of a prompt: no pair has a better one")
    return centred / deviation


def untied(rewards: Tensor, rows: Sequence[int]) -> Tensor:
    """(N, 3) prompt, answer, other answer: every pair of these prompts' answers whose rewards differ, once."""
    a, b = torch.triu_indices(rewards.shape[1], rewards.shape[1], offset=1)
    at = torch.tensor(rows)
    differ = ((rewards[at][:, a] - rewards[at][:, b]).abs() > TIE).nonzero()
    return torch.stack([at[differ[:, 0]], a[differ[:, 1]], b[differ[:, 1]]], 1)


def _draws(cfg, name: str, features: Tensor, rewards: Tensor, rows: tuple[list[int], list[int]]) -> Draws:
    """W draws of pairs that train and validate, each of a stream of its own."""
    train, validation = (untied(rewards, r) for r in rows)
    least = max(cfg.tilt_abundant, cfg.tilt_scarce, cfg.tilt_reference)
    for what, found, some in (("training", train, least), ("validation", validation, 1)):
        if len(found) < some:
            raise ValueError(
                f"{name}: the {what} prompts hold {len(found)} pairs of different rewards, {some} are needed; sample "
                "more prompts or answers"
            )
    chosen: list[tuple[Tensor, ...]] = []
    for w in range(cfg.tilt_draws):
        g = seeding.torch_generator(cfg.seed, f"{name} {w}")
        some = (
            train[torch.randperm(len(train), generator=g)[: exact.MOST_PAIRS]],
            validation[torch.randint(len(validation), (exact.VALIDATION,), generator=g)],
        )
        luck = torch.rand(exact.MOST_PAIRS + exact.VALIDATION, generator=g, dtype=torch.float64)
        chosen.append((*some, luck))
    pairs, held, luck = (torch.stack(column) for column in zip(*chosen))
    every = lambda x: x.expand(cfg.tilt_draws, *x.shape)  # noqa: E731
    none = torch.empty(0)
    return Draws(every(features), every(rewards), none, none, pairs, held, luck, none)


# ---- references: log-probs (W, P, A)


def tilted(t: Texts, w: Tensor, beta: float) -> Tensor:
    """log pi_theta of every answer, theta = w / beta (W, d): log pi_0 + theta . phi - log Z, Z the mean of exp over a
    prompt's answers."""
    moved = torch.einsum("wpad,wd->wpa", t.draws.features, w / beta)
    log_z = moved.logsumexp(-1, keepdim=True) - torch.tensor(float(moved.shape[-1])).log()
    return t.base + moved - log_z


def complementary(t: Texts, cfg: Any) -> Tensor:
    """A reference that DPO made from the same oracle's pairs of other topics."""
    pairs = exact.preferences(t.others, cfg.tilt_reference, labels=LABELS)
    x = pairs.difference(t.others.features)
    flat = torch.zeros(1, *x.shape[:2], dtype=x.dtype)
    anchor = torch.full_like(x[:, 0, 0], cfg.tilt_anchor)
    return tilted(t, solve(Problem(x, flat, torch.ones_like(flat), anchor, cfg.beta)), cfg.beta)


def mis_scored(reference: Tensor, seed: int) -> Tensor:
    """Each answer gets the log-prob of another text, any of all prompts': what a model gives that reads the ids of
    another tokenizer."""
    flat, g = reference.flatten(1), seeding.torch_generator(seed, "mis-scored")
    order = torch.stack([torch.randperm(flat.shape[1], generator=g) for _ in range(len(flat))])
    return flat.gather(1, order).view_as(reference)


# ---- what a policy is worth on the prompts that test


def weights_of(t: Texts, w: Tensor, beta: float) -> Tensor:
    """log-weights (W, T, A) of the test prompts' answers under the policy theta = w / beta."""
    moved = torch.einsum("wpad,wd->wpa", t.draws.features[:, t.test], w / beta)
    return moved.log_softmax(-1)


def kl(t: Texts, w: Tensor, beta: float) -> Tensor:
    """KL to pi_0 (W,), mean over test prompts: sum_y p log(p A)."""
    log_p = weights_of(t, w, beta)
    return ((log_p.exp() * log_p).sum(-1) + torch.tensor(float(log_p.shape[-1])).log()).mean(1)


def outcomes(t: Texts, w: Tensor, beta: float) -> dict[str, Tensor]:
    """Each (T,), mean over the draws of pairs.

    accuracy: of a prompt's pairs of different rewards, the share that the implicit reward log pi - log pi_0 orders as
    the true one; "without reference": log pi does; expected reward under the policy, in deviations; KL to the start.
    """
    log_p, r = weights_of(t, w, beta), t.draws.rewards[:, t.test]
    own = log_p - log_p.mean(-1, keepdim=True)
    found = {
        "accuracy": ordered(own, r),
        "accuracy, without reference": ordered(t.base[t.test] + own, r),
        "expected reward": (log_p.exp() * r).sum(-1),
        "KL": (log_p.exp() * log_p).sum(-1) + torch.tensor(float(log_p.shape[-1])).log(),
    }
    return {name: x.mean(0) for name, x in found.items()}


def ordered(values: Tensor, rewards: Tensor) -> Tensor:
    """Share (W, T) of a prompt's pairs of different rewards that `values` (W, T, A) puts in their order; NaN for a
    prompt that has none."""
    over = lambda x: x[..., :, None] - x[..., None, :]  # noqa: E731
    truly = over(rewards) > TIE
    return ((over(values) > 0) & truly).sum((-2, -1)) / truly.sum((-2, -1))


def test_pairs(t: Texts) -> Tensor:
    """(N, 3): every pair of the test prompts' answers whose rewards differ."""
    return untied(t.draws.rewards[0], range(t.test.start, t.test.stop))


def margins(t: Texts, w: Tensor) -> Tensor:
    """w . (phi_a - phi_b) (W, N) of every test pair."""
    pairs, f = test_pairs(t), t.draws.features[0]
    return w @ (f[pairs[:, 0], pairs[:, 1]] - f[pairs[:, 0], pairs[:, 2]]).mT


def arwc(t: Texts, refs: Tensor) -> Tensor:
    """ARWC weight (T,) of the second of `refs` (K, W, P, A), mean over draws and a prompt's test pairs; NaN without
    one."""
    p, a, b = test_pairs(t).unbind(1)
    weight = references.arwc((refs[:, :, p, a] - refs[:, :, p, b]).flatten(1))[1].view(refs.shape[1], -1).mean(0)
    sums, counts = (torch.zeros(t.test.stop, dtype=weight.dtype).index_add(0, p, x)
        for x in (weight, torch.ones_like(weight)))  # fmt: skip
    return (sums / counts)[t.test]
