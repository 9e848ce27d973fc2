"""The arms of the MRPO study: each is one line of a table that says how the loss uses the references, and all else is
equal. Here: the table, the weights and the reference that a line stands for, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lib.harness import seeding
from lib.losses import dpo, references
from lib.studies.mrpo import scores
from lib.studies.mrpo.candidates import Choice, gather
from lib.studies.mrpo.tasks import Task
from lib.studies.mrpo.training import Loss
from lib.studies.mrpo.world import World

MOVING = ("swcw", "swcw-onehot", "tsw")  # weights that change while the policy trains


class Spec(NamedTuple):
    """How an arm uses its references; every arm has the same data, steps and learning rate."""

    kind: str  # none, primary, second, multi or virtual: which references enter the loss
    mean: str = "harmonic"
    # arwc, uniform, vaw, vdw, swcw, swcw-onehot, tsw, or the second reference's fixed share as a number
    weights: str = "arwc"
    clip: bool = True  # CTRO
    epsilon: float | None = None  # of the clipping; None: the setting's
    adaptive: bool = True
    normalized: bool = False  # log-probs per token on both sides, beta times the mean answer length
    swap: bool = False  # the release's swapped weights
    kd: bool = False  # adds KL to the second reference


ARMS = {
    "base": Spec("none"), "dpo": Spec("primary"), "single": Spec("second"), "kd": Spec("primary", kd=True),
    "multi-dpo": Spec("multi"),
    "mrpo": Spec("virtual"), "mrpo-swapped": Spec("virtual", swap=True), "mrpo-unclipped": Spec("virtual", clip=False),
    "mrpo-uniform": Spec("virtual", weights="uniform"), "mrpo-vaw": Spec("virtual", weights="vaw"),
    "mrpo-vdw": Spec("virtual", weights="vdw"),
    "geometric": Spec("virtual", mean="geometric", clip=False),
    "arithmetic": Spec("virtual", mean="arithmetic", clip=False),
    "mrpo-normalized": Spec("virtual", normalized=True),
    **{f"mrpo-{w}": Spec("virtual", weights=w) for w in ("0.1", "0.9", "swcw", "swcw-onehot", "tsw")},
}  # fmt: skip


def weights_of(
    world: World,
    kind: str,
    names: Sequence[str],
    split: str,
    picks: Sequence[Choice],
    validation: Sequence[Choice],
    *,
    normalized: bool = False,
) -> Tensor:
    """Weights (K,) or (K, B) of the references by name of the rule, of unclipped log-probs per pair or from validation.

    Rules that move while training (swcw, tsw) have no weights of their own afterwards: uniform ones measure them.
    """
    if kind in ("uniform", *MOVING):
        return references.uniform(len(names))
    if kind[0].isdigit():
        return references.share(float(kind), len(names))
    where, of = (split, picks) if kind == "arwc" else ("validation", validation)
    t = scores.table(world, names, where, of)
    t = t.normalized() if normalized else t
    return {"arwc": references.arwc, "vdw": references.vdw, "vaw": references.vaw}[kind](t.chosen - t.rejected)


def reference(
    world: World, spec: Spec, names: Sequence[str], split: str, picks: Sequence[Choice], validation: Sequence[Choice]
) -> tuple[Tensor, Tensor]:
    """The log-probs (B,) that the arm compares the policy with; Multi-DPO reports against the primary."""
    t = scores.table(world, names, split, picks)
    t = t.normalized() if spec.normalized else t
    if spec.kind != "virtual":
        row = 1 if spec.kind == "second" else 0
        return t.chosen[row], t.rejected[row]
    a = weights_of(world, spec.weights, names, split, picks, validation, normalized=spec.normalized)
    return _combined(world, spec, t.chosen, t.rejected, a)


def _combined(world: World, spec: Spec, chosen: Tensor, rejected: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The virtual reference (B,) of log-probs (K, B) as the arm clips and means them."""
    epsilon = None if not spec.clip else world.cfg.epsilon if spec.epsilon is None else spec.epsilon
    how: dict[str, Any] = dict(mean=spec.mean, epsilon=epsilon, adaptive=spec.adaptive, swap_weights=spec.swap)
    return references.combine(chosen, rejected, a, **how)


