"""A whole study on the tiny model, with full control over what must come out."""

import copy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from lib import data, losses, quantization, taxonomy
from lib.engine import generation, objectives
from lib.harness import paths, presets, results, seeding
from lib.quantization import block_linears, rtn
from lib.scoring import flipping
from lib.studies.qdpo import labels, measures, repair, truth
from lib.studies.qdpo.study import build, quantized
from lib.synthesis import exams


@pytest.fixture
def study(sandbox, tiny_model, byte_tokenizer, prompts):
    return new_study(tiny_model, byte_tokenizer, prompts)


def new_study(tiny_model, byte_tokenizer, prompts, **more):
    given = {"PRESET": "smoke", "SEED": 0, "ARMS": "fp,mild,rtn,awq,kd,qdpo,qdpo-lora,random,awq-kd", **more}
    cfg = presets.resolve("qdpo", given)
    ids = data.encode(byte_tokenizer, prompts)
    settings = dict(max_new_tokens=8, stop_ids=[257], batch=4)
    answers = generation.generate_cached(tiny_model, ids, **settings)
    f = flipping.Fidelity(tiny_model, ids, answers=answers, **settings)
    run = results.start(cfg, notebook="n")
    known = dict(exam=small_exam(byte_tokenizer, **settings), test_ids=[p.id for p in prompts])
    return build(cfg, run, tiny_model, byte_tokenizer, test=f, validation=f, **known)


def small_exam(tokenizer, **settings):
    leaves = [x for x in taxonomy.load(paths.DATA / "taxonomy") if x.path.endswith("sorting")]
    return truth.exam(tokenizer, leaves, exams.skills(leaves, each=3), **settings)


@pytest.fixture
def prompts():
    return data.load_prompts(paths.DATA / "prompts.jsonl", "test")[:4]


def make_pairs(study, prompts):
    ids = data.encode(study.tokenizer, prompts)
    rejected = generation.generate_cached(quantized(study), ids, max_new_tokens=8, stop_ids=[257], batch=4)
    return data.pairs(prompts, ids, study.test.answers, rejected)


def test_the_student_starts_as_round_to_nearest(study):
    student, fp = block_linears(quantized(study)), block_linears(study.fp)
    for name, m in student.items():
        assert torch.equal(m.weight, rtn.fake_quant(fp[name].weight, **study.format))
    assert study.student.lm_head.weight.equal(study.fp.lm_head.weight)


def test_arms_that_were_not_asked_for_do_not_run(study):
    repair.post_training(study, "gptq", lambda m: 1 / 0)
    repair.random_moves(study, "random", None)
    repair.train(study, "sft", None, [], lr=1.0)
    assert study.answers == {}


def test_training_records_and_never_ends_worse_on_validation(study, prompts):
    pairs = make_pairs(study, prompts)
    assert pairs
    x, w = [p.prompt for p in pairs], [p.chosen for p in pairs]
    teacher = objectives.teacher_states(study.fp, x, w, batch=4)
    repair.train(study, "kd", objectives.distillation(study.student, x, w, teacher, tau=None), pairs, lr=1e-3)
    ref = labels.reference(study, quantized(study), pairs)
    dpo = objectives.preference(study.student, pairs, lambda a, b, **k: losses.dpo(a, b, beta=0.1, **k), **ref)
    repair.train(study, "qdpo", dpo, pairs, lr=1e-3)
    repair.train(study, "qdpo-lora", dpo, pairs, lr=1e-2, lora=True)
    m = study.run.record().metrics().set_index(["arm", "metric"]).value
    for arm in ("kd", "qdpo", "qdpo-lora"):
        curve = study.curves[arm]
        assert m[arm, "kl"] == pytest.approx(min(r["validation kl"] for r in curve if "validation kl" in r), abs=1e-5)
        assert m[arm, "kept step"] == repair.kept_step(curve, "kl")
    assert m["kd", "codes changed"] > 0 and study.curves["qdpo"][1]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert study.curves["kd"][0]["validation kl"] == pytest.approx(study.curves["qdpo"][0]["validation kl"], abs=1e-6)


