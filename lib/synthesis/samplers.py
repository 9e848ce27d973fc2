"""Which seed examples stand in a teacher's prompt: the claim of LAB is that those of one leaf at a time cover more than
a random draw.

Every sampler is a `Sampler` of equally many calls, whose prompts depend on the seed, the number of the call and the
rows made so far alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lib.taxonomy.tree import Leaf


class Example(NamedTuple):
    """A question with its answer that a prompt shows, and the leaf it is of ("" if unknown)."""

    leaf: str
    question: str
    answer: str
    context: str


class Prompt(NamedTuple):
    """The call's number, the leaf it is made for (a real one, "pool", or a "fake ..."), its task ("" where it is no
    real leaf), examples."""

    call: int
    leaf: str
    task: str
    examples: tuple[Example, ...]


class Sampler(NamedTuple):
    """draw(call, made) -> Prompt for call in range(calls); made: the rows kept so far, in their order."""

    name: str
    calls: int
    draw: Callable[[int, Sequence[dict]], Prompt]


def examples(leaf: Leaf) -> list[Example]:
    """The leaf's seeds."""
    return [Example(leaf.path, s.question, s.answer, s.context) for s in leaf.seeds]


def _check(leaves: Sequence[Leaf], calls: int, size: int) -> None:
    if not leaves or calls < 1 or size < 1:
        raise ValueError(
            f"at least 1 leaf, call and example a prompt are needed, given {len(leaves)}, {calls} and {size}"
        )
    short = next((leaf for leaf in leaves if len(leaf.seeds) < size), None)
    if short is not None:
        raise ValueError(f"{short.path} has {len(short.seeds)} seeds, too few for prompts of {size} examples")


def _pick(items: Sequence, size: int, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))[:size].tolist()]


def pool(leaves: Sequence[Leaf], *, calls: int, size: int, seed: int, machine: int = 0) -> Sampler:
    """Self-Instruct: `size` examples of the pool of all seeds, of which up to `machine` are rows made before.
    ValueError for bad numbers."""
    _check(leaves, calls, 1)
    seeds = [x for leaf in leaves for x in examples(leaf)]
    if not 1 <= size <= len(seeds) or not 0 <= machine < size:
        raise ValueError(
            f"prompts of 1 to {len(seeds)} examples with fewer machine-made ones are allowed, given {size} and "
            f"{machine}"
        )

    def draw(call: int, made: Sequence[dict]) -> Prompt:
        rng = np.random.default_rng([seed, call])
        fed = [Example("", r["question"], r["answer"], r.get("context", "")) for r in _pick(made, machine, rng)]
        return Prompt(call, "pool", "", (*_pick(seeds, size - len(fed), rng), *fed))

    return Sampler("pool", calls, draw)


def leaf_local(
    leaves: Sequence[Leaf], *, calls: int, size: int, seed: int, quotas: Mapping[str, int] | None = None
) -> Sampler:
    """LAB: each call's examples are of one leaf; leaves take turns, each as often as its quota (even quotas unless
    given).

    ValueError for a leaf with fewer seeds than `size`, or quotas that are not of these leaves or do not add up to
    `calls`.
    """
    _check(leaves, calls, size)
    order = _turns([leaf.path for leaf in leaves], calls, seed, quotas)
    groups = {leaf.path: (leaf.task, examples(leaf)) for leaf in leaves}
    return Sampler("leaf", calls, _grouped(order, groups, size, seed))


def fake_leaf(leaves: Sequence[Leaf], *, calls: int, size: int, seed: int) -> Sampler:
    """The control: as many groups of the same sizes as there are leaves, but the seeds are shuffled among them.
    ValueError as for `leaf_local`."""
    _check(leaves, calls, size)
    seeds = [x for leaf in leaves for x in examples(leaf)]
    dealt, at, groups = _pick(seeds, len(seeds), np.random.default_rng([seed, 0xFA])), 0, {}
    for i, leaf in enumerate(leaves):
        groups[f"fake {i}"] = "", dealt[at : at + len(leaf.seeds)]
        at += len(leaf.seeds)
    return Sampler("fake leaf", calls, _grouped(_turns(list(groups), calls, seed, None), groups, size, seed))


