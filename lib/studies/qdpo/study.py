"""What the arms of the QDPO study share, as one record: the full-precision model, the weights that are quantized, a
student that is reset before each arm, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.engine import latents, sharding, twins
from lib.quantization import block_linears, rtn
from lib.quantization.blocks import check_covered
from lib.scoring.flipping import Fidelity, Forced
from lib.studies.qdpo.truth import Exam


class Study(NamedTuple):
    """The same data, steps and evaluation for every arm; the dicts at the end fill up arm by arm."""

    cfg: Any  # the run's settings
    run: Any  # where results go
    fp: Any  # the full-precision model
    tokenizer: Any
    base: Any  # what is quantized: full precision, or the same function with other weights (AWQ's)
    test: Fidelity  # on held-out prompts
    validation: Fidelity
    test_ids: list[str]
    exam: Exam  # held-out questions whose answers are right or wrong
    format: dict  # bits, group, symmetric and scales of the quantizer
    quantizer: Callable[[Tensor], Tensor]
    student: Any
    answers: dict[str, Sequence[Sequence[int]]]  # to the exam's questions
    written: dict[str, Sequence[Sequence[int]]]  # to the held-out prompts, for a judge
    right: dict[str, np.ndarray]
    forced: dict[str, Forced]
    curves: dict[str, list[dict]]


def build(
    cfg, run, fp, tokenizer, *, test: Fidelity, validation: Fidelity, test_ids: Sequence[str], exam: Exam
) -> Study:
    """A study of which nothing is measured yet; the student is a twin of the full-precision model, whose block weights
    take turns on the device where the settings keep what they can on the host (HOST). Of several processes each has its
    rows of the student, and full precision whole."""
    check_covered(fp)
    student = twins.twin(fp, host=cfg.host and sharding.ranks()[1] == 1)
    sharding.shard(student, list(block_linears(student)))
    form = dict(bits=cfg.bits, group=cfg.group, symmetric=cfg.symmetric, scales=getattr(torch, cfg.scales))
    return Study(
        cfg=cfg,
        run=run,
        fp=fp,
        tokenizer=tokenizer,
        base=fp,
        test=test,
        validation=validation,
        test_ids=list(test_ids),
        exam=exam,
        format=form,
        quantizer=partial(rtn.fake_quant, **form),
        student=student,
        answers={},
        written={},
        right={},
        forced={},
        curves={},
    )


def anew(study: Study, make: Callable[[Tensor], Any]) -> latents.Latent:
    """Latents of the student that begin at the weights to be quantized, and its weights made from them."""
    twins.use(study.student)
    full = {name: m.weight for name, m in block_linears(study.base).items()}
    return latents.Latent(block_linears(study.student), make, full)


def quantized(study: Study):
    """The student as round-to-nearest leaves it: every trained arm starts here."""
    anew(study, partial(latents.Full, quantizer=study.quantizer))
    return study.student
