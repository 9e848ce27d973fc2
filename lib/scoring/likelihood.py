"""Scores of answers and pairwise judges. One protocol: `score(prompts, responses) -> (N,)`, all of them token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib.data import Pair, chat, templates
from lib.engine import models
from lib.engine.head import head_of
from lib.engine.logprobs import check_finite, hidden_states, mean_logprob, pack, sum_logprob, token_logprobs
from lib.engine.rows import check_rows
from lib.harness.cache import cached
from lib.scoring.metrics import fastchat_verdict

Ids = Sequence[Sequence[int]]


@torch.inference_mode()
def completion_logprobs(model, prompts: Ids, *branches: Ids, batch: int, mean: bool = False) -> Tensor:
    """log pi(y|x) of every branch of every prompt, (N, number of branches) nats, at least float32; `mean` divides by
    the tokens.

    All branches of a prompt go through one forward, as they do in training, so policy and reference share their
    rounding.
    """
    check_rows(model, prompts, *branches)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + sum(len(b[i]) for b in branches))
    out = torch.empty(len(prompts), len(branches), dtype=torch.promote_types(model.dtype, torch.float32))
    head = head_of(model)
    reduce = mean_logprob if mean else sum_logprob
    for i in range(0, len(order), batch):
        rows = order[i : i + batch]
        packed = pack([(prompts[r], [b[r] for b in branches]) for r in rows]).to(model.device)
        tokens = token_logprobs(hidden_states(model, packed), head, packed.target)
        out[rows] = reduce(tokens, packed.branch, packed.branches).view(len(rows), -1).cpu()
    return check_finite(out, range(len(out)))


def pair_logprobs(model, pairs: Sequence[Pair], *, batch: int) -> Tensor:
    """(N, 2) nats: summed log-probs of the chosen and the rejected answer of each pair, as `data.encode_pairs` gives
    them."""
    columns = zip(*((p.prompt, p.chosen, p.rejected) for p in pairs))
    return completion_logprobs(model, *columns, batch=batch)


def reference_logprobs(model, prompts: Ids, *branches: Ids, policy, batch: int) -> Tensor:
    """`completion_logprobs` of a frozen reference, computed once per (weights, dtype, device, token ids) and kept in
    data/cache.

    policy: the model that will be trained. ValueError if its vocabulary differs: the same ids would mean other texts.
    """
    sizes = policy.config.vocab_size, model.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the policy's vocabulary has {sizes[0]} entries and the reference's {sizes[1]}: they cannot score "
            "the same token ids"
        )
    key = {
        "code": 3,  # raise it when a value can change
        "weights": models.fingerprint(model),
        "dtype": str(model.dtype),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": [[list(p), *map(list, b)] for p, *b in zip(prompts, *branches, strict=True)],
        "batch": batch,
    }
    values = cached("logprobs", key, lambda: completion_logprobs(model, prompts, *branches, batch=batch).tolist())
    return torch.tensor(values, dtype=torch.promote_types(model.dtype, torch.float32))


class Likelihood:
    """Length-normalised log-likelihood under a model: the default judge is the full-precision model itself."""

    def __init__(self, model, *, batch: int):
        self.model, self.batch = model, batch
        self._known: dict[tuple, Tensor] = {}  # a contest scores the same answers again and again

    def score(self, prompts: Ids, responses: Ids) -> Tensor:
        key = tuple((tuple(p), tuple(r)) for p, r in zip(prompts, responses, strict=True))
        if key not in self._known:
            self._known[key] = completion_logprobs(self.model, prompts, responses, batch=self.batch, mean=True)[:, 0]
        return self._known[key]

    def compare(self, prompts: Ids, first: Ids, second: Ids, *, margin: float) -> list[str]:
        """ "first", "second" or "tie" (scores within `margin` nats per token) for each prompt, judged in this order."""
        gap = self.score(prompts, first) - self.score(prompts, second)
        return ["first" if g > margin else "second" if g < -margin else "tie" for g in gap.tolist()]


class PromptedJudge:
    """A local chat model asked which answer is better; its verdict is the larger of the two labels'
    log-probabilities."""

    question = (
        "Here is a request and two answers to it.\n\n[Request]\n{prompt}\n\n[Answer A]\n{first}\n\n[Answer "
        "B]\n{second}\n\n"
        "Which answer helps the user more? Reply with one letter, A or B."
    )

    def __init__(self, model, tokenizer, decode: Callable[[Sequence[int]], str], *, batch: int):
        self.model, self.tokenizer, self.decode, self.batch = model, tokenizer, decode, batch

    def compare(self, prompts: Ids, first: Ids, second: Ids, *, margin: float) -> list[str]:
        texts = [
            self.question.format(prompt=self.decode(p), first=self.decode(a), second=self.decode(b))
            for p, a, b in zip(prompts, first, second, strict=True)
        ]
        ids = [chat(self.tokenizer, [{"role": "user", "content": t}]) for t in texts]
        a, b = (self.tokenizer.encode(letter, add_special_tokens=False) for letter in "AB")
        scores = completion_logprobs(self.model, ids, [a] * len(ids), [b] * len(ids), batch=self.batch, mean=True)
        gap = (scores[:, 0] - scores[:, 1]).tolist()
        return ["first" if g > margin else "second" if g < -margin else "tie" for g in gap]


def load_judge(spec: str, fp, tokenizer, *, batch: int):
    """ "fp": likelihood under the full-precision model at hand; anything `models.load` takes: that model, asked."""
    if spec == "fp":
        return Likelihood(fp, batch=batch)
    model, own = models.load(spec, dtype=fp.dtype, device=str(fp.device))
    templates.check_has(own)
    return PromptedJudge(model, own, lambda ids: tokenizer.decode(ids, skip_special_tokens=True), batch=batch)


def judge_both_orders(judge, prompts: Ids, ours: Ids, theirs: Ids, *, margin: float) -> list[str]:
    """ "win", "tie" or "lose" of `ours` per prompt: judged in both orders, a disagreement is a tie (FastChat's
    rule)."""
    forward = judge.compare(prompts, ours, theirs, margin=margin)
    backward = judge.compare(prompts, theirs, ours, margin=margin)
    name = {"first": "win", "second": "lose", "tie": "tie"}
    flipped = {"first": "lose", "second": "win", "tie": "tie"}
    return [fastchat_verdict(name[f], flipped[b]) for f, b in zip(forward, backward)]
