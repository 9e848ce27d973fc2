"""What a piece of work will take of memory, before anything is loaded: the same code, run on shapes alone.

Inside `shapes()` tensors have no numbers (torch's fake tensors), and a meter counts the bytes of those that are alive
at once. So whatever the engine does is counted, a new code path included; what kernels use for themselves is not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ANY = 1  # what a tensor without numbers says where one is asked for: true, and a token that ends an answer


class Meter(TorchDispatchMode):
    """Counts the bytes of all storages that are alive: `now`, and the most so far, `peak`."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return ANY
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._count(x.untyped_storage())
        return out

    def _count(self, storage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += self._alive[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


@contextmanager
def shapes() -> Iterator[Meter]:
    """with shapes() as meter: tensors made inside have shapes and no numbers; the meter says what they would take."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), Meter() as meter:
        yield meter


def model_of(config, dtype: torch.dtype):
    """A causal language model of this config as `models.load` would give it, without weights; inside `shapes`."""
    from transformers import AutoModelForCausalLM

    from lib.engine import attention

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # cast afterwards, both would be counted
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    finally:
        torch.set_default_dtype(before)
    model = model.eval().requires_grad_(False)
    attention.use(model)
    return model


def peaks(work: Callable[[], Iterator[str]]) -> dict[str, int]:
    """Bytes at the height of each stage of `work`, a generator that names a stage once it is over."""
    out = {}
    with shapes() as meter:
        for stage in work():
            out[stage] = max(meter.peak, out.get(stage, 0))
            meter.peak = meter.now
    return out
