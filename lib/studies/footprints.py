"""What each study takes of memory, stage by stage, at the shapes of its settings: `python -m lib.studies.footprints`.

Each function goes through its study's stages with the engine's own code on shapes alone (`lib.engine.memory`) and names
a stage when it is over. What no setting says, the length of a prompt, is PROMPT tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial

import torch

from lib.engine import adapters, known, memory, sharding, trunk, twins
from lib.engine.latents import Full, Latent, LoRA
from lib.harness import presets
from lib.quantization import block_linears, rtn
from lib.quantization.blocks import decoder_blocks

PROMPT = 256


def qdpo(cfg) -> Iterator[str]:
    """Full precision and its twin; a float32 copy for AWQ and GPTQ (what they keep of the calibration is left out, and
    teaching, which takes no more than training does); all weights of the student in float32, with gradients, moments
    and a snapshot of the best."""
    fp = model(cfg)
    student = twins.twin(fp, host=cfg.host and sharding.ranks()[1] == 1)
    sharding.shard(student, list(block_linears(student)))
    yield "full precision and student"
    memory.answers(fp, batch=cfg.generation_batch, prompt=PROMPT, new_tokens=cfg.test_tokens)
    yield "greedy answers"
    twins.use(student)
    memory.scores(student, batch=cfg.eval_batch, prompt=PROMPT, answer=cfg.test_tokens)
    yield "scores"
    if {"awq", "gptq"} & set(cfg.items_of("arms")):
        rounded, wide = model(cfg), [p.float().cpu() for p in fp.parameters()]
        blocks = list(decoder_blocks(student).values())
        at_work = [p.float() for p in blocks[0].parameters()]
        yield "AWQ, GPTQ: a copy in float32 on the host, one block of it at work, then another model"
        del at_work
        if "awq" not in cfg.items_of("arms"):  # else both stay: where repairs from AWQ begin
            del rounded, wide
    quantizer = partial(rtn.fake_quant, bits=cfg.bits, group=cfg.group, symmetric=cfg.symmetric)
    steps = partial(memory.preference_steps, student, micro=cfg.micro, prompt=PROMPT, answer=cfg.train_tokens,
        checkpoint=cfg.checkpoint, optimizer=cfg.optimizer)  # fmt: skip
    latent = Latent(block_linears(student), partial(Full, quantizer=quantizer, host=cfg.host))
    kept = latent.snapshot()
    steps(latent)
    yield "training: weights before the quantizer"
    if "qdpo-lora" in cfg.items_of("arms"):
        del latent, kept
        adapter = dict(rank=cfg.lora_rank, alpha=cfg.lora_alpha, generator=torch.Generator())
        steps(Latent(block_linears(student), partial(LoRA, quantizer=quantizer, **adapter)))
        yield "training: adapters before the quantizer"


def lab(cfg) -> Iterator[str]:
    """One model of which the last blocks learn, on packed rows."""
    whole = model(cfg)
    top, latent = last_blocks(whole, cfg)
    kept = latent.snapshot()
    yield "model and latents"
    memory.top_steps(top, latent, micro=cfg.micro, prompt=1, answer=cfg.pack - 1, answers=1, optimizer=cfg.optimizer)
    yield "training"
    memory.answers(whole, batch=cfg.generation_batch, prompt=PROMPT, new_tokens=cfg.answer_tokens)
    yield "answers"
    del kept


def attribute_control(cfg) -> Iterator[str]:
    """One model of which the last blocks learn; samples for the auxiliary model, whose own few layers are left out."""
    whole = model(cfg)
    top, latent = last_blocks(whole, cfg)
    yield "model and latents"
    memory.answers(whole, batch=cfg.generation_batch, prompt=PROMPT, new_tokens=cfg.tokens, n=cfg.each)
    yield "samples"
    memory.top_steps(top, latent, micro=cfg.micro, prompt=1, answer=PROMPT, answers=1, optimizer=cfg.optimizer)
    yield "training"


def mrpo(cfg) -> Iterator[str]:
    """Candidates of one model, scores under the second while the first stays, then adapters or the last blocks."""
    whole = model(cfg)
    yield "model"
    memory.answers(whole, batch=cfg.generation_batch, prompt=PROMPT, new_tokens=cfg.tokens, n=cfg.each)
    yield "candidates"
    if cfg.second_model != "none":
        second = model(cfg, cfg.second_model)
        memory.scores(second, batch=cfg.eval_batch, prompt=PROMPT, answer=cfg.tokens, answers=cfg.each)
        yield "scores under the second model"
        del second
    if cfg.rank:
        wanted = None if cfg.targets == "all" else cfg.items_of("targets")
        names = adapters.targets(whole, blocks=cfg.blocks, names=wanted)
        made = adapters.add(whole, names, rank=cfg.rank, alpha=cfg.alpha, generator=torch.Generator())
        top, latent = trunk.split(whole, cfg.blocks)[1], Latent(made, partial(Full, quantizer=None))
    else:
        top, latent = last_blocks(whole, cfg)
    memory.scores(whole, batch=cfg.eval_batch, prompt=PROMPT, answer=cfg.tokens, answers=cfg.each)
    yield "scores"
    memory.top_steps(top, latent, micro=cfg.micro, prompt=PROMPT, answer=cfg.tokens)
    yield "training"


def sea(cfg) -> Iterator[str]:
    """The policy, of which the last blocks learn, and the model that rewards, side by side."""
    whole = model(cfg)
    top, latent = last_blocks(whole, cfg)
    yield "policy and latents"
    if cfg.reward.count("/") == 1:
        reward = model(cfg, cfg.reward)
        memory.scores(reward, batch=cfg.eval_batch, prompt=PROMPT, answer=cfg.tokens, answers=1)
        yield "rewards"
    memory.answers(
        whole, batch=cfg.generation_batch, prompt=PROMPT, new_tokens=cfg.tokens, n=max(cfg.candidates, cfg.best_of)
    )
    yield "candidates"
    memory.top_steps(top, latent, micro=cfg.micro, prompt=PROMPT, answer=cfg.tokens)
    yield "steps of the policy"


STUDIES = {"qdpo": qdpo, "lab": lab, "attribute_control": attribute_control, "mrpo": mrpo, "sea": sea}


def model(cfg, spec: str | None = None):
    return memory.model_of(known.config_of(spec or cfg.model), getattr(torch, cfg.dtype))


def last_blocks(whole, cfg):
    """(the last blocks as a model, latents of their weights)."""
    top = trunk.split(whole, cfg.blocks)[1]
    return top, Latent(block_linears(top), partial(Full, quantizer=None))


def stages(paper: str, settings: dict) -> dict[str, memory.Bytes]:
    """Bytes at the height of each stage of a paper's study; settings as a run is given them (PRESET, SEED, ...)."""
    return dict(each(paper, settings))


def each(paper: str, settings: dict) -> Iterator[tuple[str, memory.Bytes]]:
    """`stages`, one after another."""
    cfg = presets.resolve(paper, settings)
    return memory.heights(lambda: STUDIES[paper](cfg))


def divides(cfg, processes: int) -> None:
    """ValueError where the model's weights do not divide among so many processes; on shapes alone."""
    with memory.shapes():
        sharding.check(model(cfg), processes)


if __name__ == "__main__":
    paper, settings, processes, *check = sys.argv[1:]
    if check:  # only whether the weights divide
        divides(presets.resolve(paper, json.loads(settings)), int(processes))
    else:
        with memory.one_of(int(processes)):
            for stage in each(paper, json.loads(settings)):
                print("#stage", json.dumps(stage), flush=True)