def loss(world: World, spec: Spec, names: Sequence[str], t: Task) -> Loss:
    """The arm's loss over the task's training pairs, its references' log-probs looked up once."""
    if spec.weights == "tsw":
        return _thompson(world, names, t)
    if spec.weights in MOVING:
        return _sliding(world, spec, names, t)
    if spec.kind == "multi":
        return _multi(world, spec, names, t)
    w, l = reference(world, spec, names, "train", t.train, t.validation)
    if spec.normalized:
        return _normalized(world, w, l, t)
    beta = world.cfg.beta
    return lambda pi_w, pi_l, i: dpo(pi_w, pi_l, w[i].to(pi_w.device), l[i].to(pi_w.device), beta=beta)


def _normalized(world: World, w: Tensor, l: Tensor, t: Task) -> Loss:
    """Log-probs per token against those of a reference (B,) per token, beta times the mean answer length."""
    n, m = gather(world.tokens["train"], t.train)
    beta = world.cfg.beta * world.tokens["train"].mean().item()

    def per_token(pi_w, pi_l, i):
        n_i, m_i, w_i, l_i = (x[i].to(pi_w.device) for x in (n, m, w, l))
        return dpo(pi_w / n_i, pi_l / m_i, w_i, l_i, beta=beta)

    return per_token


def _multi(world: World, spec: Spec, names: Sequence[str], t: Task) -> Loss:
    """Multi-DPO: a DPO loss against each reference, weighted; clipped as the release does."""
    table = scores.table(world, names, "train", t.train)
    a = weights_of(world, spec.weights, names, "train", t.train, t.validation)
    w, l = references.clipped(table.chosen, table.rejected, epsilon=world.cfg.epsilon, adaptive=True)
    a = a if a.ndim == 2 else a[:, None].expand(-1, len(t.train))

    def weighted(pi_w, pi_l, i):
        w_i, l_i, a_i = (x[:, i].to(pi_w.device) for x in (w, l, a))
        return references.multi_dpo(pi_w, pi_l, w_i, l_i, a_i, beta=world.cfg.beta)

    return weighted


# ---- losses whose weights move while the policy trains


def _sliding(world: World, spec: Spec, names: Sequence[str], t: Task) -> Loss:
    """The sliding window: weights by the margins of the batch before."""
    table, last = scores.table(world, names, "train", t.train), {}

    def sliding(pi_w, pi_l, i):
        a = references.swcw(last.get("margins"), len(names), one_hot=spec.weights == "swcw-onehot")
        last["margins"] = table.chosen[:, i] - table.rejected[:, i]
        w, l = _combined(world, spec, table.chosen[:, i], table.rejected[:, i], a)
        return dpo(pi_w, pi_l, w.to(pi_w.device), l.to(pi_w.device), beta=world.cfg.beta)

    return sliding


def _thompson(world: World, names: Sequence[str], t: Task) -> Loss:
    """Thompson sampling: one reference a step, by whether a step against it raised the accuracy on a fresh quarter of
    the validation pairs."""
    cfg, table, last = world.cfg, scores.table(world, names, "train", t.train), {}
    generator = seeding.torch_generator(cfg.seed, "bandit")
    bandit = references.Thompson(len(names), prior=cfg.prior, generator=generator)
    rng, quarter = seeding.numpy_rng(cfg.seed, "bandit validation"), max(1, len(t.validation) // 4)

    def thompson(pi_w, pi_l, i):
        if last:
            bandit.update(last["k"], last["before"], scores.accuracy(world, "validation", last["pairs"]))
        last["pairs"] = [t.validation[j] for j in rng.permutation(len(t.validation))[:quarter]]
        last["before"], last["k"] = scores.accuracy(world, "validation", last["pairs"]), bandit.draw()
        w, l = (x[last["k"], i].to(pi_w.device) for x in (table.chosen, table.rejected))
        return dpo(pi_w, pi_l, w, l, beta=cfg.beta)

    return thompson