def test_one_set_of_weights_on_the_device_gives_what_two_models_give(sandbox, tiny_model, byte_tokenizer, prompts):
    """HOST: block weights take turns; the study before had two whole models."""
    found = {}
    for kind in ("two models", "twins", "host"):
        one = copy.deepcopy(tiny_model)
        study = new_study(one, byte_tokenizer, prompts, HOST=kind == "host")
        if kind == "two models":
            study = study._replace(student=copy.deepcopy(one))
        pairs = make_pairs(study, prompts)
        ref = labels.reference(study, quantized(study), pairs)
        measures.measure(study, "fp", study.fp)
        repair.post_training(study, "rtn", partial(quantization.apply_rtn, **study.format))
        dpo = objectives.preference(study.student, pairs, lambda a, b, **k: losses.dpo(a, b, beta=0.1, **k), **ref)
        repair.train(study, "qdpo", dpo, pairs, lr=1e-3)
        repair.train(study, "qdpo-lora", dpo, pairs, lr=1e-2, lora=True)
        measures.breakdown(study, steps=4, stop_ids=[257])
        measures.formats(study, [3], [16])
        record = study.run.record()
        found[kind] = [record.metrics().drop(columns="run_id"), record.items(), record.curve()]
        assert len(found[kind][0]) > 30
    for kind in ("twins", "host"):
        for a, b in zip(found[kind], found["two models"], strict=True):
            pd.testing.assert_frame_equal(a, b)


def test_the_label_table(study, prompts):
    pairs = make_pairs(study, prompts)
    ref = {k: labels.reference(study, m, pairs) for k, m in {"q": quantized(study), "fp": study.fp}.items()}
    label = losses.label_margin(*ref["fp"].values(), *ref["q"].values())
    table = labels.label_table(study, pairs, label)
    cut = table[table.pairs == "cut at the first divergence"]
    assert (cut["share >= 0"] == 1).all() and (cut["mean, nats"] > 0).all() and len(table) == 6


def test_stopping_at_the_target():
    rows = [{"step": k, "loss": v} for k, v in enumerate([0.7, 0.6, 0.5, 0.2])]
    looks = [{"step": k, "validation kl": v} for k, v in enumerate([0.3, 0.1, 0.2])]
    assert (repair.kept_step(looks), repair.kept_step(looks, "kl")) == (2, 1)
    assert (
        not repair._reached(rows[:2], 1.0) and repair._reached(rows[:3], 0.61) and not repair._reached(rows[:3], 0.59)
    )


def test_judge_and_examples(study, prompts):
    from lib.scoring.likelihood import Likelihood

    measures.measure(study, "fp", study.fp)
    measures.measure(study, "rtn", quantized(study))
    assert measures.contests(study) == [("rtn", "fp")]
    rates = measures.judge(study, Likelihood(study.fp, batch=4), "rtn", "fp")
    assert rates["win"] + rates["tie"] + rates["lose"] == 1
    named = {d for d in study.run.record().items().dataset if " vs " in d}
    assert named == {"likelihood under full precision vs fp"}  # the judge of preset smoke, called what it is
    table = measures.examples(study, ["fp", "rtn"], n=2)
    assert len(table) == 4 and " / " in table.answer.iloc[1] and " / " not in table.answer.iloc[0]


def test_the_premise_by_hand_and_none_without_damage(study):
    study.right.update(
        fp=np.array([True, True, True, False]), rtn=np.array([True, False, False, False]),
        kd=np.array([True, True, False, False]),
    )  # fmt: skip
    table = measures.premise(study)
    assert table.accuracy.tolist() == [0.75, 0.25, 0.5] and table["damage taken back"]["kd"] == 0.5
    study.right["rtn"] = study.right["fp"]
    assert measures.premise(study)["damage taken back"].isna().all()


