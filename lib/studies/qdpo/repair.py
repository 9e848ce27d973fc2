"""The arms of the QDPO study: a post-training quantizer, or latent weights trained on an objective; each is measured
and recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch

from lib.data import Pair
from lib.engine import latents, training, twins
from lib.harness import seeding
from lib.quantization import awq, rtn
from lib.quantization.export import bits_per_weight
from lib.quantization.ste import codes_changed
from lib.studies.qdpo.measures import measure
from lib.studies.qdpo.study import Study, anew
from lib.studies.qdpo.take_home import keep


def post_training(study: Study, arm: str, apply: Callable) -> None:
    """Quantize a copy of the full-precision model with `apply(model)` and measure it."""
    if arm in study.cfg.items_of("arms"):
        with study.run.stage(arm):
            model = _wide(study.fp)
            stored = apply(model)
            study.run.metric("arms", "weights", arm, "bits per weight", bits_per_weight(stored.values()))
            model = _as(model, study.fp)
            keep(study, arm, model, stored)
            measure(study, arm, model)


def rounded(study: Study, arm: str, **form) -> None:
    """Measure the study's weights as round-to-nearest leaves them, in another format where `form` gives one."""
    if arm in study.cfg.items_of("arms"):
        with study.run.stage(arm):
            form = study.format | form
            study = study._replace(format=form, quantizer=partial(rtn.fake_quant, **form))
            codes = _codes(study, begin(study))
            study.run.metric("arms", "weights", arm, "bits per weight", bits_per_weight(codes.values()))
            keep(study, arm, study.student, codes)
            measure(study, arm, study.student)


def from_awq(study: Study, calibration: Sequence) -> Study:
    """The same study, begun at AWQ's weights: the function of full precision with channels scaled and weights clipped,
    of which round-to-nearest is AWQ. Its student has norms of its own."""
    base = _wide(study.fp)
    awq.transform(base, calibration, device=study.fp.device, **study.format)
    return study._replace(base=base, student=_as(copy.deepcopy(base), study.fp))


def random_moves(study: Study, arm: str, latent: latents.Latent | None) -> None:
    """The negative control: from the start, every matrix moves by the very amounts it has moved by in `latent` (what
    `train` returned), dealt to other weights of that matrix by chance."""
    if latent is None or arm not in study.cfg.items_of("arms"):
        return
    generator = seeding.torch_generator(study.cfg.seed, "random moves")
    with study.run.stage(arm), torch.no_grad():
        mine = begin(study)
        before = _codes(study, mine)
        for name, here in mine.latents.items():
            moved = (latent.latents[name].plain() - here.plain()).flatten()
            dealt = moved[torch.randperm(len(moved), generator=generator).to(moved.device)]
            here.parameters[0] += dealt.view_as(here.parameters[0]).to(here.parameters[0].device)
        mine.sync()
        study.run.metric("training", "train", arm, "codes changed", _changed(before, _codes(study, mine)))
        measure(study, arm, study.student)


def _wide(model):
    """A copy in float32, since AWQ's scales would be lost in part in bfloat16; in the host's memory, for it is twice
    the size of the model on the accelerator."""
    own = {
        id(p): torch.nn.Parameter(p.detach().to("cpu", torch.float32, copy=True), requires_grad=False)
        for p in model.parameters()
    }
    own |= {id(b): b.detach().to("cpu", copy=True) for b in model.buffers()}
    return copy.deepcopy(model, memo=own).float()  # what is in the memo is taken, not copied


def _as(model, like):
    """`model` with every tensor in the type it has in `like`, on that model's device. Not `model.to(bfloat16)`, which
    would round the frequencies of rotary positions too, and they are float32 in a model that was loaded in bfloat16."""
    for kind in ("parameters", "buffers"):
        for mine, other in zip(getattr(model, kind)(), getattr(like, kind)(), strict=True):
            mine.data = mine.data.to(like.device, other.dtype)
    return model


