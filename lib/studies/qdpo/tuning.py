"""The learning rate of every family and start of QDPO's study, chosen by truth on questions that no verdict sees.

    python -m lib.studies.qdpo.tuning ARM RATE ...    try these rates at a pilot's seed: rows of data/qdpo_rates.csv

Each arm gets the same rates, steps and prompts. Chosen is the rate of the most validation questions right, of equal
ones that of the smaller KL; it must not be the smallest or largest that was tried.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from lib import data, losses, taxonomy
from lib.engine import models, objectives
from lib.engine.generation import generate_cached
from lib.harness import paths, presets, seeding
from lib.harness.progress import announce
from lib.scoring.flipping import Fidelity
from lib.studies.qdpo import labels, repair, truth
from lib.studies.qdpo.study import Study, build, quantized

SEED, CHECKS = 200, 16  # a pilot's seed; validation questions of each skill
COLUMNS = ["arm", "rate", "accuracy", "kl", "flips", "questions", "steps", "seed"]
SETTING = {"sft": "lr_sft", "kd": "lr_kd", "qdpo": "lr_qdpo", "kd+qdpo": "lr_both", "awq-kd": "lr_awq_kd",
           "awq-qdpo": "lr_awq_qdpo"}  # fmt: skip


def tried(preset: str, arms: Sequence[str], rates: Sequence[float], *, seed: int = SEED) -> list[dict]:
    """One row an arm and rate, COLUMNS: what it has of the validation questions, and KL and flips on the validation
    prompts. The untrained start stands first, at rate 0."""
    given = {"PRESET": preset, "SEED": seed, "ARMS": ",".join(["fp", "rtn", "awq", *arms])}
    cfg = presets.resolve("qdpo", given)
    train = _study(cfg, start_awq=any(arm.startswith("awq") for arm in arms))
    rows = []
    for arm in arms:
        begun, objective, pairs = train(arm)
        quantized(begun)
        rows += [_row(begun, arm, 0.0)]
        announce(str(rows[-1]))
        for rate in rates:
            curve = repair.fit(begun, arm, objective(begun), pairs, repair.begin(begun), lr=rate)
            rows += [_row(begun, arm, rate, curve)]
            announce(str(rows[-1]))
    return rows


def best(rows: Sequence[dict]) -> float:
    """The rate of one arm's rows. ValueError where it is the smallest or the largest of them, 0 aside."""
    own = [r for r in rows if float(r["rate"]) > 0]
    chosen = float(min(own, key=lambda r: (-float(r["accuracy"]), float(r["kl"])))["rate"])
    rates = sorted(float(r["rate"]) for r in own)
    if chosen in (rates[0], rates[-1]):
        raise ValueError(f"{own[0]['arm']} is best at {chosen:g}, an edge of {', '.join(f'{r:g}' for r in rates)}")
    return chosen


def load(path: Path = paths.DATA / "qdpo_rates.csv") -> dict[str, list[dict]]:
    """The committed rows by arm."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {arm: [r for r in rows if r["arm"] == arm] for arm in dict.fromkeys(r["arm"] for r in rows)}


def _study(cfg, *, start_awq: bool) -> Callable:
    """The notebook's study up to its pairs, examined on validation questions; and arm -> (study, objective, pairs)."""
    source = data.read(cfg.prompts, "prompts", folder=paths.DATA, columns=cfg.columns, limit=cfg.bad_rows)
    count = {"taught": cfg.taught, "test": cfg.exam, "validation": CHECKS, "repair": cfg.repair}
    world = truth.world(taxonomy.load(paths.DATA / "taxonomy"), cfg.items_of("skills"), seed=cfg.seed, **count)
    drawn = {"train": cfg.seed, "validation": 0}
    prompts = {s: data.sample(source.of(s), cfg[f"n_{s}"], seeding.numpy_rng(k, s)) for s, k in drawn.items()}
    prompts["train"] += truth.prompts(world.repair)
    prompts["validation"] += truth.prompts(world.validation)
    fp, tokenizer = models.load(cfg.model, dtype=getattr(torch, cfg.dtype), device=cfg.device, template=cfg.template)
    stop = models.stop_ids(fp, tokenizer)
    how = truth.Teaching(cfg.taught_epochs, cfg.taught_batch, min(cfg.taught_batch, cfg.eval_batch), cfg.lr_taught)
    truth.teach(fp, tokenizer, world.taught, how, stop_ids=stop, seed=0)
    ids = {s: data.encode(tokenizer, ps) for s, ps in prompts.items()}
    decoding = dict(max_new_tokens=cfg.train_tokens, stop_ids=stop, batch=cfg.generation_batch)
    answers = {s: generate_cached(fp, ids[s], **decoding) for s in ids}
    watched = Fidelity(fp, ids["validation"], answers=answers["validation"], **decoding)
    asked = truth.exam(tokenizer, world.leaves, world.validation, **decoding | {"max_new_tokens": cfg.exam_tokens})
    study = build(cfg, None, fp, tokenizer, test=watched, validation=watched,
                  test_ids=[p.id for p in prompts["validation"]], exam=asked)  # fmt: skip
    calibration = data.calibration(ids["validation"], answers["validation"], n=cfg.calibration, batch=cfg.eval_batch)
    begun = {"rtn": study} | ({"awq": repair.from_awq(study, calibration)} if start_awq else {})
    made = {}

    def start(arm: str):
        name = "awq" if arm.startswith("awq-") else "rtn"
        at = begun[name]
        if name not in made:
            rejected = generate_cached(quantized(at), ids["train"], **decoding)
            pairs = data.pairs(prompts["train"], ids["train"], answers["train"], rejected)
            made[name] = pairs, labels.reference(at, quantized(at), pairs)
        pairs, reference = made[name]
        return at, partial(_objective, arm=arm.removeprefix("awq-"), pairs=pairs, reference=reference), pairs

    return start


def _objective(study: Study, *, arm: str, pairs, reference):
    X, W = [p.prompt for p in pairs], [p.chosen for p in pairs]
    if arm == "sft":
        return objectives.supervised(study.student, X, W)
    teacher = objectives.teacher_states(study.fp, X, W, batch=study.cfg.eval_batch)
    distilled = objectives.distillation(study.student, X, W, teacher, tau=None)
    dpo = objectives.preference(study.student, pairs, partial(losses.dpo, beta=study.cfg.beta), **reference)
    return {"kd": distilled, "qdpo": dpo, "kd+qdpo": objectives.together((1.0, distilled), (1.0, dpo))}[arm]


def _row(study: Study, arm: str, rate: float, curve: Sequence[dict] = ()) -> dict:
    right = truth.right(study.exam, truth.answers(study.exam, study.student))
    seen = study.validation.validation(study.student) if not curve else {
        "kl": curve[-1]["validation kl"], "flip rate": curve[-1]["validation flip rate"]}  # fmt: skip
    found = (arm, rate, round(float(right.mean()), 4), round(seen["kl"], 5), round(seen["flip rate"], 5), len(right))
    return dict(zip(COLUMNS, (*found, len(curve[1:]), study.cfg.seed)))


if __name__ == "__main__":
    arm, *rates = sys.argv[1:]
    path = paths.DATA / "qdpo_rates.csv"
    new = not path.exists()
    found = tried("study", arm.split(","), [float(r) for r in rates])
    with path.open("a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            table.writeheader()
        table.writerows(found)
