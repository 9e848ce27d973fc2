"""What stands behind the weights that train: float32 latents, of which bf16 compute weights are a function.

The model holds plain compute weights, and every forward runs on them at full speed. Once per optimizer step each weight
is computed anew from its latents (`Q(W)` with straight-through gradient, `Q(W + s B A)`, or just a cast). The gradient
of a full latent is gathered on its compute weight over all micro-batches and passed back in one go; that of an adapter
is formed as the two thin products it is, and never as a matrix of the weight's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lib.engine import attention, sharding
from lib.quantization.blocks import decoder_blocks
from lib.quantization.ste import straight_through

Quantizer = Callable[[Tensor], Tensor]


def check_gradients(named: Iterable[tuple[str, Tensor]], where: str) -> Tensor:
    """The norm of all gradients together; FloatingPointError naming the parameter where one is not finite.

    Asked before a step: a finite loss may have a gradient that is none, and Adam would keep it for ever.
    """
    grads = {name: p.grad for name, p in named if p.grad is not None}
    norm = nn.utils.get_total_norm(list(grads.values()))
    if not torch.isfinite(norm):
        bad = [name for name, g in grads.items() if not torch.isfinite(g).all()]
        what = (
            f"the gradient of {bad[0]} is not finite ({len(bad)} of {len(grads)} are)"
            if bad
            else (f"the gradients are finite and their norm is {norm.item()}")
        )
        raise FloatingPointError(f"{where}: {what}; no step was taken. Lower the learning rate or look at the loss")
    return norm


class Full:
    """Latent weight W (float32), compute weight Q(W); the identity for Q trains the dense model on fp32 masters.

    host: W, its gradient and its moments stay in the computer's memory and not on the accelerator, which then holds one
    layer's at a time: 16 bytes a weight less there, at the price of moving 6 a step.
    """

    def __init__(self, weight: Tensor, quantizer: Quantizer | None = None, *, host: bool = False):
        self.quantizer, self.device, self.host = quantizer, weight.device, host
        master = weight.detach().float().clone() if quantizer else dithered(weight)
        self.parameters = [nn.Parameter(master.cpu() if host else master)]

    def plain(self) -> Tensor:
        """The weight before the quantizer."""
        return self.parameters[0].to(self.device)

    def weight(self) -> Tensor:
        """The compute weight."""
        return straight_through(self.plain(), self.quantizer) if self.quantizer else self.plain()


class LoRA:
    """Q(W + (alpha / r) B A): the adapter sits before the quantizer, W stays frozen. B starts at 0, A as in arXiv
    2106.09685. An adapter beside a weight that is not quantized again is `lib.engine.adapters`."""

    def __init__(
        self, weight: Tensor, quantizer: Quantizer | None, *, rank: int, alpha: float, generator: torch.Generator
    ):
        self.quantizer, self.scale = quantizer, alpha / rank
        self.rows: slice | None = None
        self.base = weight.detach().clone()
        out_features, in_features = weight.shape
        bound = 1 / math.sqrt(in_features)  # kaiming_uniform(a=sqrt(5)), what peft uses
        # drawn where the generator lives, so that the adapter begins alike on every device
        a = torch.empty(rank, in_features, device=generator.device).uniform_(-bound, bound, generator=generator)
        b = torch.zeros(out_features, rank, device=weight.device)
        self.parameters = [nn.Parameter(b), nn.Parameter(a.to(weight.device))]

    def plain(self) -> Tensor:
        """The weight before the quantizer."""
        b, a = self.parameters
        return self.base.float() + self.scale * ((b if self.rows is None else b[self.rows]) @ a)

    def weight(self) -> Tensor:
        """The compute weight."""
        return straight_through(self.plain(), self.quantizer) if self.quantizer else self.plain()

    def divided(self, weight: Tensor) -> None:
        """W is one process's rows of `weight`; B and A are whole in each, and begin as they would in one."""
        self.rows = sharding.rows(weight)
        self.parameters[0] = nn.Parameter(self.parameters[0].new_zeros(len(weight), self.parameters[0].shape[1]))

    def forward(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """`linear` of x, its weight being this latent's; the gradient goes to B and A."""
        return _ThinGradient.apply(x, linear.weight, linear.bias, *self.parameters, self.scale)


class _ThinGradient(torch.autograd.Function):
    """y = W x + c for W = Q(W_0 + s B A), straight through Q: with G = dy^T x, dB = s G A^T = s dy^T (x A^T) and
    dA = s B^T G = s (dy B)^T x, without G."""

    @staticmethod
    def forward(ctx, x, weight, bias, b, a, scale):
        ctx.save_for_backward(x, weight, b, a)
        ctx.scale = scale
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight, b, a = ctx.saved_tensors
        rows, wide = x.flatten(0, -2), grad.flatten(0, -2)
        db = (wide.T @ (rows @ a.T.to(x.dtype))).float() * ctx.scale
        da = ((wide @ b.to(x.dtype)).T @ rows).float() * ctx.scale
        return grad @ weight, None, None, db, da, None


@torch.no_grad()
def dithered(weight: Tensor) -> Tensor:
    """float32 masters, each at a random place of the interval that rounds to its weight, so that rounding gives
    `weight` back.

    Masters copied from bfloat16 weights lie in the middle of that interval: steps of a small learning rate then change
    no compute weight at all until many of them have added up (120 steps at 1e-6 for a weight of 0.05). From a random
    place a fitting share of the weights moves in every step, and their mean moves as it should. Float32 weights come
    back as they are.
    """
    master = weight.detach().float().clone()
    if weight.dtype not in (torch.bfloat16, torch.float16):
        return master
    generator = torch.Generator(device=weight.device).manual_seed(0xD17E)
    ulp = torch.finfo(weight.dtype).eps * 2.0 ** master.abs().clamp(min=torch.finfo(weight.dtype).tiny).log2().floor()
    offset = torch.rand(master.shape, generator=generator, device=weight.device) - 0.5
    moved = master + offset * ulp
    return torch.where(moved.to(weight.dtype) == weight, moved, master)


class Latent:
    """The trainable weights of a model: {module: Full or LoRA}. All other parameters stay frozen.

    latent = Latent(block_linears(model), lambda w: Full(w, quantizer)); `sync` writes the compute weights.
    """

    def __init__(
        self, linears: dict[str, nn.Linear], make: Callable[[Tensor], Any], sources: dict[str, Tensor] | None = None
    ):
        self.linears = linears
        begin = {name: (sources or {}).get(name, m.weight) for name, m in linears.items()}
        self.latents = {n: make(sharding.part(begin[n], m.weight).to(m.weight.device)) for n, m in linears.items()}
        self.sharded = {name for name, m in linears.items() if hasattr(m.weight, "to_local")}
        for name in self.sharded:
            if isinstance(self.latents[name], LoRA):
                self.latents[name].divided(linears[name].weight)
        self.parameters = [p for latent in self.latents.values() for p in latent.parameters]
        self.gradients: dict[str, Any] = {name: None for name in linears}
        self.sync()

    @torch.no_grad()
    def sync(self) -> None:
        """Compute weights from latents, once per step and not per micro-batch."""
        for name, m in self.linears.items():
            sharding.local(m.weight).copy_(self.latents[name].weight())

    def _gather(self, name: str, weight: Any) -> None:
        """Move a micro-batch's gradient into its float32 sum as soon as it is there: bf16 sums would lose the small
        ones."""
        g, weight.grad = sharding.local(weight.grad), None
        g = g.cpu() if self.latents[name].host else g
        self.gradients[name] = g.float() if self.gradients[name] is None else self.gradients[name].add_(g)

    def backward(self) -> None:
        """From the gathered gradients to the full latents; adapters have theirs already. What every process holds
        whole becomes the mean over them, as FSDP makes the rest."""
        for name, latent in self.latents.items():
            g, self.gradients[name] = self.gradients[name], None
            if g is not None:  # the straight-through gradient, without a second Q(W)
                (p,) = latent.parameters
                p.grad = g
            for p in latent.parameters if sharding.ranks()[1] > 1 and not self.in_rows(name) else ():
                p.grad = sharding.summed(p.grad) / sharding.ranks()[1]

    def in_rows(self, name: str) -> bool:
        """Whether this process has some rows of the latent and others the rest."""
        return name in self.sharded and not isinstance(self.latents[name], LoRA)

    def collect(self) -> None:
        """After a micro-batch's backward: what FSDP has left on divided weights, whose hooks do not fire."""
        for name in self.sharded:
            weight = self.linears[name].weight
            if weight.grad is not None:
                self._gather(name, weight)

    def norm(self, where: str) -> Tensor:
        """`check_gradients` of all latents, over all processes."""
        parts = {True: [], False: []}
        for name, latent in self.latents.items():
            parts[self.in_rows(name)] += [(name, p) for p in latent.parameters]
        own, alike = (check_gradients(parts[k], where) if parts[k] else torch.zeros(()) for k in (True, False))
        return (sharding.summed(own.square()) + alike.square()).sqrt() if self.sharded else alike

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The latents with the names of the weights they make."""
        return ((name, p) for name, latent in self.latents.items() for p in latent.parameters)

    def snapshot(self) -> list[Tensor]:
        """Copies of the latents in the computer's memory."""
        return [p.detach().clone().cpu() for p in self.parameters]

    @torch.no_grad()
    def gathered(self) -> dict[str, Tensor]:
        """The whole weights by name before any quantizer, on every process: what a checkpoint of one process holds."""
        return dict(self.gathered_each())

    @torch.no_grad()
    def gathered_each(self) -> Iterator[tuple[str, Tensor]]:
        """`gathered`, one after another."""
        for n, x in self.latents.items():
            yield n, sharding.whole(x.plain().detach(), self.linears[n].weight)

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor]) -> None:
        for p, s in zip(self.parameters, snapshot):
            p.copy_(s)
        self.sync()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside, every backward pass adds its gradients to the float32 sums; `backward` then takes them to the
        latents."""
        hooks = []
        self.gradients = dict.fromkeys(self.linears)  # what a step that failed had gathered
        for p in self.parameters:
            p.grad = None
        for name, m in self.linears.items():
            latent = self.latents[name]
            if isinstance(latent, LoRA):
                m.__dict__["forward"] = partial(latent.forward, m)
                continue
            if name in self.sharded:
                continue
            m.weight.requires_grad_(True)
            hooks.append(m.weight.register_post_accumulate_grad_hook(partial(self._gather, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for name, m in self.linears.items():
                m.weight.requires_grad_(name in self.sharded)
                m.__dict__.pop("forward", None)


@contextmanager
def checkpointed(model, *, on: bool = True) -> Iterator[None]:
    """Inside, a block keeps its input alone and is computed again in the backward pass: activations of one block at a
    time, for a third more work. The numbers are the same."""
    from torch.utils.checkpoint import checkpoint

    blocks = decoder_blocks(model).values() if on else ()
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=attention.again)
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