def train(
    study: Study,
    arm: str,
    objective: Callable,
    pairs: Sequence[Pair],
    *,
    lr: float,
    target: float | None = None,
    lora: bool = False,
    start: latents.Latent | None = None,
) -> latents.Latent | None:
    """Reset the student, train its latent weights on `objective` over the pairs, keep the last of them (or those that
    SELECT says), measure.

    `target`: stop when the mean loss of the last three steps falls to it (L* of papers' notes: beyond it the model
    is pushed past full precision). Every arm gets the same steps, batch, warm-up, cosine, clipping and checkpoint rule.
    `start`: go on from what an earlier call returned, instead of from full precision. Returns None for an arm that
    is not asked for.
    """
    if arm not in study.cfg.items_of("arms"):
        return None
    with study.run.stage(arm):
        latent = start or anew(study, _latent(study, lora=lora))
        twins.use(study.student)
        latent.sync()
        before = _codes(study, latent)
        study.run.metric("arms", "weights", arm, "bits per weight", bits_per_weight(before.values()))
        study.curves[arm] = fit(study, arm, objective, pairs, latent, lr=lr, target=target)
        after = _codes(study, latent)
        _record(study, arm, lr=lr, changed=_changed(before, after))
        keep(study, arm, study.student, after)
        measure(study, arm, study.student)
    return latent


def fit(study: Study, arm: str, objective: Callable, pairs: Sequence[Pair], latent, *, lr: float, target=None) -> list:
    """The steps of an arm on `latent`, and nothing else: its curve."""
    cfg, n = study.cfg, len(pairs)
    lengths = [len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs]
    select = None if cfg.select == "last" else cfg.select
    look = training.Validation(lambda: study.validation.validation(study.student), cfg.validate_every, select)
    with latents.checkpointed(study.student, on=cfg.checkpoint):
        return training.fit(
            latent,
            training.epochs(n, min(cfg.batch, n), seeding.torch_generator(cfg.seed, "order"), lengths=lengths),
            objective,
            training.AdamW(lr, cfg.warmup, cfg.clip, cfg.steps, kind=cfg.optimizer),
            steps=cfg.steps,
            micro=cfg.micro,
            validation=look,
            stop=None if target is None else lambda curve: _reached(curve, target),
            desc=arm,
        )


def begin(study: Study) -> latents.Latent:
    """Latents of every weight at the study's start."""
    return anew(study, _latent(study, lora=False))


def _latent(study: Study, *, lora: bool) -> Callable:
    """What stands behind a quantized weight while it trains: the weight itself, or an adapter before the quantizer."""
    if not lora:
        return partial(latents.Full, quantizer=study.quantizer, host=study.cfg.host)
    generator = seeding.torch_generator(study.cfg.seed, "lora")
    adapter = dict(rank=study.cfg.lora_rank, alpha=study.cfg.lora_alpha, generator=generator)
    return partial(latents.LoRA, quantizer=study.quantizer, **adapter)


def _record(study: Study, arm: str, *, lr: float, changed: float) -> None:
    """The curve of an arm, and what its training took and kept."""
    run, curve = study.run, study.curves[arm]
    run.curve(arm, curve)
    run.metric("training", "train", arm, "learning rate", lr)
    run.metric("training", "train", arm, "codes changed", changed)
    run.metric("training", "train", arm, "steps", curve[-1]["step"])
    select = None if study.cfg.select == "last" else study.cfg.select
    kept = next(r for r in curve if r["step"] == kept_step(curve, select))
    run.metric("training", "train", arm, "kept step", kept["step"])
    run.metric("training", "validation prompts", arm, "kept kl", kept["validation kl"])
    run.metric("training", "validation prompts", arm, "kept flips", kept["validation flip rate"])


def _codes(study: Study, latent) -> dict:
    """On the computer's side: with 7B weights they would take 7 GB of the accelerator."""
    whole = latent.gathered_each()
    return {name: rtn.quantize(w.cpu(), **study.format) for name, w in whole}


def _changed(before: dict, after: dict) -> float:
    """Share of all integer codes that differ."""
    total = sum(q.codes.numel() for q in before.values())
    return sum(codes_changed(before[k], after[k]) * before[k].codes.numel() for k in before) / total


def _reached(curve: list[dict], target: float) -> bool:
    losses = [r["loss"] for r in curve if "loss" in r][-3:]
    return len(losses) == 3 and sum(losses) / 3 <= target


def kept_step(curve: list[dict], select: str | None = None) -> int:
    """The step whose weights `fit` kept: the last, or that of the smallest validation value of this name."""
    checked = [r for r in curve if "validation kl" in r]
    return (min(checked, key=lambda r: r[f"validation {select}"]) if select else checked[-1])["step"]
