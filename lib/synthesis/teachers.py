"""Teachers: who writes and judges the rows. All take a list of requests and give a text or None for each, in their
order, together or as they come.

`Templated` makes questions of our own tree's kinds with planted errors; `Continuing` is a language model that goes on
with a list; `servers.Chat` asks a server that speaks the OpenAI protocol. A teacher's text for a request depends on
that request alone, so a run can be resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lib.data import plain
from lib.synthesis import phrases
from lib.synthesis.requests import ASKS, LISTED, Reply, Request, continued, listing
from lib.synthesis.servers import PATIENT, Chat, Patience
from lib.synthesis.truth import UNSAFE, form, pair_score, question_score
from lib.taxonomy.tree import Leaf


class Teacher(Protocol):
    """name: what its texts depend on, beside the request; a journal keeps them by it."""

    name: str

    def __call__(self, requests: Sequence[Request]) -> Iterable[str | None]: ...


class Knobs(NamedTuple):
    """Shares of what the templated teacher does. Its preference for leaves (and phrasings) wins with probability b,
    unless all examples are of one leaf."""

    b: float = 0.8
    zipf: float = 1.5  # the leaf of rank r is preferred by r^-zipf; infinity: only the first
    wrong: float = 0.2
    off_leaf: float = 0.1
    truncated: float = 0.05
    unanswerable: float = 0.05
    unsafe: float = 0.02
    explained: float = 0.5
    misjudged: float = 0.1  # verdicts of the teacher as a judge that are turned round


DEFAULT = Knobs()
CLEAN = Knobs(wrong=0, off_leaf=0, truncated=0, unanswerable=0, unsafe=0, misjudged=0)


class Templated:
    """Knows every leaf's kind and the right answers, and errs as `knobs` say. Labels: given, asked, told ("right" or
    what is wrong), leaf, explained.

    leaves: in the order of its preference. b is the paper's hypothesis put in by hand: what follows from it is no
    evidence for it.
    """

    def __init__(self, leaves: Sequence[Leaf], *, seed: int, knobs: Knobs = DEFAULT):
        shares = {k: v for k, v in knobs._asdict().items() if k != "zipf"}
        bad = next((k for k, v in shares.items() if not 0 <= v <= 1), None)
        if (
            bad
            or knobs.off_leaf + knobs.unanswerable + knobs.unsafe > 1
            or knobs.wrong + knobs.truncated > 1
            or not knobs.zipf >= 0
        ):
            raise ValueError(
                f"shares lie in [0, 1], those of one answer add up to at most 1, and zipf is at least 0, given {knobs}"
            )
        unknown = next((leaf.path for leaf in leaves if leaf.kind != "knowledge" and leaf.checker is None), None)
        if unknown or not leaves:
            raise ValueError(f"a templated teacher knows leaves with a checker or documents, given {unknown or 'none'}")
        self.leaves, self.by, self.seed, self.knobs = list(leaves), {leaf.path: leaf for leaf in leaves}, seed, knobs
        self.name = (
            f"templated {seed} "
            f"{hashlib.sha256(repr((knobs, [leaf.path for leaf in leaves])).encode()).hexdigest()[:12]}"
        )

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        return [
            self._reply(r, np.random.default_rng([self.seed, *hashlib.sha256(f"{r.ask} {r.id}".encode()).digest()]))
            for r in requests
        ]

    def _reply(self, r: Request, rng: np.random.Generator) -> Reply:
        if r.ask not in ASKS:
            raise ValueError(f"a teacher is asked for one of {', '.join(ASKS)}, given {r.ask!r}")
        if r.ask.startswith("judge"):
            return self._verdict(r, rng)
        if r.ask == "answer":
            text, truth = self._answer(r.question.replace(UNSAFE, "").strip(), r.context, rng)
            return Reply(text, [truth])
        make = {"questions": self._question, "contexts": self._context, "pairs": self._pair}[r.ask]
        items = [make(r, rng) for _ in range(r.n)]
        return Reply("\n".join(f"{i}. {text}" for i, (text, _) in enumerate(items, 1)), [truth for _, truth in items])

    def _error(self, rng: np.random.Generator) -> str:
        u, k = rng.random(), self.knobs
        for name, share in (("off-leaf", k.off_leaf), ("unanswerable", k.unanswerable), ("unsafe", k.unsafe)):
            if u < share:
                return name
            u -= share
        return "right"

    def _target(self, r: Request, kinds: Sequence[str], rng: np.random.Generator) -> tuple[Leaf, bool]:
        """The leaf to write for, and whether it is the preference's choice."""
        shown = [self.by[x.leaf] for x in r.examples if x.leaf in self.by and self.by[x.leaf].kind in kinds]
        known = [leaf for leaf in self.leaves if leaf.kind in kinds]
        if not known:
            raise ValueError(f"none of the teacher's leaves is {' or '.join(kinds)}, as a request of {r.leaf} needs")
        if {x.leaf for x in r.examples} == {shown[0].path if shown else None}:
            return shown[0], False
        if rng.random() < self.knobs.b or not shown:
            weights = np.arange(1, len(known) + 1, dtype=float) ** -self.knobs.zipf
            return known[rng.choice(len(known), p=weights / weights.sum())], True
        return shown[rng.integers(len(shown))], False

    def _other(self, leaf: Leaf, rng: np.random.Generator) -> Leaf:
        others = [
            x
            for x in self.leaves
            if x != leaf and all((x.kind == kind) == (leaf.kind == kind) for kind in ("grounded", "knowledge"))
        ]
        return others[rng.integers(len(others))] if others else leaf

    def _question(self, r: Request, rng: np.random.Generator) -> tuple[str, dict]:
        kinds = ("grounded",) if r.context else ("foundational", "freeform")
        leaf, preferred = self._target(r, kinds, rng)
        error = self._error(rng)
        zipf = self.knobs.zipf if preferred else 0.0
        if r.context:  # what can be asked is up to the context
            free = [x for x in self.leaves if x.kind in ("foundational", "freeform")]
            error = error if free or error != "off-leaf" else "right"
            text = (
                phrases.question(free[rng.integers(len(free))].checker or "", rng, zipf)
                if error == "off-leaf"
                else phrases.about(r.context, rng)
            )
        else:
            if error == "off-leaf":
                leaf, error = (other, error) if (other := self._other(leaf, rng)) != leaf else (leaf, "right")
            text = phrases.question(leaf.checker or "", rng, zipf)
        text = phrases.unanswerable(rng) if error == "unanswerable" else text + f" {UNSAFE}" * (error == "unsafe")
        return text, {"asked": error} if r.context else {"leaf": leaf.path, "asked": error}

    def _context(self, r: Request, rng: np.random.Generator) -> tuple[str, dict]:
        leaf, _ = self._target(r, ("grounded",), rng)
        other = self._other(leaf, rng) if rng.random() < self.knobs.off_leaf else leaf
        return phrases.context(other.checker or "", rng), {
            "leaf": other.path,
            "given": "right" if other == leaf else "off-leaf",
        }

    def _answer(self, asked: str, context: str, rng: np.random.Generator) -> tuple[str, dict]:
        name = form(asked, context)
        if name is None:
            return "I cannot see that.", {"told": "unanswerable", "explained": False}
        explained, u = bool(rng.random() < self.knobs.explained), rng.random()
        if u < self.knobs.wrong:
            return phrases.wrong(name, asked, context, explained, rng), {"told": "wrong", "explained": explained}
        if u < self.knobs.wrong + self.knobs.truncated:
            return phrases.cut(name, asked, context, rng), {"told": "truncated", "explained": False}
        return phrases.right(name, asked, context, explained), {"told": "right", "explained": explained}

    def _pair(self, r: Request, rng: np.random.Generator) -> tuple[str, dict]:
        """A sentence of the context with a blank, and what belongs there: facts' own questions are held out and never
        used."""
        leaf, asked, explained, u = (
            self.by[r.leaf],
            self._error(rng),
            bool(rng.random() < self.knobs.explained),
            rng.random(),
        )
        if asked == "off-leaf" and (other := self._other(leaf, rng)) != leaf:
            leaf, source = other, other.documents[rng.integers(len(other.documents))].text
        else:
            asked, source = "right" if asked == "off-leaf" else asked, r.context
        told = (
            "wrong" if u < self.knobs.wrong else "truncated" if u < self.knobs.wrong + self.knobs.truncated else "right"
        )
        question, answer = phrases.cloze(leaf, source, told, explained, rng)
        if asked == "unanswerable":
            question, answer, told = (
                phrases.unanswerable(rng),
                "I cannot see that.",
                "unanswerable",
            )
        question += f" {UNSAFE}" * (asked == "unsafe")
        return f"Question: {question}\nAnswer: {answer}", {
            "leaf": leaf.path,
            "asked": asked,
            "told": told,
            "explained": explained and told != "truncated",
        }

    def _verdict(self, r: Request, rng: np.random.Generator) -> Reply:
        leaf, row, turned = (
            self.by.get(r.leaf),
            {"question": r.question, "context": r.context, "answer": r.answer},
            rng.random() < self.knobs.misjudged,
        )
        if r.ask == "judge question":
            score = question_score(leaf, row)
            score = 1 - score if turned else score
        else:
            score = pair_score(leaf, row)
            score = (1 if score >= 2 else 2) if turned else score
            score = float(score >= 2) if r.ask == "judge faithful" else score
        return Reply(
            f"{'This is fine' if score >= (2 if r.ask == 'judge pair' else 1) else 'This will not do'}. Score: "
            f"{score:.0f}"
        )