def test_a_milder_format_is_measured_as_an_arm(study):
    measures.measure(study, "fp", study.fp)
    repair.rounded(study, "rtn")
    repair.rounded(study, "mild", bits=8)
    m = study.run.record().metrics().set_index(["arm", "metric"]).value
    assert m["mild", "kl"] < m["rtn", "kl"] / 10 and m["mild", "bits per weight"] > m["rtn", "bits per weight"]
    items = study.run.record().items()
    assert len(items[(items.arm == "mild") & (items.metric == "accuracy")]) == 3


def test_random_moves_are_as_large_as_those_of_training(study, prompts):
    """The same amounts in every matrix, in other places; a repair of the same size that repairs nothing."""
    measures.measure(study, "fp", study.fp)
    pairs = make_pairs(study, prompts)
    x, w = [p.prompt for p in pairs], [p.chosen for p in pairs]
    teacher = objectives.teacher_states(study.fp, x, w, batch=4)
    kd = objectives.distillation(study.student, x, w, teacher, tau=None)
    latent = repair.train(study, "qdpo", kd, pairs, lr=1e-3)
    seen = {}

    def remember(_, arm, model):
        seen[arm] = {n: m.weight.clone() for n, m in block_linears(model).items()}

    kept, repair.measure = repair.measure, remember
    try:
        repair.random_moves(study, "random", latent)
    finally:
        repair.measure = kept
    start = {n: m.weight.float() for n, m in block_linears(study.fp).items()}
    generator = seeding.torch_generator(study.cfg.seed, "random moves")
    for name, x in latent.latents.items():
        moved = (x.plain().detach() - start[name]).flatten()
        dealt = moved[torch.randperm(len(moved), generator=generator)]
        assert dealt.norm() == pytest.approx(moved.norm().item(), rel=1e-5) and moved.norm() > 0
        assert not torch.equal(dealt, moved)
        want = study.quantizer(start[name] + dealt.view_as(start[name]))
        assert torch.allclose(seen["random"][name], want, atol=1e-6)


