"""Tuning in phases, each with its data, its replay of earlier phases and its schedule (LAB, arXiv 2403.01081, section
3.3).

The loss of a step is a mean over the loss tokens of its whole batch: micro-batches and packing change the time alone. T
phases, S sequences.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.engine import checkpoint
from lib.engine.head import head_of
from lib.engine.latents import Latent
from lib.engine.logprobs import hidden_states, token_logprobs
from lib.engine.packing import Row, bins, pack_rows
from lib.engine.training import AdamW, Stepper, schedule
from lib.harness import seeding
from lib.harness.progress import track

Loss = Callable[[Sequence[Sequence[Row]]], Tensor]  # sequences of rows -> summed -log p of all their loss tokens
BETAS = (0.9, 0.95)  # of AdamW
CHOICES = {"decay": ("constant", "cosine"), "optimizer": ("restart", "carry"), "keep": ("last", "best", "early")}


class Phase(NamedTuple):
    """`steps` steps of `batch` rows at the peak rate `lr`: linear warm-up over a share of the steps, then constant or a
    cosine to 0.

    replay: earlier phases' rows in each batch: a share (0.25) or number (12) drawn from all of their rows alike,
    {phase: share or number}, or "all": they join this phase's rows, each once an epoch, as in the paper.
    optimizer: fresh moments (the paper starts a new run), or those of the phase before. keep: the last weights; of the
    checks every `every` steps the best (highest) one, or the earliest within `slack` of it. What the phase began with
    is no candidate: on what it does not teach that would win.
    """

    name: str
    rows: Sequence[Row]
    steps: int
    batch: int
    lr: float
    replay: float | int | Mapping[str, float | int] | str = 0
    warmup: float = 0.4
    decay: str = "constant"
    optimizer: str = "restart"
    keep: str = "last"
    score: Callable[[], float] | None = None
    every: int = 0
    slack: float = 0.0


class Done(NamedTuple):
    """A finished phase: one dict a step (loss per token, rate, tokens, replayed rows), the step that was kept, what
    `evaluate` gave after it."""

    name: str
    curve: list[dict]
    kept: int
    scores: list[float]


def batches(phases: Sequence[Phase], at: int, seed: int) -> Iterator[tuple[list[Row], int]]:
    """(rows, how many of them are replayed) of each step of phase `at`.

    Each source is a stream of its own, every row once an epoch of it. Where a share of a batch is not whole, steps take
    a row more or less, so that the sum over steps stays right.
    """
    phase, earlier = phases[at], phases[:at]
    stream = lambda rows, name: _stream(rows, seeding.torch_generator(seed, f"phase {at} {phase.name}: {name}"))  # noqa: E731
    if phase.replay == "all":
        pool = stream([(r, k < at) for k, p in enumerate(phases[: at + 1]) for r in p.rows], "all")
        for _ in range(phase.steps):
            taken = [next(pool) for _ in range(phase.batch)]
            yield [r for r, _ in taken], sum(old for _, old in taken)
        return
    shares = _shares(phase, earlier)
    rows = {p.name: p.rows for p in earlier} | {"": [r for p in earlier for r in p.rows]}
    streams = [*(stream(rows[n], f"replay {n}") for n in shares), stream(phase.rows, "own")]
    quota = phase.batch * np.array([*shares.values(), 1 - sum(shares.values())])
    owed = np.zeros(len(quota))
    for _ in range(phase.steps):
        owed += quota
        taken = []
        for _ in range(phase.batch):
            taken.append(int(owed.argmax()))
            owed[taken[-1]] -= 1
        yield [next(streams[k]) for k in taken], sum(k < len(shares) for k in taken)


def _stream(rows: Sequence, generator: torch.Generator) -> Iterator:
    while True:
        order = torch.randperm(len(rows), generator=generator, device=generator.device).tolist()
        yield from (rows[i] for i in order)


def _shares(phase: Phase, earlier: Sequence[Phase]) -> dict[str, float]:
    """{earlier phase, or "" for all of them: share of each batch}. ValueError for what is no share and no number."""
    names = [p.name for p in earlier]
    given = phase.replay if isinstance(phase.replay, Mapping) else {"": phase.replay} if phase.replay else {}
    if strange := [n for n in given if n and n not in names]:
        raise ValueError(
            f"{phase.name} replays phases before it ({', '.join(names) or 'there is none'}), given {strange[0]!r}"
        )
    if given and not names:
        raise ValueError(f"{phase.name} is the first phase and has nothing to replay, given {phase.replay}")
    for x in given.values():
        if isinstance(x, (bool, str)) or x < 0 or (isinstance(x, float) and x >= 1):
            raise ValueError(
                f"{phase.name}: replay is a share of at least 0 and below 1, a whole number of rows, or all, "
                f"given {x!r}"
            )
    shares: dict[str, Any] = {n: x / phase.batch if isinstance(x, int) else x for n, x in given.items()}
    if sum(shares.values()) >= 1:
        raise ValueError(
            f"{phase.name}: replay leaves none of {phase.batch} rows for its own data, given {phase.replay}"
        )
    return shares


def nll(model) -> Loss:
    """The summed -log p of answer tokens under any causal language model, in one forward for all sequences."""

    def loss(sequences: Sequence[Sequence[Row]]) -> Tensor:
        packed = pack_rows(sequences).to(next(model.parameters()).device)
        return -token_logprobs(hidden_states(model, packed), head_of(model), packed.target).sum()

    return loss


class Tuning(NamedTuple):
    """What all phases of a run share. micro: sequences a forward; capacity: tokens of a sequence that holds several
    rows (None: one row each, shortest first)."""

    seed: int
    clip: float = 1.0
    betas: tuple[float, float] = BETAS
    micro: int = 8
    capacity: int | None = None
    optimizer: str = "none"  # `AdamW`'s kind


def run(
    latent: Latent,
    loss: Loss,
    phases: Sequence[Phase],
    how: Tuning,
    *,
    evaluate: Callable[[], Sequence[float]] | None = None,
    journal: Path | None = None,
) -> list[Done]:
    """Tune through all phases; the latents end at what the last phase kept.

    evaluate: the scores of every group of tasks, asked after each phase. journal: a folder that holds each finished
    phase under the digest of all that led to it; a run finds there what it, or another run with the same beginning, has
    done, and goes on from that. One folder serves one model, loss, scores and evaluation.
    """
    check(phases)
    if how.micro < 1:
        raise ValueError(f"micro is at least 1 sequence, given {how.micro}")
    if how.capacity is not None:  # a row that does not fit is told before any work
        bins([len(p) + len(a) for phase in phases for p, a in phase.rows], how.capacity)
    digest = (
        _digest("", [how.seed, how.clip, *how.betas, how.capacity, how.optimizer], latent.snapshot()) if journal else ""
    )
    out, stepper = [], None
    for at, phase in enumerate(phases):
        carried = at + 1 < len(phases) and phases[at + 1].optimizer == "carry"
        path = None
        if journal:
            settings = [x for name, x in phase._asdict().items() if name not in ("rows", "score")]
            digest = _digest(digest, [carried, *settings], phase.rows)
            path = journal / f"{at} {phase.name.replace('/', '-')} {digest[:16]}.safetensors"
        if stepper is None or phase.optimizer == "restart":
            # its own schedule is off: the phase sets the rate
            stepper = Stepper(latent, AdamW(phase.lr, warmup=0, clip=how.clip, betas=how.betas, kind=how.optimizer))
        if path and path.exists():
            done, state = checkpoint.load(path)
            stepper.restore(state) if carried else latent.restore(state["latents"])
            out.append(Done(*done))
            continue
        stream = batches(phases, at, how.seed)
        curve, kept, state = _tune(
            stepper, loss, phase, stream, micro=how.micro, capacity=how.capacity, carried=carried
        )
        out.append(Done(phase.name, curve, kept, [float(x) for x in evaluate()] if evaluate else []))
        if path:
            checkpoint.save(path, [list(out[-1]), state])
    return out


def check(phases: Sequence[Phase]) -> None:
    """ValueError with the first setting that cannot be."""
    if not phases or len({p.name for p in phases}) < len(phases):
        raise ValueError(f"at least one phase is needed, each with a name of its own, given {[p.name for p in phases]}")
    for at, p in enumerate(phases):
        for name, allowed in CHOICES.items():
            if getattr(p, name) not in allowed:
                raise ValueError(f"{p.name}: {name} is one of {', '.join(allowed)}, given {getattr(p, name)!r}")
        if p.steps < 1 or p.batch < 1 or not p.lr > 0 or not 0 <= p.warmup <= 1 or not p.rows:
            given = f"{len(p.rows)}, {p.steps}, {p.batch}, {p.lr} and {p.warmup}"
            raise ValueError(f"{p.name}: rows, steps, batch and lr are above 0 and warmup is 0 to 1, given {given}")
        if bad := [i for i, (prompt, answer) in enumerate(p.rows) if not len(prompt) or not len(answer)]:
            raise ValueError(f"{p.name}: row {bad[0]} has an empty prompt or an empty answer")
        if p.keep != "last" and (p.score is None or not 1 <= p.every <= p.steps):
            raise ValueError(
                f"{p.name}: keep {p.keep} needs a score, asked every 1 to {p.steps} steps, given {p.score} and "
                f"{p.every}"
            )
        if p.slack < 0 or (p.slack > 0) != (p.keep == "early"):
            raise ValueError(
                f"{p.name}: a slack above 0 goes with keep early and with no other, given {p.slack} with {p.keep}"
            )
        if p.replay != "all":
            _shares(p, phases[:at])


def _tune(
    stepper: Stepper, loss: Loss, phase: Phase, stream, *, micro: int, capacity: int | None, carried: bool
) -> tuple[list[dict], int, dict]:
    """One phase: (curve, the step kept, its state); the latents are as in that state."""
    take = stepper.state if carried else lambda: {"latents": stepper.latent.snapshot()}
    warmup, horizon = round(phase.warmup * phase.steps), phase.steps if phase.decay == "cosine" else None
    curve, held = [], []  # held: what may still be kept, (score, step, state)
    for step, (rows, replayed) in track(enumerate(stream), phase.name, phase.steps):
        sizes = [len(p) + len(a) for p, a in rows]
        groups = bins(sizes, capacity) if capacity else [[i] for i in sorted(range(len(rows)), key=sizes.__getitem__)]
        sequences, tokens = [[rows[i] for i in g] for g in groups], sum(len(a) for _, a in rows)
        stepper.how = stepper.how._replace(lr=phase.lr * schedule(step, warmup, horizon, floor=0.0))
        # the stepper divides by the number of sequences; we want the number of tokens
        part = lambda which, s=sequences, n=tokens: (loss([s[i] for i in which]) * (len(s) / n), {})  # noqa: E731
        row = stepper.step(range(len(sequences)), part, micro=micro, desc=phase.name)
        curve.append({**row, "step": step + 1, "rate": stepper.how.lr, "tokens": tokens, "replayed": replayed})
        if (
            phase.score is not None
            and phase.keep != "last"
            and ((step + 1) % phase.every == 0 or step + 1 == phase.steps)
        ):
            curve[-1]["score"] = value = float(phase.score())
            if not math.isfinite(value):
                raise FloatingPointError(f"{phase.name}: the score is {value} after step {step + 1}")
            best = max((h[0] for h in held), default=-math.inf)
            if value > best or (phase.slack and value >= best - phase.slack):
                held.append((value, step + 1, take()))
            held = [h for h in held if h[0] >= max(best, value) - phase.slack]
    if phase.keep == "last":
        return curve, phase.steps, take()
    _, kept, state = held[0]
    stepper.restore(state) if carried else stepper.latent.restore(state["latents"])
    return curve, kept, state


def pick(scores: Sequence[float], slack: float = 0.0) -> int:
    """Which of several checks is kept: the first within `slack` of the highest score; with no slack that is
    keep="best", else "early"."""
    return next(k for k, x in enumerate(scores) if x >= max(scores) - slack)


def forget(journal: Path) -> None:
    """Removes a journal, whose finished phases are large, where there is one."""
    shutil.rmtree(journal, ignore_errors=True)


def _digest(before: str, settings: Sequence, parts: Sequence) -> str:
    h = hashlib.sha256(f"{before} {settings!r}".encode())
    for p in parts:
        h.update(p.cpu().numpy().data if isinstance(p, Tensor) else repr(p).encode())
    return h.hexdigest()


# ---- forgetting


class Memory(NamedTuple):
    """mean_j R[T][j]; mean_{j<T} (max_i R[i][j] - R[T][j]); mean_{j<T} (R[T][j] - R[j][j]); R[T][T]."""

    accuracy: float
    forgetting: float
    backward: float
    plasticity: float


def memory(scores: Sequence[Sequence[float]]) -> Memory:
    """What R (T + 1, T + 1) says; R[i][j]: score on group j after phase i. Row 0 is the start model and group 0 what it
    can do already."""
    r = np.asarray(scores, float)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or len(r) < 2:
        raise ValueError(f"R has a row for the start and for each phase and as many groups, given shape {r.shape}")
    forgetting, backward = (r.max(0) - r[-1])[:-1], (r[-1] - r.diagonal())[:-1]
    return Memory(float(r[-1].mean()), float(forgetting.mean()), float(backward.mean()), float(r[-1, -1]))
