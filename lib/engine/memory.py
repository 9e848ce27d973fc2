"""What a piece of work will take of memory, before anything is loaded: the same code, run on shapes alone.

Inside `shapes()` tensors have no numbers (torch's fake tensors), and a meter counts the bytes of those that are alive
at once. So whatever the engine does is counted, a new code path included; what kernels use for themselves is not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib.data import Pair
from lib.engine import attention, fused, generation, latents, objectives, sharding, training, trunk
from lib.engine.head import head_of
from lib.engine.logprobs import hidden_states, pack, token_logprobs
from lib.losses import dpo

ANY = 1  # what a tensor without numbers says where one is asked for: true, and a token that ends an answer

ASKED = (torch.ops.aten._local_scalar_dense, torch.ops.aten.item, torch.ops.aten.is_nonzero)


class Bytes(NamedTuple):
    """What is alive at once: on the device that computes, and on the host, which are one where that is the CPU."""

    device: int = 0
    host: int = 0


class Meter(TorchDispatchMode):
    """Counts the bytes of all storages that are alive: `now`, and the most so far of each kind, `peak`.

    On the host are what `Tensor.cpu` gives inside `shapes` and whatever is made of such tensors alone.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = Bytes()
        self._alive: dict[int, Bytes] = {}  # by storage

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in ASKED:
            return ANY
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        host = bool(given) and all(self._on_host(x) for x in given)
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and not hasattr(x, "to_local"):  # a divided weight counts by its rows
                self._count(x.untyped_storage(), host)
        return out

    def to_host(self, x: Tensor) -> Tensor:
        """A copy on the host."""
        x = x.clone()
        self._gone(x.untyped_storage()._cdata)
        self._count(x.untyped_storage(), True)
        return x

    def resized(self, storage) -> None:
        """A storage that is counted has another size now: FSDP empties and fills those of gathered weights."""
        if storage._cdata in self._alive:
            host = self._alive[storage._cdata].host > 0
            self._gone(storage._cdata)
            self._set(storage, host)

    def _on_host(self, x: Tensor) -> bool:
        return self._alive.get(x.untyped_storage()._cdata, Bytes()).host > 0

    def _count(self, storage, host: bool) -> None:
        if storage._cdata not in self._alive:
            self._set(storage, host)
            weakref.finalize(storage, self._gone, storage._cdata)

    def _set(self, storage, host: bool) -> None:
        size = storage.nbytes()
        self._alive[storage._cdata] = Bytes(0, size) if host else Bytes(size, 0)
        self.now = Bytes(*(a + b for a, b in zip(self.now, self._alive[storage._cdata])))
        self.peak = Bytes(*map(max, self.peak, self.now))

    def _gone(self, key: int) -> None:
        self.now = Bytes(*(a - b for a, b in zip(self.now, self._alive.pop(key, Bytes()))))


