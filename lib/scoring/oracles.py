"""Programmatic rewards of a text: preferences whose true value is known, exact and the same on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from lib.data import templates
from lib.engine import weights
from lib.engine.models import checked_folder
from lib.harness import paths
from lib.scoring import asked

WORD = re.compile(r"[A-Za-z']+")
READER = {"you", "your", "yours", "yourself", "yourselves", "you're", "you'll", "you've", "you'd"}
Reward = Callable[..., Tensor]  # (prompt, answer) texts -> (N,); a pairwise one takes two such lists
TIE = 1e-6  # rewards no further apart are equal: sums of the same fractions in another order differ by rounding
NOTHING = -1e3  # the reward of a text without a word: below every other


def _words(text: str) -> list[str]:
    return [w.lower() for w in WORD.findall(text)]


def wins(first: Tensor, second: Tensor) -> Tensor:
    """1 where the first reward is the larger, 1/2 where they tie (no further apart than `TIE`), 0 else."""
    margin = (first - second).double()
    return (margin > TIE).double() + 0.5 * (margin.abs() <= TIE).double()


def plain(text: str) -> float:
    """Minus the mean number of letters a word: short, plain words."""
    words = _words(text)
    return -sum(map(len, words)) / len(words) if words else NOTHING


def direct(text: str) -> float:
    """Share of words that address the reader (you, your, ...), in [0, 1]."""
    words = _words(text)
    return sum(w in READER for w in words) / len(words) if words else NOTHING


def varied(text: str) -> float:
    """Distinct words over all words, in (0, 1]: no repetition."""
    words = _words(text)
    return len(set(words)) / len(words) if words else NOTHING


def full(text: str) -> float:
    """Words in the text over 20: answers that say something before they end. Pairs of equal length tie."""
    return len(_words(text)) / 20 if _words(text) else NOTHING


def rich(text: str) -> float:
    """Different words in the text over 20: `full` that no repetition can please."""
    return len(set(_words(text))) / 20 if _words(text) else NOTHING


def content(text: str) -> float:
    """Distinct words of four letters and more over 20: answers that say something, by another measure than `full`."""
    words = _words(text)
    return len({w for w in words if len(w) > 3}) / 20 if words else NOTHING


def cheerful(text: str) -> float:
    """VADER's compound sentiment, in [-1, 1], less what reads like spam: more than a third of words with a sentiment,
    or repeated words."""
    words = _words(text)
    if not words:
        return NOTHING
    vader = _vader()
    dense = sum(w in vader.lexicon for w in words) / len(words) - 1 / 3
    return vader.polarity_scores(text)["compound"] - 3 * max(0.0, dense) - 2 * max(0.0, 0.7 - varied(text))


def afinn(text: str) -> float:
    """Mean AFINN valence a word, in [-5, 5]: another lexicon, made by other people; shows what an oracle was only
    talked into."""
    words = _words(text)
    return _afinn().score(text) / len(words) if words else NOTHING


@cache
def _vader():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@cache
def _afinn():
    from afinn import Afinn

    return Afinn()


REWARDS = {
    "plain": plain,
    "direct": direct,
    "varied": varied,
    "full": full,
    "rich": rich,
    "content": content,
    "cheerful": cheerful,
    "afinn": afinn,
}


def score(name: str, texts: Sequence[str]) -> Tensor:
    """Rewards (N,) float64 of the texts; ValueError for a name that no reward has. Several names joined by + add up,
    each standardised."""
    parts = name.split("+")
    for part in parts:
        if part not in REWARDS:
            raise ValueError(f"a reward is one of {', '.join(REWARDS)}, or some joined by +, given {name!r}")
    columns = [torch.tensor([REWARDS[part](t) for t in texts], dtype=torch.float64) for part in parts]
    if len(columns) == 1:
        return columns[0]
    spoken = columns[0] > NOTHING
    total = torch.full((len(texts),), NOTHING, dtype=torch.float64)
    total[spoken] = sum((c[spoken] - c[spoken].mean()) / c[spoken].std().clamp(min=1e-9) for c in columns)
    return total


def free(reward: Callable) -> Callable:
    """`reward`, marked as one that costs nothing a call, so that analysis may ask it for the truth (`Oracle.peek`)."""
    setattr(reward, "free", True)  # noqa: B010  a function's mark
    return reward


def is_free(reward: Callable) -> bool:
    """Whether the reward was marked by `free`; one that says nothing may bill every call."""
    return getattr(reward, "free", False) is True


def rewarder(spec: str, *, dtype: torch.dtype, device: str, batch: int, template: str | None = None) -> Reward:
    """The reward that `spec` names, of (prompt, answer) texts: a rule of `REWARDS`, which reads the answer only, a
    reward model, or what is asked a pair at a time (`lib.scoring.asked`): a person, or an address.

    A reward model is a sequence classifier with one output (a local folder or a hub id, safetensors), shown the two
    turns in its own chat template, or in `template` (see `models.load`). ValueError where it has more outputs than one,
    no template, or a file without its head; FileNotFoundError for a folder without weights. Both kinds run on this
    machine and cost nothing a call: they are `free`.
    """
    if asked.is_asked(spec):
        name = hashlib.sha256(spec.encode()).hexdigest()[:12]
        return asked.oracle(spec, paths.CACHE / "oracle" / f"{name}.jsonl")
    if all(part in REWARDS for part in spec.split("+")):
        return free(lambda rows: score(spec, [answer for _, answer in rows]))
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    templates.check(template)
    folder = checked_folder(spec)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    templates.use(tokenizer, template)
    templates.check_has(tokenizer)
    outputs = AutoConfig.from_pretrained(folder).num_labels
    if outputs != 1:
        raise ValueError(f"a reward model has one output, {spec!r} has {outputs}")
    model = weights.whole(AutoModelForSequenceClassification, folder, spec=spec, dtype=dtype, use_safetensors=True)
    model = model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def reward(rows: Sequence[tuple[str, str]]) -> Tensor:
        turns = [[{"role": "user", "content": p}, {"role": "assistant", "content": a}] for p, a in rows]
        ids = [torch.tensor(tokenizer.apply_chat_template(t, return_dict=False)) for t in turns]
        out, used = torch.empty(len(ids), dtype=torch.float64), set(torch.cat(ids).tolist()) if ids else set()
        pad = next(
            i for i in range(model.config.vocab_size) if i not in used
        )  # the head reads a row's last token that is not this one
        model.config.pad_token_id = pad
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for i in range(0, len(order), batch):
            part = order[i : i + batch]
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids[r]) for r in part], batch_first=True)
            padded = torch.nn.utils.rnn.pad_sequence([ids[r] for r in part], batch_first=True, padding_value=pad)
            out[part] = model(padded.to(device), attention_mask=mask.to(device)).logits[:, 0].double().cpu()
        return out

    return free(reward)


class Oracle:
    """Compares answers by a reward, as the party that is paid a query at a time: every comparison is counted and
    logged.

    P(first wins) = sigma(r(first) - r(second)). labels "deterministic": the likelier side wins, a tie (rewards no
    further apart than `TIE`) is a coin; "bernoulli": drawn from P.
    flip: share of labels that are turned round afterwards. free: whether a call costs nothing, so that `peek` may ask
    beside the count; None: what the reward says of itself (`rewarder`'s do), and one that says nothing is not free.
    """

    def __init__(
        self,
        reward: Reward,
        *,
        labels: str,
        flip: float,
        generator: torch.Generator,
        free: bool | None = None,
    ):
        if labels not in ("deterministic", "bernoulli"):
            raise ValueError(f"labels are deterministic or bernoulli, given {labels!r}")
        if not 0 <= flip < 0.5:
            raise ValueError(f"flip lies in [0, 0.5), given {flip}")
        self.reward, self.labels, self.flip, self.generator = reward, labels, flip, generator
        self.free = is_free(reward) if free is None else bool(free)
        self.log: list[tuple] = []  # (first, second, P(first wins), label)
        self.unanswered = 0  # pairs sent to a reward that bills them, which gave no label

    @property
    def queries(self) -> int:
        """Comparisons asked so far; of a reward that is not free also those that came back without a label."""
        return len(self.log) + self.unanswered

    def compare(self, first: Sequence, second: Sequence) -> Tensor:
        """(B,) bool: whether each first answer wins. Equal answers are compared and counted like any others."""
        if len(first) != len(second):
            raise ValueError(f"{len(first)} first answers and {len(second)} second ones: a query is a pair")
        if not len(first):
            return torch.zeros(0, dtype=torch.bool)
        billed = 0 if self.free else len(first)
        self.unanswered += billed  # until the labels are there: a call that fails has been paid for
        if getattr(self.reward, "pairwise", False):
            margin = self.reward(first, second).double()
        else:
            margin = (self.reward(first) - self.reward(second)).double()
        same = torch.tensor([a == b for a, b in zip(first, second)])
        margin = margin.masked_fill(same & margin.isfinite(), 0.0)  # scored in two batches, they differ by rounding
        if not torch.isfinite(margin).all():
            bad = (~torch.isfinite(margin)).nonzero()[:, 0].tolist()
            count = f"all of these {len(first)} queries were" if billed else f"none of these {len(first)} queries was"
            raise FloatingPointError(f"the oracle's reward of pairs {bad[:8]} is not finite; {count} counted")
        p = torch.sigmoid(margin)
        u, v = torch.rand(2, len(first), generator=self.generator, dtype=torch.float64)
        wins = u < p if self.labels == "bernoulli" else (margin > TIE) | ((margin.abs() <= TIE) & (u < 0.5))
        wins = wins ^ (v < self.flip)
        self.log += zip(first, second, p.tolist(), wins.tolist())
        self.unanswered -= billed
        return wins

    def peek(self, first: Sequence, second: Sequence) -> Tensor | None:
        """(B,) bool, whether each first answer is truly better: for the record only, neither counted nor shown to a
        method. None, and nothing is asked, where the reward is not free."""
        if not self.free:
            return None
        return self.reward(first) > self.reward(second) if len(first) else torch.zeros(0, dtype=torch.bool)

    def state(self) -> dict:
        """What a resumed run needs."""
        return {"log": list(self.log), "unanswered": self.unanswered, "generator": self.generator.get_state()}

    def restore(self, state: dict) -> None:
        """Continue from `state`."""
        self.log, self.unanswered = list(state["log"]), state.get("unanswered", 0)
        self.generator.set_state(state["generator"])
