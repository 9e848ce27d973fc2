"""The parallel scheme of attribute control: a second process samples, labels and learns R while this one fine-tunes the
model.

Both start from the state of the last iteration and meet at its end, so the model always uses an R that is one iteration
older than in turns.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import torch as safetensors

from lib.engine import models
from lib.harness.progress import lines_only
from lib.harness.workers import forks
from lib.scoring.toxicity import judge
from lib.studies.attribute_control.auxiliary import learned, new_nado
from lib.studies.attribute_control.forum import Line
from lib.studies.attribute_control.world import World, build, load

READY = "ready"


def _made(settings: dict, lines: Sequence[Line], asked: Sequence[str]) -> World:
    """The world once more, where a process cannot inherit it."""
    cfg = SimpleNamespace(**settings)
    how = dict(dtype=getattr(torch, cfg.dtype), device=cfg.device)
    model, tokenizer = models.load(cfg.model, **how)
    return build(
        cfg,
        model,
        tokenizer,
        lines=lines,
        asked=asked,
        oracle=judge(cfg.oracle, **how, batch=cfg.eval_batch),
        stop_ids=models.stop_ids(model, tokenizer),
    )


def _serve(pipe, world: World | tuple, threads: int) -> None:
    """The other process: (weights, state of R, iteration) in, (state of R, log, seconds) out, until None."""
    torch.set_num_threads(threads)
    lines_only()
    world = world if isinstance(world, World) else _made(*world)
    pipe.send(READY)
    while (work := pipe.recv()) is not None:
        weights, state, k = work
        begun = time.perf_counter()
        try:
            load(world, safetensors.load(weights))
            nado = new_nado(world)
            nado.load_state_dict(safetensors.load(state))
            log = learned(world, nado, f"iteration {k}")
            pipe.send((safetensors.save(_plain(nado.state_dict())), log, time.perf_counter() - begun))
        except Exception as error:
            pipe.send(error)


class Partner:
    """with Partner(world, lines, asked) as partner: `methods.controlled(..., stale=True, partner=partner)`. Each side
    keeps to `threads` threads.

    lines, asked: what `world` was made of, for a process that has to make it again.
    """

    def __init__(self, world: World, lines: Sequence[Line], asked: Sequence[str], *, threads: int = 1):
        self.world, self.lines, self.asked, self.threads = world, list(lines), list(asked), threads

    def __enter__(self) -> Partner:
        cfg, fork = self.world.cfg, forks()
        context: Any = multiprocessing.get_context("fork" if fork else "spawn")
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        self.pipe, other = context.Pipe()
        world = self.world if fork else (dict(cfg) | {"seed": cfg.seed}, self.lines, self.asked)
        self.process = context.Process(target=_serve, args=(other, world, self.threads), daemon=True)
        self.process.start()
        other.close()
        if (said := self._receive()) != READY:
            raise RuntimeError(f"the second process did not come up, it said {said!r}")
        return self

    def begin(self, weights: dict, state: dict, k: int) -> Callable[[], tuple]:
        """Start iteration k there; call what comes back to wait for (state of R, log, seconds)."""
        self.pipe.send((safetensors.save(_plain(weights)), safetensors.save(_plain(state)), k))

        def wait():
            done, log, seconds = self._receive()
            return safetensors.load(done), log, seconds

        return wait

    def _receive(self):
        try:
            said = self.pipe.recv()
        except EOFError:
            raise RuntimeError("the second process has died; its messages stand above") from None
        if isinstance(said, Exception):
            raise said
        return said

    def __exit__(self, *_) -> None:
        torch.set_num_threads(self.before)
        try:
            self.pipe.send(None)
        except OSError:
            pass  # it is gone already
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.terminate()


def _plain(tensors: dict) -> dict:
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
