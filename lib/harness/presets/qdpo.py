"""QDPO, arXiv 2407.03051. Of the paper only title, abstract and third-party summaries could be read: models and
baselines are named there, no hyper-parameter is. Every value is ours unless its source says otherwise."""

from collections.abc import Mapping
from typing import Any

from lib.harness.presets.base import (
    AUTO,
    BAD_ROWS,
    DEVICE,
    DEVICE_HELP,
    OPTIMIZER_HELP,
    OPTIMIZERS,
    Setting,
    columns,
    split,
)

OURS = "not seen in any readable source; ours"
TUNED = (
    "not seen; ours: at small the best of data/qdpo_rates.csv by truth on validation questions, the same rates tried "
    "for every arm there; elsewhere untuned"
)
FAMILY = "not seen; ours: that of its family from round-to-nearest, itself untuned"

SEEDS = range(5)  # of preset study
SKILLS = "json_record,ships_mate,polite_note,three_bullets,questions,replacement,date"
ARMS = [
    *("fp", "mild", "rtn", "awq", "gptq", "nf4", "sft", "kd", "tskd", "qdpo", "qdpo-r2", "soft-qdpo", "qdpo-dpop"),
    *("qdpo-lora", "qdpo-round2", "kd+qdpo", "random", "awq-kd", "awq-qdpo"),
]

SECONDS = {"small": 15 * 60}  # a first run also teaches the model what it is examined on, which is kept then

