"""Two models that differ in their blocks' linear weights and share all others: full precision and its student.

Where both would be too much for the device, one set of those weights is there at a time and the other on the host; a
forward pass of either model brings its own.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from lib.quantization.blocks import block_linears


def twin(model, *, host: bool = False):
    """A second model with block weights of its own, equal to `model`'s; it shares everything else, in place.

    host: of the two sets the one that is not in use is in the computer's memory, and they change places at each switch.
    The numbers are the same.
    """
    weights = [m.weight for m in block_linears(model).values()]
    shared = {id(x): x for x in [*model.parameters(), *model.buffers()]}  # what is in the memo is taken, not copied
    other = copy.deepcopy(model, memo=shared | {id(w): _copy(w, host) for w in weights})
    if host:
        switch = _Switch(model, other)
        for k, m in enumerate((model, other)):
            m.base_model.register_forward_pre_hook(_Use(switch, k))
    return other


def use(model) -> None:
    """Bring a twin's weights to the device now: before something other than its forward pass reads where they are."""
    for hook in model.base_model._forward_pre_hooks.values():
        if isinstance(hook, _Use):
            hook()


def _copy(weight: torch.Tensor, host: bool) -> nn.Parameter:
    w = weight.detach().clone()
    return nn.Parameter(w.cpu() if host else w, requires_grad=False)


class _Switch:
    """Which of two models has its weights on the device: one set of tensors there and one on the host."""

    def __init__(self, *models):
        self.layers = [list(block_linears(m).values()) for m in models]
        self.active = 0

    @torch.no_grad()
    def to(self, which: int) -> None:
        if which == self.active:
            return
        pairs = list(zip(self.layers[self.active], self.layers[which]))
        if any(m.weight.requires_grad for m, _ in pairs):
            raise RuntimeError("the weights on the device are in training: the other model can be used after the step")
        for before, after in pairs:
            here, there = before.weight, after.weight
            held = here.detach().clone()
            here.copy_(there)
            there.copy_(held)
            before.weight, after.weight = there, here
        self.active = which


class _Use:
    """A model's hook; a copy of the model is a model of its own and has none."""

    def __init__(self, switch: _Switch, which: int):
        self.switch, self.which = switch, which

    def __call__(self, *_) -> None:
        self.switch.to(self.which)

    def __deepcopy__(self, memo):
        return _nothing


def _nothing(*_) -> None:
    pass