@contextmanager
def shapes() -> Iterator[Meter]:
    """with shapes() as meter: tensors made inside have shapes and no numbers; the meter says what they would take."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    meter, resize = Meter(), torch.UntypedStorage.resize_

    def resized(storage, size):
        out = resize(storage, size)
        meter.resized(storage)
        return out

    with (
        mock.patch.object(torch.UntypedStorage, "resize_", resized),
        mock.patch.object(Tensor, "tolist", lambda x: _list(x.shape)),
        mock.patch.object(Tensor, "cpu", lambda x: meter.to_host(x)),
        # a module that is moved swaps its weights, which torch refuses while its fake tensors know each other
        mock.patch.object(torch.utils.weakref, "getweakrefs", lambda x: []),
        FakeTensorMode(allow_non_fake_inputs=True),
        meter,
    ):
        yield meter


def _list(shape: Sequence[int]):
    return [_list(shape[1:]) for _ in range(shape[0])] if len(shape) else ANY


@contextmanager
def one_of(processes: int) -> Iterator[None]:
    """Inside, this process is the first of so many, of which there are no others: torch's stand-in for a process group,
    which its own forecasts of FSDP use. What is then counted is what each of them takes."""
    if processes == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        sharding.mesh("cpu", processes)  # not on shapes alone
        yield
    finally:
        sharding.mesh.cache_clear()
        torch.distributed.destroy_process_group()


def model_of(config, dtype: torch.dtype):
    """A causal language model of this config as `models.load` would give it, without weights; inside `shapes`."""
    from transformers import AutoModelForCausalLM

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # cast afterwards, both would be counted
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    finally:
        torch.set_default_dtype(before)
    model = model.eval().requires_grad_(False)
    attention.use(model)
    fused.use(model)
    return model


def peaks(work: Callable[[], Iterator[str]]) -> dict[str, Bytes]:
    """Bytes at the height of each stage of `work`, a generator that names a stage once it is over."""
    return dict(heights(work))


def heights(work: Callable[[], Iterator[str]]) -> Iterator[tuple[str, Bytes]]:
    """`peaks`, one after another."""
    with shapes() as meter:
        for stage in work():
            yield stage, meter.peak
            meter.peak = (
                Bytes()
            )  # what a stage begins with shows at its first tensor; it may give something back before


# ---- pieces of work at given sizes: a prompt of `prompt` tokens, answers of `answer`


def stepper(latent, kind: str = "none") -> training.Stepper:
    """A stepper of `latent` with moments of this kind (`training.AdamW`); what would be paged counts as the host's."""
    paged = kind == "paged-8bit"
    made = training.Stepper(latent, training.AdamW(1e-6, 1, 1.0, kind="8bit" if paged else kind))
    if paged:
        paging: Any = made.optimizer  # bitsandbytes' own
        paging.get_state_buffer = lambda p, dtype=torch.float32: torch.zeros_like(p, dtype=dtype).cpu()
    return made


def preference_steps(
    model, latent, *, micro: int, prompt: int, answer: int, checkpoint: bool = False, optimizer: str = "none"
) -> None:
    """Two optimizer steps on `micro` pairs: from the second on Adam's moments are there before the forward is."""
    together = micro * sharding.ranks()[1]  # each process has a micro-batch
    pairs = [Pair("pair", [ANY] * prompt, [ANY] * answer, [ANY] * answer, 0)] * together
    ref = torch.zeros(together)
    objective = objectives.preference(model, pairs, partial(dpo, beta=0.1), ref_w=ref, ref_l=ref)
    at = stepper(latent, optimizer)
    with latents.checkpointed(model, on=checkpoint):
        for _ in range(2):
            at.step(range(together), objective, micro=micro)


def top_steps(top, latent, *, micro: int, prompt: int, answer: int, answers: int = 2, optimizer: str = "none") -> None:
    """Two optimizer steps of a model's last blocks (`trunk.split`) on `micro` prompts with `answers` answers each."""
    rows = [([ANY] * prompt, [[ANY] * answer] * answers)] * micro
    width, head = top.config.get_text_config(decoder=True).hidden_size, head_of(top)

    def objective(indices):
        pieces = [
            [torch.zeros(n, width, dtype=top.dtype, device=top.device) for n in (prompt, *[answer] * answers)]
            for _ in indices
        ]
        packed, hidden = trunk.top_states(top, rows, pieces)
        return token_logprobs(hidden, head, packed.target).sum(), {}

    at = stepper(latent, optimizer)
    for _ in range(2):
        at.step(range(micro), objective, micro=micro)


def answers(model, *, batch: int, prompt: int, new_tokens: int, n: int = 1) -> None:
    """The first token of n answers to each of `batch` prompts, with room for all that may come."""
    how = generation.Sampling(1.0, torch.Generator(), n=n) if n > 1 else generation.GREEDY
    generation.generate(
        model, [[ANY] * prompt] * batch, max_new_tokens=new_tokens, stop_ids=[ANY], batch=batch, sampling=how
    )


@torch.inference_mode()
def scores(model, *, batch: int, prompt: int, answer: int, answers: int = 2) -> None:
    """Log-probs of `answers` answers to each of `batch` prompts."""
    packed = pack([([ANY] * prompt, [[ANY] * answer] * answers)] * batch)
    token_logprobs(hidden_states(model, packed), head_of(model), packed.target)
