"""What the tilted language model is asked: the arms of `arms.ARMS` against each second reference, few pairs and many,
with the controls that must move them, recorded prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.harness import workers
from lib.harness.presets.mrpo import TILTS
from lib.losses import references
from lib.studies.mrpo import convex, exact, tilts
from lib.studies.mrpo.arms import ARMS
from lib.studies.mrpo.convex import Problem
from lib.studies.mrpo.exact import Second
from lib.studies.mrpo.exact_arms import EXTRA, Bench, Cell, problem, weights
from lib.studies.mrpo.tilts import Texts

FLIPPED, PER_TOKEN, ADDED = "flipped labels", "per token", "50 nats added"
NATS = 50.0  # added to every reference margin
EQUAL = ("expected reward", "accuracy", "KL")  # told at equal KL too


class Place(NamedTuple):
    """A cell: the bench of its arms, and the same with log-probs per token."""

    texts: Texts
    sums: Bench
    means: Bench


def place(t: Texts, cfg: Any, pairs: int, second: Tensor, tokens: Tensor | None = None) -> Place:
    """Log-probs (W, P, A) of the second reference beside the primary; tokens (P, A) of its own tokenizer, else the
    primary's."""
    every = t.base.expand_as(second)
    cell = Cell(pairs, Second(()), cfg.beta, cfg.epsilon, cfg.tilt_anchor, nan, nan, 0.0, 0.0, tilts.LABELS)
    draws = t.draws
    sums = Bench(draws, cell, every, torch.stack([every, second]),
        exact.preferences(draws, pairs, labels=tilts.LABELS))  # fmt: skip
    # per token, times the mean answer's length: beta means what it meant
    scale = t.tokens.mean() / torch.stack([t.tokens, t.tokens if tokens is None else tokens])
    means = sums._replace(draws=draws._replace(features=draws.features * scale[0][..., None]),
        start=every * scale[0], refs=sums.refs * scale[:, None])  # fmt: skip
    return Place(t, sums, means)


def loss(p: Place, arm: str) -> Problem:
    """The problem of an arm; after a comma what is done to it. ValueError for an unknown change."""
    name, _, change = arm.partition(", ")
    b = p.means if change == PER_TOKEN else p.sums
    found = problem(b, (ARMS | EXTRA)[name], b.pairs.flipped() if change == FLIPPED else b.pairs)
    if change == ADDED:
        return found._replace(offset=found.offset + b.cell.beta * NATS)
    if change not in ("", FLIPPED, PER_TOKEN):
        raise ValueError(f"an arm is changed by {FLIPPED}, {PER_TOKEN} or {ADDED}, given {arm!r}")
    return found


def measured(p: Place, arms: Sequence[str], most: float) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict]]:
    """(arm, and "second reference" -> metric -> (T,), arm -> diagnostic -> number); at equal KL, at most `most` nats,
    all arms but those whose labels are flipped."""
    t, beta = p.texts, p.sums.cell.beta
    problems = {arm: loss(p, arm) for arm in arms}
    w = {arm: convex.solve(found) for arm, found in problems.items()}
    out = {arm: tilts.outcomes(t, w[arm], beta) for arm in arms}
    moving = {arm: found for arm, found in problems.items() if not arm.endswith(FLIPPED)}
    far = convex.equally_far(moving, partial(tilts.kl, t, beta=beta), most=most)
    for arm, at in far.items():
        found = tilts.outcomes(t, at, beta)
        out[arm] |= {f"{metric}, equal KL": found[metric] for metric in EQUAL}
    dpo = tilts.margins(t, w["dpo"])
    out["second reference"] = {"arwc": tilts.arwc(t, p.sums.refs)}
    told = {arm: {"correlation of margins with DPO's": _correlation(tilts.margins(t, w[arm]), dpo)} for arm in arms}
    return out, told | {"second reference": reference_told(p)}


def _correlation(a: Tensor, b: Tensor) -> float:
    """Mean over draws of the correlation of two rows (W, N)."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-300)).mean().item()


def reference_told(p: Place) -> dict[str, float]:
    """Of the second reference: how its log-ratio to the primary, and its log-probs, order the test pairs; its ARWC
    weight on training pairs; the share of its scores that clipping puts on a bound."""
    b, t = p.sums, p.texts
    r, test = t.draws.rewards[:, t.test], b.refs[:, :, t.test]
    w, l = (x.flatten(1) for x in b.pairs.of(b.refs))
    clipped = references.clipped(w, l, epsilon=b.cell.epsilon, adaptive=True)
    bound = torch.cat([x[1] != y[1] for x, y in zip((w, l), clipped)])
    a = weights(b, "arwc", b.pairs)[1].flatten()
    tenths = {f"ARWC weight, quantile {q:g}": a.quantile(q).item() for q in (0.1, 0.5, 0.9)}
    return tenths | {
        "ARWC weight, mean": a.mean().item(),
        "share of scores on a bound": bound.double().mean().item(),
        "accuracy of its log-ratio": tilts.ordered(test[1] - test[0], r).nanmean().item(),
        "accuracy of its log-probs": tilts.ordered(test[1], r).nanmean().item(),
    }


def places(t: Texts, cfg: Any, foreign: tuple[Tensor, Tensor]) -> dict[str, partial]:
    """Cell -> what makes it. foreign: log-probs and token counts (P, A)."""
    draws = len(t.draws.features)
    base, other = t.base.expand(draws, -1, -1), foreign[0].double().expand(draws, -1, -1)
    made = tilts.complementary(t, cfg)
    few, many = cfg.tilt_scarce, cfg.tilt_abundant
    return {
        "complementary second": partial(place, t, cfg, few, made),
        "foreign second": partial(place, t, cfg, few, other, foreign[1].double()),
        "mis-scored second": partial(place, t, cfg, few, tilts.mis_scored(made, cfg.seed)),
        "complementary second, many pairs": partial(place, t, cfg, many, made),
        "the same second": partial(place, t, cfg, few, base),
    }


def record(run, cfg, t: Texts, reward: str, foreign: tuple[Tensor, Tensor]) -> None:
    """Every cell of a reward, side by side: items of the test prompts, diagnostics as metrics."""
    jobs = {name: partial(_measured, make, TILTS[name], cfg.tilt_kl) for name, make in places(t, cfg, foreign).items()}
    for cell, (found, told) in workers.each(jobs, run=run, desc=f"language {reward}"):
        dataset = f"language {reward}, {cell}"
        for arm, scores in found.items():
            for metric, values in scores.items():
                kept = ~values.isnan()
                ids = [i for i, k in zip(t.ids, kept) if k]
                run.items(dataset, arm, metric, ids, values[kept].tolist())
        for arm, numbers in told.items():
            for metric, value in numbers.items():
                run.metric("diagnostics", dataset, arm, metric, value)


def _measured(make, arms: Sequence[str], most: float) -> tuple[Mapping, Mapping]:
    return measured(make(), arms, most)
