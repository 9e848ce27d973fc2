"""A decoder as quantizers see it: its blocks in order, the linear layers inside them, and what flows from block to
block."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lib.quantization.format import check_format

ROWS = 512  # tokens that go through a block at once; bounds memory, not results


def decoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The decoder's blocks by name, in order: the first ModuleList (outermost) whose every item holds a linear
    layer."""
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and all(map(_has_linear, module)):
            return {f"{prefix}.{i}": block for i, block in enumerate(module)}
    raise ValueError(
        f"{type(model).__name__} has no ModuleList of decoder blocks with linear layers, so nothing to quantize"
    )


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers inside the decoder blocks, by full name: never embeddings, norms or the language-model head."""
    return {
        f"{prefix}.{name}": module
        for prefix, block in decoder_blocks(model).items()
        for name, module in linears(block).items()
    }


def check_model(model: nn.Module, *, bits: Iterable[int], groups: Iterable[int | None]) -> None:
    """ValueError if a block's linear layer cannot be quantized in one of these formats, or the blocks hold weights that
    would be left out (`check_covered`): asked before anything is computed."""
    check_covered(model)
    bits, groups = list(bits), list(groups)
    for name, layer in block_linears(model).items():
        for b, g in itertools.product(bits, groups):
            try:
                check_format(b, g, layer.in_features)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def check_covered(model: nn.Module) -> None:
    """ValueError if the blocks hold matrices that are no linear layer's weight and would silently stay as they are.

    Experts fused into one tensor (Mixtral, Qwen3-MoE) are such: a model "of 3 bits" would keep most of its weights at
    16. Let be, as everywhere in the literature: embeddings, norms, biases, convolutions over a few positions, routers
    (they choose experts and hold some thousandths of the weights), decay rates (A_log), vectors of another shape.
    """
    done = {id(m.weight) for m in block_linears(model).values()}
    left, seen, total = {}, set(), 0
    for prefix, block in decoder_blocks(model).items():
        for name, module in block.named_modules():
            for own, p in module.named_parameters(recurse=False):
                if id(p) in seen or _small(module, own, p):
                    continue
                seen.add(id(p))
                total += p.numel()
                if id(p) not in done:
                    left[".".join(filter(None, (prefix, name, own)))] = p
    if left:
        share = sum(p.numel() for p in left.values()) / total
        some = ", ".join(f"{n} {tuple(p.shape)}" for n, p in list(left.items())[:3])
        raise ValueError(
            f"{len(left)} tensors of {type(model).__name__}'s blocks are no linear layers and would stay unquantized, "
            f"{share:.0%} of the blocks' weights: {some}{', ...' if len(left) > 3 else ''}. Only models whose blocks "
            "are made of linear layers can be quantized here (no fused experts)"
        )


def _small(module: nn.Module, name: str, p: Tensor) -> bool:
    """Whether a parameter is one that nobody quantizes, see `check_covered`."""
    kind = type(module).__name__.lower()
    return (
        p.ndim < 2
        or p.numel() == max(p.shape)
        or name.endswith(("bias", "A_log"))
        or isinstance(module, (nn.Embedding, nn.modules.conv._ConvNd))
        or "norm" in kind
        or "router" in kind
    )


def linears(block: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers of one block by their name inside it."""
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Linear) for m in module.modules())


class _Stop(Exception):
    """The forward pass has gone as far as needed."""