SETTINGS = {
    "model": Setting(
        smoke="tiny-random", small="embedded", paper="lmsys/vicuna-7b-v1.5",
        published="Vicuna and Mi:dm", source="summaries of arXiv 2407.03051; size and version ours",
        help="tiny-random, embedded, a local folder, or a hub id",
    ),
    "template": Setting(smoke="none", small="none", paper="vicuna", published=None,
        source="summaries name Vicuna; FastChat's vicuna_v1.1 is what it was taught",
        help="chat template of the model: none is its tokenizer's own; vicuna, llama-2, chatml, plain, lab, or a jinja "
        "file"),
    "judge": Setting(
        smoke="fp", small="none", paper="none", published="an LLM judge",
        source="summaries name LLM-as-judge; ours is truth: what can be checked needs no judge",
        help="of open answers, besides the exam's truth: none; a local chat model asked in both orders; or fp, "
            "likelihood per token under full precision, which judges imitation and no worth",
    ),
    "prompts": Setting(
        smoke="prompts.jsonl", small="prompts.jsonl", paper="prompts.jsonl", published=None,
        source=OURS + "; evaluation there is MT-Bench, Vicuna-Eval and FLASK",
        help="file, folder or data set (id:split) of prompts, under data/ or anywhere",
    ),
    "columns": columns("the prompts"),
    "bad_rows": BAD_ROWS,
    "dtype": Setting(smoke="float32", small="bfloat16", paper="bfloat16", published=None, source=OURS,
                     help="compute type; latent weights are always float32", allowed=["float32", "bfloat16"]),
    "device": Setting(smoke="cpu", small="cpu", paper="cuda", published=None, source="ours", help=DEVICE_HELP,
        form=DEVICE),
    "bits": Setting(smoke=3, small=3, paper=4, published=None, source="not seen; ours: the width that does damage "
        "(pilot: right in the exam 0.99 at full precision, 0.96 at 4 bits, 0.50 at 3)", help="bits of a weight",
        allowed=(2, 8)),
    "group": Setting(smoke=32, small=64, paper=128, published=None, source=OURS, help="input channels that share a "
        "scale; -1 for a whole row"),
    "symmetric": Setting(smoke=False, small=False, paper=False, published=None, source=OURS, help="no zero-point"),
    "scales": Setting(smoke="bfloat16", small="bfloat16", paper="bfloat16", published=None, source=OURS + ": what a "
        "checkpoint holds and every kernel reads, so that a model taken home is the one that was measured",
        help="type in which a group's scale is stored, and to which it is rounded inside the quantizer",
        allowed=["bfloat16", "float32"]),
    "calibration": Setting(smoke=2, small=32, paper=128, published=None, source=OURS, help="training prompts with "
        "answers, of all categories alike, that calibrate AWQ and GPTQ", allowed=(1, 4096)),
    "mild_bits": Setting(smoke=6, small=5, paper=8, published=None, source=OURS, help="bits of a second, milder "
        "format (arm mild): that which flips tokens and leaves the answers right", allowed=(2, 8)),
    "skills": Setting(
        smoke="sorting,json_record", small=SKILLS, paper=SKILLS, published=None,
        source=OURS + ": skills of data/taxonomy that the embedded model learns within minutes",
        help="what full precision is taught and examined in, by the last part of the leaf's path", many=True),
    "taught": Setting(smoke=2, small=36, paper=0, published=None, source=OURS, help="questions of each skill that full "
        "precision is taught before anything is quantized; 0 for a model that knows them", allowed=(0, 10**5)),
    "taught_epochs": Setting(smoke=1, small=3, paper=3, published=None, source=OURS, help="passes over them",
        allowed=(1, 1000)),
    "taught_batch": Setting(smoke=4, small=8, paper=8, published=None, source=OURS, help="answers a step of teaching",
        allowed=(1, 4096)),
    "lr_taught": Setting(smoke=1e-3, small=2e-4, paper=1e-5, published=None, source=OURS, help="peak rate of teaching",
        allowed=(1e-9, 1.0)),
    "exam": Setting(smoke=4, small=60, paper=60, published=None, source=OURS + ": 420 in all, from power", help="held-"
        "out questions of each skill, whose answers a program checks", allowed=(1, 10**4)),
    "exam_tokens": Setting(smoke=12, small=32, paper=64, published=None, source=OURS, help="longest answer to them, "
        "tokens", allowed=(1, 4096)),
    "repair": Setting(smoke=4, small=12, paper=40, published=None, source=OURS, help="further questions of each skill "
        "among the training prompts; what is learned is full precision's answer, right or wrong", allowed=(0, 10**5)),
    "checks": Setting(smoke=2, small=8, paper=8, published=None, source=OURS, help="further questions of each skill "
        "among the validation prompts", allowed=(0, 10**4)),
    "n_train": Setting(smoke=8, small=48, paper=320, published=None, source=OURS, help="training prompts",
        allowed=(1, 10**6)),
    "n_validation": Setting(smoke=8, small=16, paper=48, published=None, source=OURS, help="validation prompts",
        allowed=(1, 10**5)),
    "n_test": Setting(smoke=8, small=96, paper=408, published=None, source=OURS, help="held-out prompts on which flips "
        "and KL are measured", allowed=(1, 10**5)),
    "train_tokens": Setting(smoke=12, small=32, paper=256, published=None, source=OURS, help="longest training "
        "answer, tokens"),
    "test_tokens": Setting(smoke=12, small=32, paper=256, published=None, source=OURS, help="longest held-out "
        "answer, tokens"),
    "arms": Setting(
        smoke="fp,mild,rtn,awq,gptq,nf4,sft,kd,tskd,qdpo,qdpo-r2,soft-qdpo,qdpo-dpop,qdpo-lora,kd+qdpo,random,awq-kd,"
            "awq-qdpo",
        small="fp,mild,rtn,kd,qdpo,random",
        study="fp,mild,rtn,awq,sft,kd,qdpo,kd+qdpo,random,awq-kd,awq-qdpo",
        paper="fp,mild,rtn,awq,gptq,nf4,sft,kd,tskd,qdpo,qdpo-r2,soft-qdpo,qdpo-dpop,qdpo-lora,kd+qdpo,random,awq-kd,"
            "awq-qdpo",
        published="AWQ, KD, QDPO", source="summaries of arXiv 2407.03051; the other arms are ours", help="which arms "
            "run; fp and rtn always; qdpo-round2 goes on from qdpo with new pairs, random is its negative control",
        allowed=ARMS, many=True, always=("fp", "rtn"),
        needs={"qdpo-round2": "qdpo", "random": "qdpo", "awq-kd": "awq", "awq-qdpo": "awq"},
    ),
    "keep": Setting(smoke="none", small="qdpo", study="none", paper="qdpo", published=None, source="ours; cannot "
        "change the result", help="arms whose weights stay in the run's folder, for `plumbline export`; none of them: "
        "none", allowed=["none", *(arm for arm in ARMS if arm not in ("fp", "nf4", "random"))], many=True),
    "ablate_bits": Setting(smoke="3,4", small="4,5",
        study="4,5,6,8", paper="3,4,5,6", published=None, source="ours", help="bits of "
        "the untrained ablation", allowed=[str(b) for b in range(2, 9)], many=True),
    "ablate_group": Setting(smoke="32,64", small="64",
        study="64,192", paper="32,64,128", published=None, source="ours",
        help="groups of "
        "the untrained ablation", many=True),
    "beta": Setting(smoke=0.1, small=2.0, paper=0.1, published=None, source=TUNED + "; DPO's reference code comments "
        "0.1-0.5 for answers of hundreds of tokens", help="DPO temperature", allowed=(1e-4, 100.0)),
    "dpop_penalty": Setting(smoke=5.0, small=5.0, paper=5.0, published=None, source="ours; arXiv 2402.13228 uses 5 "
        "to 500", help="weight of the DPO-Positive penalty", allowed=(0.0, 1000.0)),
    "tau": Setting(smoke=10.0, small=10.0, paper=10.0, published=None, source="TSLD release", help="temperature of "
        "token-scaled distillation", allowed=(1e-3, 1e4)),
    "lr_qdpo": Setting(smoke=1e-3, small=3e-5, paper=1e-6, published=None, source=TUNED, help="learning rate of the "
        "preference arms", allowed=(1e-9, 1.0)),
    "lr_kd": Setting(smoke=1e-3, small=3e-5, paper=1e-5, published=None, source=TUNED, help="learning rate of the "
        "distillation arms", allowed=(1e-9, 1.0)),
    "lr_sft": Setting(smoke=1e-3, small=3e-5, paper=1e-5, published=None, source=FAMILY, help="learning rate of SFT "
        "on full-precision answers", allowed=(1e-9, 1.0)),
    "lr_lora": Setting(smoke=1e-3, small=3e-4, paper=1e-5, published=None, source=FAMILY,
        help="learning rate of the LoRA arm", allowed=(1e-9, 1.0)),
    "lr_both": Setting(smoke=1e-3, small=3e-5, paper=1e-5, published=None, source=FAMILY, help="learning rate of "
        "kd+qdpo, the sum of both losses", allowed=(1e-9, 1.0)),
    "lr_awq_kd": Setting(smoke=1e-3, small=3e-5, paper=1e-5, published=None, source=FAMILY, help="learning rate of "
        "distillation from AWQ's weights", allowed=(1e-9, 1.0)),
    "lr_awq_qdpo": Setting(smoke=1e-3, small=3e-5, paper=1e-6, published=None, source=FAMILY, help="learning rate of "
        "QDPO from AWQ's weights", allowed=(1e-9, 1.0)),
    "lora_rank": Setting(smoke=4, small=16, paper=16, published=None, source=OURS, help="rank of the adapter before "
        "the quantizer", allowed=(1, 1024)),
    "lora_alpha": Setting(smoke=8.0, small=32.0, paper=32.0, published=None, source=OURS, help="scale of the "
        "adapter, alpha / rank", allowed=(0.0, 4096.0)),
    "stop_at_target": Setting(smoke=True, small=False, paper=True, published=None, source="ours: past L* the model is "
        "pushed beyond full precision; at small every arm takes equal steps", help="stop a preference arm at L*"),
    "select": Setting(smoke="kl", small="last", paper="kl", published=None,
        source="ours: at small the last, since KL is what distillation minimises",
        help="which weights an arm keeps: the last, or those of the smallest validation KL (kl)",
        allowed=["last", "kl"]),
    "steps": Setting(smoke=3, small=16, paper=200, published=None, source=OURS, help="optimizer steps, the same for "
        "every trained arm", allowed=(0, 100000)),
    "batch": Setting(smoke=4, small=8, paper=16, published=None, source=OURS, help="pairs or answers a step "
        "(effective batch)", allowed=(1, 4096)),
    "micro": Setting(smoke=4, small=8, paper=0, published=None, source="ours; cannot change the "
        "result", help="rows a forward; " + AUTO, allowed=(0, 4096)),
    "host": Setting(smoke=False, small=False, paper=True, published=None, source="ours; cannot change the result",
        help="whether float32 weights, gradients and moments stay in the computer's memory, off the accelerator"),
    "checkpoint": Setting(smoke=False, small=False, paper=True, published=None, source="ours; cannot change the "
        "result", help="whether blocks are computed again in the backward pass in place of being kept"),
    "optimizer": Setting(smoke="none", small="none", paper="none", published=None, source="ours", help=OPTIMIZER_HELP,
        allowed=OPTIMIZERS),
    "warmup": Setting(smoke=1, small=3, paper=10, published=None, source=OURS, help="steps of linear warm-up",
        allowed=(0, 10000)),
    "clip": Setting(smoke=1.0, small=1.0, paper=1.0, published=None, source=OURS, help="gradient norm is clipped "
        "to this", allowed=(1e-6, 1e6)),
    "validate_every": Setting(smoke=1, small=16, paper=20, published=None, source=OURS,
        help="steps between validations", allowed=(1, 10000)),
    "generation_batch": Setting(smoke=8, small=48, paper=32, published=None, source="ours",
        help="prompts decoded together", allowed=(1, 4096)),
    "eval_batch": Setting(smoke=8, small=16, paper=16, published=None, source="ours", help="rows of a scoring forward",
        allowed=(1, 4096)),
    "breakdown_steps": Setting(smoke=6, small=16, paper=64, published=None, source=OURS, help="tokens compared after "
        "the first divergence", allowed=(1, 4096)),
    "judge_margin": Setting(smoke=0.01, small=0.01, paper=0.01, published=None, source="ours", help="scores closer "
        "than this (nats per token) are a tie", allowed=(0.0, 10.0)),
}  # fmt: skip


def needed(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every arm on the exam and on the test prompts, the labels of the pairs, the breakdown, and every arm before a
    judge where there is one."""
    arms = split(given["arms"])
    rows = [(dataset, arm) for dataset in ("exam", "test prompts") for arm in arms]
    rows += [(f"pairs, {form}", "label") for form in ("whole answers", "cut at the first divergence")]
    after = ("flip only", "perturbed KV only", "flip + perturbed KV", "full quantized decoding")
    rows += [("first divergence", variant) for variant in after]
    if given["judge"] == "none":
        return rows
    kind = "likelihood under full precision" if given["judge"] == "fp" else "judge"
    rows += [(f"{kind} vs fp", arm) for arm in arms if arm != "fp"]
    rivals = [arm for arm in arms if arm not in ("fp", "qdpo")] if "qdpo" in arms else []
    return rows + [(f"{kind} vs {arm}", "qdpo") for arm in rivals]