def test_awq_is_where_a_repair_may_begin(study, prompts):
    """Untrained it is AWQ; full precision and the first student are left alone."""
    calibration = data.calibration(data.encode(study.tokenizer, prompts), study.test.answers, n=4, batch=2)
    before = {n: p.clone() for n, p in study.fp.named_parameters()}
    awq = repair.from_awq(study, calibration)
    other = repair._wide(study.fp)
    quantization.apply_awq(other, calibration, **study.format)
    for (name, a), b in zip(quantized(awq).named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    ids = torch.arange(50)[None]
    assert torch.allclose(quantized(awq)(ids).logits, other(ids).logits, atol=1e-4)
    assert not torch.allclose(quantized(study)(ids).logits, other(ids).logits, atol=1e-4)
    assert all(torch.equal(p, before[n]) for n, p in study.fp.named_parameters())
    assert awq.right is study.right and awq.student is not study.student


def test_a_second_round_goes_on_where_the_first_ended(study, prompts):
    pairs = make_pairs(study, prompts)
    x, w = [p.prompt for p in pairs], [p.chosen for p in pairs]
    teacher = objectives.teacher_states(study.fp, x, w, batch=4)
    kd = objectives.distillation(study.student, x, w, teacher, tau=None)
    latent = repair.train(study, "kd", kd, pairs, lr=1e-3)
    ended = study.validation.validation(study.student)["kl"]
    quantized(study)  # another arm uses the student in between
    repair.train(study, "qdpo", kd, pairs, lr=1e-3, start=latent)
    assert study.curves["qdpo"][0]["validation kl"] == pytest.approx(ended, abs=1e-7)
    assert repair.train(study, "sft", kd, [], lr=1.0) is None


def test_a_post_training_quantizer_leaves_full_precision_alone(study):
    """In float32 on the CPU too, where the copy in float32 on the host could be the model itself."""
    before = {n: p.clone() for n, p in study.fp.named_parameters()}
    copy = repair._wide(study.fp)
    assert all(torch.equal(p, before[n]) and p.dtype == torch.float32 for n, p in copy.named_parameters())
    with torch.no_grad():
        for p in copy.parameters():
            p.add_(1.0)
    assert all(torch.equal(p, before[n]) for n, p in study.fp.named_parameters())
    assert not {id(b) for b in copy.buffers()} & {id(b) for b in study.fp.buffers()}


def test_a_post_training_arm_keeps_the_positions_of_full_precision():
    """In bfloat16 the frequencies of rotary positions are float32, and rounding them would flip tokens by itself."""
    from lib.engine import models

    fp, _ = models.load("tiny-random", dtype=torch.bfloat16)
    wide = repair._wide(fp)
    back = repair._as(wide, fp)
    assert {b.dtype for b in back.buffers()} == {torch.float32} and {p.dtype for p in back.parameters()} == {fp.dtype}
    ids = torch.arange(200)[None]
    assert torch.equal(back(ids).logits, fp(ids).logits)
    assert not torch.equal(repair._wide(fp).to(fp.dtype)(ids).logits, fp(ids).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_arm_that_is_kept_comes_back_to_the_bit(sandbox, prompts, dtype):
    """A trained arm, and AWQ, which leaves norms of its own; KEEP names no other."""
    from functools import partial

    from lib import quantization
    from lib.engine import models
    from lib.studies.qdpo import take_home

    fp, tokenizer = models.load("tiny-random", dtype=getattr(torch, dtype))
    given = {"PRESET": "smoke", "SEED": 0, "ARMS": "fp,rtn,awq,kd", "KEEP": "awq,kd", "DTYPE": dtype}
    cfg = presets.resolve("qdpo", given)
    ids = data.encode(tokenizer, prompts)
    settings = dict(max_new_tokens=8, stop_ids=[257], batch=4)
    f = flipping.Fidelity(fp, ids, answers=generation.generate_cached(fp, ids, **settings), **settings)
    run = results.start(cfg, notebook="n")
    run.manifest |= {"model": models.describe(fp), "data": []}
    study = build(cfg, run, fp, tokenizer, test=f, validation=f, test_ids=[p.id for p in prompts],
                  exam=small_exam(tokenizer, **settings))  # fmt: skip
    held = {}

    def remember(arm, apply):
        def applied(model):
            held[arm] = (model, apply(model))
            return held[arm][1]

        return applied

    calibration = data.calibration(ids, study.test.answers, n=2, batch=2)
    awq = partial(quantization.apply_awq, calibration=calibration, **study.format)
    repair.post_training(study, "awq", remember("awq", awq))
    repair.post_training(study, "rtn", partial(quantization.apply_rtn, **study.format))
    x, w = [p.prompt for p in make_pairs(study, prompts)], [p.chosen for p in make_pairs(study, prompts)]
    teacher = objectives.teacher_states(study.fp, x, w, batch=4)
    kd = objectives.distillation(study.student, x, w, teacher, tau=None)
    repair.train(study, "kd", kd, make_pairs(study, prompts), lr=1e-3)
    assert sorted(p.name for p in run.dir.glob("*.safetensors")) == ["awq.safetensors", "kd.safetensors"]
    some = torch.arange(80)[None]
    for arm, model in (("awq", held["awq"][0]), ("kd", study.student)):
        back, _, weights = take_home.restore(run.record(), arm)
        assert torch.equal(back(some).logits, model(some).logits) and weights.keys() == block_linears(model).keys()
        assert not torch.equal(back(some).logits, fp(some).logits)
        told = take_home.write(run.record(), arm, sandbox / arm) if arm == "kd" else "in all"
        assert told.endswith("in all")
    again, _ = models.load(str(sandbox / "kd"), dtype=getattr(torch, dtype))
    assert torch.equal(again(some).logits, study.student(some).logits)
    run.manifest["model"]["sha256"] = "0" * 16
    with pytest.raises(ValueError, match="tiny-random has other weights .* than when the run was made"):
        take_home.restore(run.record(), "kd")
