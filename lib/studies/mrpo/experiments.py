"""The experiments of 40_mrpo: an arm is trained on a task, measured, and recorded under a label."""

from __future__ import annotations

from collections.abc import Sequence

from lib.engine import keeping
from lib.studies.mrpo import measures, scores
from lib.studies.mrpo.arms import ARMS, MOVING, Spec, loss, reference
from lib.studies.mrpo.candidates import gather
from lib.studies.mrpo.tasks import Task
from lib.studies.mrpo.training import Teacher, chosen_states, fit, steps
from lib.studies.mrpo.world import World, load


def tune(world: World, arm: str, names: Sequence[str], t: Task, lrs: Sequence[float]) -> None:
    """Accuracy on the validation pairs of an arm trained at each learning rate; test pairs are not touched."""
    for lr in lrs:
        _train(world, ARMS[arm], arm, names, t, lr)
        metric = f"validation accuracy at {lr:g}"
        world.run.metric("tuning", t.name, arm, metric, validate(world, names[0], t), n=len(t.validation))


def validate(world: World, primary: str, t: Task) -> float:
    """Share of validation pairs whose margin against the primary is positive."""
    table = scores.table(world, [primary], "validation", t.validation)
    needed = scores.needed(world, "validation", t.validation)
    w, l = gather(scores.score(world, "validation", needed), t.validation)
    return (w - table.chosen[0] > l - table.rejected[0]).double().mean().item()


def _train(world: World, spec: Spec, label: str, names: Sequence[str], t: Task, lr: float) -> list[dict]:
    teacher = Teacher(chosen_states(world, names[1], t.train), world.cfg.kd_weight) if spec.kd else None
    return fit(
        world,
        t.train,
        loss(world, spec, names, t),
        lr=lr,
        steps=steps(world, len(t.train)),
        start=names[0],
        desc=f"{t.name}: {label}",
        teacher=teacher,
        whole=spec.weights in MOVING,  # they look at the batch before
    )


def run_arm(
    world: World,
    arm: str,
    names: Sequence[str],
    t: Task,
    *,
    label: str | None = None,
    samples: bool = False,
    **changes,
) -> list[dict]:
    """Train one arm on a task against references `names` (the primary first), measure it, and record everything
    under `label`. Where KEEP names it, its weights are kept; of an arm of several tasks those of the last.

    changes: fields of its Spec that differ, for ablations.
    """
    spec, label, run, curve = ARMS[arm]._replace(**changes), label or arm, world.run, []
    if spec.swap and len(names) != 2:
        return curve  # the release's switch exists for two references
    with run.stage(f"{t.name}: {label}"):
        load(world, world.weights[names[0]])
        if spec.kind != "none":
            curve = _train(world, spec, label, names, t, world.cfg.lr)
            run.curve(f"{t.name}: {label}", curve)
            largest = max(r["gradient norm"] for r in curve)
            run.metric("training", t.name, label, "largest gradient norm", largest, n=len(curve))
            keeping.keep(run, label, world.model, world.linears, note=f"Trained on {len(t.train)} pairs of {t.name}.")
        _measure(world, spec, label, names, t)
        if samples:
            measures.generated(world, label, t, to=[n for n in names if n in world.weights])
    return curve


def _measure(world: World, spec: Spec, label: str, names: Sequence[str], t: Task) -> None:
    own, needed = reference(world, spec, names, "test", t.test, t.validation), scores.needed(world, "test", t.test)
    if spec.kind == "none":  # what is stored: the base is exactly itself, however it was batched
        policy = scores.matrix(world, names[0], "test", needed)
    else:
        policy = scores.score(world, "test", needed)
    table = scores.table(world, names, "test", t.test)
    measures.measure(world, label, t.name, t.test, table=table, own=own, policy=policy, normalized=spec.normalized)