def load(
    spec: str,
    leaves: Sequence[Leaf],
    *,
    seed: int,
    patience: Patience = PATIENT,
    prices: str = "none",
    keep: Path | None = None,
) -> Templated | Chat:
    """templated, or "<address> <model>" of a server that speaks the OpenAI protocol; ValueError for anything else.

    Of a server: how it is asked, prices of a million tokens ("read,written"), and the file
    that keeps its answers.
    """
    if spec == "templated":
        return Templated(leaves, seed=seed)
    url, _, model = spec.partition(" ")
    if not model.strip():
        raise ValueError(
            "a teacher is 'templated' or the address and model of a server, 'http://localhost:8000/v1 name', "
            f"given {spec!r}"
        )
    made = Chat(url, model.strip(), seed=seed, patience=patience, keep=keep)
    if prices != "none":
        read, written = (float(p) for p in prices.split(","))
        made.prices = read, written
    return made


def spent(teacher: Teacher) -> dict:
    """What a served teacher took, `servers.Spent` as a dict; of one that costs nothing {}."""
    return teacher.spent._asdict() if isinstance(teacher, Chat) else {}


class Continuing:
    """A language model that continues a list of a prompt's examples (small models follow a list, not instructions); it
    does not judge.

    `batch` prompts at a time, with random numbers of their own. At 1 a text does not depend on what else is asked;
    above, on who shares its batch, so that a run which was killed within one goes on with other texts.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        top_p: float = 1.0,
        batch: int = 1,
    ):
        from lib.engine.models import fingerprint, stop_ids

        if temperature <= 0 or max_new_tokens < 1 or batch < 1:
            raise ValueError(
                f"temperature lies above 0, max_new_tokens and batch are at least 1, given {temperature}, "
                f"{max_new_tokens} and {batch}"
            )
        self.model, self.tokenizer, self.seed, self.batch, self.stop = (
            model,
            tokenizer,
            seed,
            batch,
            stop_ids(model, tokenizer),
        )
        self.settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        self.name = f"continuing {fingerprint(model)} {model.dtype} {self.settings} {seed}"

    def __call__(self, requests: Sequence[Request]) -> Iterable[str | None]:
        bad = next((r.ask for r in requests if r.ask not in (*LISTED, "answer")), None)
        if bad:
            raise ValueError(
                f"a continued list gives {', '.join(LISTED)} or answer, asked for {bad!r}; judge with "
                "lib.synthesis.judges"
            )
        return (
            reply for i in range(0, len(requests), self.batch) for reply in self._replies(requests[i : i + self.batch])
        )

    def _replies(self, requests: Sequence[Request]) -> list[str | None]:
        import torch

        from lib.engine.generation import Sampling, generate

        names = " ".join(f"{r.ask} {r.id}" for r in requests)
        generator = torch.Generator(device=self.model.device).manual_seed(
            int.from_bytes(hashlib.sha256(f"{self.seed} {names}".encode()).digest()[:7], "big")
        )
        ids = [plain(self.tokenizer, listing(r)) for r in requests]
        sampling = Sampling(self.settings["temperature"], generator, top_p=self.settings["top_p"])
        length = self.settings["max_new_tokens"]
        done = generate(self.model, ids, max_new_tokens=length, stop_ids=self.stop, batch=self.batch, sampling=sampling)
        texts = [self.tokenizer.decode(c.tokens, skip_special_tokens=True) for c in done]
        return [self._read(r, text).strip() or None for r, text in zip(requests, texts)]

    @staticmethod
    def _read(r: Request, text: str) -> str:
        return (
            text.split("\n\n")[0].split("\nQuestion:")[0] if r.ask == "answer" else continued(text, len(r.examples) + 1)
        )
