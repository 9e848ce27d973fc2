"""Measures of how one model's text and next-token distributions differ from another's. Pure, no models.

Axes: N tokens, V vocabulary. Rates are fractions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from lib.data import words
from lib.losses import distill


def margins(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(p(top 1) - p(top 2), z(top 1) - z(top 2)) of each row of logits (N, V): probabilities and logits, (N,) each."""
    top = logits.topk(2, -1).values
    prob = (top - logits.logsumexp(-1, keepdim=True)).exp()
    return prob[..., 0] - prob[..., 1], top[..., 0] - top[..., 1]


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v) of each row, nats (N,), float32 or better."""
    return distill(q_logits, p_logits)


def js_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, nats (N,), between 0 and log 2."""
    p, q = (_log_softmax(x) for x in (p_logits, q_logits))
    m = torch.logaddexp(p, q) - np.log(2)
    return sum((x.exp() * (x - m).masked_fill(x == -torch.inf, 0.0)).sum(-1) for x in (p, q)) / 2


def _log_softmax(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)).log_softmax(-1)


def exact_match(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two answers are the same tokens."""
    return list(a) == list(b)


def flip_by_margin_decile(margin: Tensor, flip: Tensor) -> list[dict]:
    """Ten equal-sized bins by full-precision margin, smallest first: {"low", "high", "n", "rate"}."""
    order = margin.argsort()
    return [
        {
            "low": margin[i].min().item(),
            "high": margin[i].max().item(),
            "n": len(i),
            "rate": flip[i].float().mean().item(),
        }
        for i in order.tensor_split(10)
        if len(i)
    ]


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L F1 of two texts (package rouge-score, no stemming), in [0, 1]; identical texts are 1 even without a
    word.

    Words are those of any script (`data.words`): the package's own are a-z and 0-9 alone, and give 0 for Russian.
    """
    if candidate == reference:
        return 1.0
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=words))
    return scorer.score(reference, candidate)["rougeL"].fmeasure


def distinct_n(answers: Sequence[Sequence[Hashable]], n: int) -> float:
    """Distinct n-grams over all n-grams of the answers, in (0, 1]; 1 if there are none (nothing is repeated)."""
    grams = [tuple(a[i : i + n]) for a in answers for i in range(len(a) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def fastchat_verdict(first: str, second: str) -> str:
    """One pair judged in both orders ("win", "tie", "lose" for the same side each time): a tie or a disagreement is a
    tie."""
    for v in (first, second):
        if v not in ("win", "tie", "lose"):
            raise ValueError(f"a verdict is win, tie or lose, given {v!r}")
    return first if first == second else "tie"


def win_rates(verdicts: Sequence[str]) -> dict[str, float]:
    """Shares of win, tie, lose, and win_adjusted = win + tie / 2 (FastChat's show_result)."""
    n = len(verdicts)
    share = {v: sum(x == v for x in verdicts) / n for v in ("win", "tie", "lose")}
    return {**share, "win_adjusted": share["win"] + share["tie"] / 2}
