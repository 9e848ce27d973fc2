"""One loop for everything that is trained: AdamW on latents (`lib.engine.latents`), whatever they stand for."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.engine import sharding
from lib.engine.latents import Latent
from lib.harness.progress import track


def schedule(step: int, warmup: int, horizon: int | None = None, floor: float = 0.1) -> float:
    """Share of the peak rate: linear warm-up, (step + 1) / warmup, at most 1, then constant; with a horizon a cosine
    down to `floor` there."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    if horizon is None or step < warmup:
        return rise
    done = min(1.0, (step - warmup) / max(1, horizon - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2


def epochs(
    n: int, batch: int, generator: torch.Generator, *, lengths: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Endless batches of `batch` indices below n; each epoch a fresh permutation, the remainder opens the next epoch.

    With `lengths` a batch is handed out shortest first: the same batch, but its micro-batches hold rows of similar
    length.
    """
    queue: list[int] = []
    while True:
        while len(queue) < batch:
            queue += torch.randperm(n, generator=generator, device=generator.device).tolist()
        yield queue[:batch] if lengths is None else sorted(queue[:batch], key=lengths.__getitem__)
        queue = queue[batch:]


class AdamW(NamedTuple):
    """How latents are stepped, without weight decay: peak rate, steps of warm-up, largest norm of the gradient.

    kind: none is torch's, with moments in float32; 8bit is bitsandbytes', with a byte for each and a scale for 256
    (arXiv 2110.02861; tensors below 4,096 numbers stay float32); paged-8bit lets a GPU move these to the host.
    """

    lr: float
    warmup: int
    clip: float
    horizon: int | None = None  # where a cosine ends (`schedule`); None: constant after the warm-up
    betas: tuple[float, float] = (0.9, 0.999)
    kind: str = "none"


def optimizer(parameters: Sequence[Tensor], how: AdamW) -> torch.optim.Optimizer:
    """The optimizer of this kind. ValueError for one that there is not, and for pages of moments of weights on the
    host, which are there already."""
    rule: dict[str, Any] = dict(lr=how.lr, betas=how.betas, weight_decay=0.0)
    if how.kind == "none":
        return torch.optim.AdamW(parameters, fused=True, **rule)
    if how.kind not in ("8bit", "paged-8bit"):
        raise ValueError(f"the optimizer is none, 8bit or paged-8bit, given {how.kind!r}")
    paged = how.kind == "paged-8bit"
    if paged and any(p.device.type != "cuda" for p in parameters):
        raise ValueError(
            "paged-8bit pages moments out of a GPU, and these weights are stepped elsewhere; 8bit does that"
        )
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    return (PagedAdamW8bit if paged else AdamW8bit)(parameters, **rule)


class Stepper:
    """AdamW on latents, one step at a time; `state` and `restore` continue a run in its middle."""

    def __init__(self, latent: Latent, how: AdamW):
        self.latent, self.how, self.done = latent, how, 0
        self.optimizer = optimizer(latent.parameters, how)

    def step(
        self,
        indices: Sequence[int],
        loss: Callable[[Sequence[int]], tuple[Tensor, dict[str, float]]],
        *,
        micro: int,
        desc: str = "train",
    ) -> dict:
        """One optimizer step on the mean over `indices` of `loss`, which gives sums over a micro-batch; the logged
        means."""
        own, size = sharding.share(indices), sharding.ranks()[1]
        sums: dict[str, float] = {}
        with self.latent.training():
            for i in range(0, len(own), micro):
                total, logged = loss(own[i : i + micro])
                seen = sharding.summed(torch.tensor([total.item(), *logged.values()], dtype=torch.float64)).tolist()
                if not math.isfinite(seen[0]):
                    raise FloatingPointError(
                        f"{desc}: the loss is {seen[0]} at step {self.done + 1}; lower the learning rate"
                    )
                (total * size / len(indices)).backward()  # the processes' gradients are averaged
                self.latent.collect()
                for k, v in zip(["loss", *logged], seen):
                    sums[k] = sums.get(k, 0.0) + v
            self.latent.backward()
        try:
            norm = self.latent.norm(f"{desc}, step {self.done + 1}")
        except FloatingPointError:
            self.optimizer.zero_grad(set_to_none=True)  # the latents are as they were, and so is what comes next
            raise
        nn.utils.clip_grads_with_norm_(self.latent.parameters, self.how.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.how.lr * schedule(self.done, self.how.warmup, self.how.horizon)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.latent.sync()
        self.done += 1
        return {"step": self.done, **{k: v / len(indices) for k, v in sums.items()}, "gradient norm": float(norm)}

    def state(self) -> dict:
        """Latents, moments and the number of steps done; of several processes, this one's part."""
        return {
            "latents": self.latent.snapshot(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "done": self.done,
            "processes": sharding.ranks()[1] if self.latent.sharded else 1,
        }

    def gathered(self) -> dict | None:
        """The state as one process would have it, which any number of processes can `restore`; all must ask, the first
        gets it and the others None. ValueError for moments of a byte, whose scales cross the processes' rows."""
        if self.how.kind != "none" and self.latent.sharded:
            raise ValueError(f"moments of {self.how.kind} are not put together; each process keeps its own `state`")
        first = sharding.ranks()[0] == 0

        def whole(x: Tensor, weight: Tensor) -> Tensor | None:
            x = sharding.whole(x, weight)
            return x.cpu() if first else None

        state = self._moved(self.state(), whole) | {"processes": 1}
        return state if first else None

    def restore(self, state: dict) -> None:
        """Continue from `state`, or from what other processes, or one, have `gathered`. ValueError for a part of
        another division."""
        among, size = state.get("processes", 1), sharding.ranks()[1] if self.latent.sharded else 1
        if among not in (1, size):
            raise ValueError(
                f"this is a part of a state divided among {among} processes, and there are {size}; what `gathered` "
                "gives can be loaded by any number"
            )
        if among < size:
            state = self._moved(state, sharding.part)
        self.latent.restore(state["latents"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.done = state["done"]

    def _moved(self, state: dict, move: Callable[[Tensor, Tensor], Tensor | None]) -> dict:
        """A state with `move(x, weight)` in place of each tensor x that is divided as that weight is."""
        names = [n for n, latent in self.latent.latents.items() for _ in latent.parameters]
        likes = [self.latent.linears[n].weight if self.latent.in_rows(n) else None for n in names]
        change = lambda x, like: move(x, like) if like is not None and isinstance(x, Tensor) and x.dim() else x  # noqa: E731
        moments = {i: {k: change(x, likes[i]) for k, x in s.items()} for i, s in state["optimizer"]["state"].items()}
        return state | {
            "latents": [change(x, like) for x, like in zip(state["latents"], likes)],
            "optimizer": state["optimizer"] | {"state": moments},
        }


class Validation(NamedTuple):
    """What is watched while training: `measure()` at step 0, every so many steps and at the end."""

    measure: Callable[[], dict[str, float]]
    every: int = 0  # 0: at step 0 alone, and where the training stops early
    select: str | None = None  # the latents with this value's smallest are kept; None: the last


def fit(
    latent: Latent,
    batches: Iterator[Sequence[int]],
    loss: Callable[[Sequence[int]], tuple[Tensor, dict[str, float]]],
    how: AdamW,
    *,
    steps: int,
    micro: int,
    validation: Validation | None = None,
    stop: Callable[[list[dict]], bool] | None = None,
    desc: str = "train",
) -> list[dict]:
    """Train the latents and return the curve: one dict a step.

    `loss(indices)` gives the *summed* loss over those examples and logged sums; `fit` divides once by the batch size,
    so micro-batching cannot change the result. With `validation.select` no arm can end worse than it began on the
    validation prompts, since step 0 counts. `stop(curve)` ends early.
    """
    if steps < 0 or how.lr <= 0 or micro < 1:
        raise ValueError(f"steps >= 0, lr > 0 and micro >= 1 are needed, got {steps}, {how.lr} and {micro}")
    stepper = Stepper(latent, how)
    curve: list[dict] = []
    best: tuple[float, list[Tensor]] | None = None
    watched, every, select = validation or (None, 0, None)

    def check(step: int) -> dict[str, float]:
        nonlocal best
        values = {f"validation {k}": v for k, v in watched().items()} if watched else {}
        if select is not None and (best is None or values[f"validation {select}"] < best[0]):
            best = (values[f"validation {select}"], latent.snapshot())
        return values

    if watched:
        curve.append({"step": 0, **check(0)})
    start = time.perf_counter()
    for step in track(range(steps), desc):
        row = stepper.step(next(batches), loss, micro=micro, desc=desc)
        row["seconds"] = time.perf_counter() - start
        if watched and every and ((step + 1) % every == 0 or step + 1 == steps):
            row |= check(step + 1)
        curve.append(row)
        if stop and stop(curve):
            if watched and "validation " + str(select) not in row:
                row |= check(step + 1)
            break
    if best is not None:
        latent.restore(best[1])
    return curve