def _grouped(order: Sequence[str], groups: Mapping[str, tuple[str, list[Example]]], size: int, seed: int) -> Callable:
    def draw(call: int, made: Sequence[dict]) -> Prompt:
        task, seeds = groups[order[call]]
        return Prompt(call, order[call], task, tuple(_pick(seeds, size, np.random.default_rng([seed, call]))))

    return draw


def _turns(names: Sequence[str], calls: int, seed: int, quotas: Mapping[str, int] | None) -> list[str]:
    """Whose turn each call is: rounds in which every leaf with quota left comes once, in the seed's order."""
    rng = np.random.default_rng([seed, 0x1EAF])
    order = _pick(names, len(names), rng)
    if quotas is None:
        quotas = {name: calls // len(names) + (i < calls % len(names)) for i, name in enumerate(order)}
    if set(quotas) != set(names) or sum(quotas.values()) != calls or min(quotas.values()) < 0:
        raise ValueError(
            f"quotas are of the {len(names)} leaves and add up to {calls} calls, given {len(quotas)} that add up "
            f"to {sum(quotas.values())}"
        )
    return [name for turn in range(max(quotas.values())) for name in order if turn < quotas[name]]


def weighted_quotas(weights: Mapping[str, float], calls: int, *, least: int = 0) -> dict[str, int]:
    """`calls` shared out in proportion to the weights (a student's failure rates, or numbers of seeds), each leaf at
    least `least` calls.

    Largest remainders, so that they add up; even shares where all weights are 0. ValueError for a negative weight or
    too few calls.
    """
    total = sum(weights.values())
    if not weights or min(weights.values()) < 0 or not np.isfinite(total) or least < 0 or least * len(weights) > calls:
        raise ValueError(f"weights are at least 0, and {calls} calls hold {least} for each leaf, given {dict(weights)}")
    free = calls - least * len(weights)
    exact = {name: free * (w / total if total else 1 / len(weights)) for name, w in weights.items()}
    out = {name: least + int(x) for name, x in exact.items()}
    for name in sorted(exact, key=lambda n: int(exact[n]) - exact[n])[: calls - sum(out.values())]:
        out[name] += 1
    return out


NAMES = ("pool", "self-instruct", "leaf", "fake-leaf", "quota")


def named(
    name: str, leaves: Sequence[Leaf], *, calls: int, size: int, seed: int, quotas: Mapping[str, int] | None = None
) -> Sampler:
    """The sampler of that name. pool: any `size` seeds; self-instruct: 8 examples, up to 2 of them made before; leaf:
    LAB's; fake-leaf: its control; quota: leaf, calls in proportion to seeds.

    quotas: calls of each leaf, for "leaf" alone. No prompt tells the leaf's task: a pool's has none to tell. ValueError
    for another name.
    """
    how = dict(calls=calls, seed=seed)
    if name == "pool":
        made = pool(leaves, size=size, **how)
    elif name == "self-instruct":
        made = pool(leaves, size=8, machine=2, **how)
    elif name == "leaf":
        made = leaf_local(leaves, size=size, quotas=quotas, **how)
    elif name == "fake-leaf":
        made = fake_leaf(leaves, size=size, **how)
    elif name == "quota":
        quotas = weighted_quotas({leaf.path: len(leaf.seeds) for leaf in leaves}, calls, least=1)
        made = leaf_local(leaves, size=size, quotas=quotas, **how)
    else:
        raise ValueError(f"a sampler is one of {', '.join(NAMES)}, given {name!r}")
    return made._replace(draw=lambda call, rows: made.draw(call, rows)._replace(task=""))
