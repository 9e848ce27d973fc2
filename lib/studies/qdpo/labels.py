"""The label of a QDPO pair, full precision over quantized: the models' log-probs of both answers, and how often the
argument for it holds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from lib.data import Pair
from lib.losses import LabelMargin, label_margin
from lib.scoring.likelihood import reference_logprobs
from lib.studies.qdpo.study import Study, quantized


def reference(study: Study, model, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Summed log-probs of every pair's answers under a frozen model: {"ref_w": (N,), "ref_l": (N,)}, computed
    once."""
    columns = zip(*((p.prompt, p.chosen, p.rejected) for p in pairs))
    w, l = reference_logprobs(model, *columns, policy=study.student, batch=study.cfg.micro).unbind(1)
    return {"ref_w": w, "ref_l": l}


def label_table(study: Study, pairs: Sequence[Pair], label: LabelMargin) -> pd.DataFrame:
    """How often the label argument's three inequalities hold, on whole answers and cut at the first differing
    token."""
    short = [p.truncated() for p in pairs]
    sides = [reference(study, m, short).values() for m in (study.fp, quantized(study))]
    rows = []
    for name, margin in (
        ("whole answers", label),
        ("cut at the first divergence", label_margin(*sides[0], *sides[1])),
    ):
        for part, values in zip(("full-precision bracket", "quantized bracket", "delta"), margin):
            hold = (values >= 0).double().numpy()
            study.run.items(f"pairs, {name}", "label", part, [p.id for p in pairs], hold)
            study.run.metric("label", f"pairs, {name}", "label", f"{part} >= 0", hold.mean(), n=len(hold))
            rows.append(
                {
                    "pairs": name,
                    "quantity": part,
                    "share >= 0": hold.mean(),
                    "mean, nats": values.mean().item(),
                    "smallest, nats": values.min().item(),
                }
            )
    study.run.metric("label", "train", "label", "pairs", len(pairs), n=study.cfg.n_train)
    return pd.DataFrame(rows)