class BlockStream:
    """Hidden states on their way through the blocks, one block at a time; the rest of the model is never held twice.

    calibration: pairs (input_ids (B, T), attention_mask (B, T)). `keep[c]` marks the real tokens of chunk c, (B*T,)
    bool. device: where blocks work, one at a time, while the model stays where it is; None: there too.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Iterable[tuple[Tensor, Tensor]],
        *,
        device: torch.device | str | None = None,
    ):
        self.blocks = list(decoder_blocks(model).items())
        self.device = device
        self.hidden: list[Tensor] = []
        self.calls: list[list[tuple[tuple, dict]]] = []  # [chunk][block]: other arguments, which may differ by block
        self.keep: list[Tensor] = []
        home = next(model.parameters()).device
        self.home, at_work = home, home if device is None else device
        training = model.training
        model.eval()
        hooks = [b.register_forward_pre_hook(self._record, with_kwargs=True) for _, b in self.blocks]
        hooks += [b.register_forward_hook(self._back) for _, b in self.blocks]
        try:
            for ids, mask in calibration:
                if ids.ndim != 2 or ids.shape != mask.shape:
                    raise ValueError(
                        "calibration holds pairs (input_ids, attention_mask), both (B, T); "
                        f"given {tuple(ids.shape)} and {tuple(mask.shape)}"
                    )
                size = max(1, ROWS // ids.shape[1])
                for part, kept in zip(ids.split(size), mask.split(size)):
                    if not kept.any():
                        continue
                    self.calls.append([])
                    self.keep.append(kept.reshape(-1).bool().to(at_work))
                    try:
                        model(input_ids=part.to(home), attention_mask=kept.to(home), use_cache=False)
                    except _Stop:
                        pass
        finally:
            for hook in hooks:
                hook.remove()
            model.train(training)
        if not self.hidden:
            raise ValueError("calibration holds no tokens: give at least one pair (input_ids, attention_mask)")

    @contextmanager
    def at_work(self, index: int) -> Iterator[nn.Module]:
        """Block `index` where blocks work."""
        block = self.blocks[index][1]
        if self.device is not None:
            block.to(self.device)
        try:
            yield block
        finally:
            self._back(block)

    def _back(self, block: nn.Module, *_) -> None:
        if self.device is not None:
            block.to(self.home)

    def _record(self, block: nn.Module, args: tuple, kwargs: dict):
        if self.device is not None:
            args, kwargs = tree_map(lambda x: x.to(self.device) if isinstance(x, Tensor) else x, (args, kwargs))
        given = args, kwargs
        kwargs = dict(kwargs)
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        if not self.calls[-1]:
            self.hidden.append(hidden)
        self.calls[-1].append((args, kwargs))
        if len(self.calls[-1]) == len(self.blocks):  # the last block and the head need not run
            raise _Stop
        if self.device is not None:
            block.to(self.device)
            return given
        return None

    def forward(self, index: int, chunks: Sequence[int] | None = None) -> list[Tensor]:
        """Outputs (B, T, hidden) of block `index` for the chunks named, or all, from the hidden states that now stand
        before it."""
        block = self.blocks[index][1]
        outputs = []
        for c in range(len(self.hidden)) if chunks is None else chunks:
            args, kwargs = self.calls[c][index]
            outputs.append(first(block(self.hidden[c], *args, **kwargs)))
        return outputs

    def watch(self, index: int, reduce: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Outputs of block `index` and, for each of its linear layers, the sum over chunks of reduce(x), x its real
        inputs (n, in).

        Layers fed by one and the same tensor (q, k, v; gate, up) share one result object.
        """
        layers = linears(self.blocks[index][1])
        leader: dict[str, str] = {}
        sums: dict[str, Tensor] = {}
        seen: dict[int, tuple[str, Tensor]] = {}  # of the running chunk; holds the tensors so that no id is used twice
        chunk = 0

        def look(name):
            def hook(module, args):
                x = args[0]
                leader.setdefault(name, seen.setdefault(id(x), (name, x))[0])
                if leader[name] == name:
                    x = x.reshape(-1, x.shape[-1])[self.keep[chunk]]
                    value = reduce(x.to(torch.promote_types(x.dtype, torch.float32)))
                    sums[name] = sums[name] + value if name in sums else value

            return hook

        hooks = [layer.register_forward_pre_hook(look(name)) for name, layer in layers.items()]
        outputs = []
        try:
            for chunk in range(len(self.hidden)):
                seen.clear()
                outputs += self.forward(index, [chunk])
        finally:
            for hook in hooks:
                hook.remove()
        silent = [name for name in layers if name not in leader]
        if silent:
            raise ValueError(f"no calibration token reached {', '.join(silent)} in block {self.blocks[index][0]}")
        return outputs, {name: sums[leader[name]] for name in layers}


def first(output):
    """A module's main output: the tensor itself or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output
