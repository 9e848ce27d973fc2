"""Oracles that are asked a pair at a time, and answer for a price: a person at a prompt, or a service at an address.

Every answer is written down as it comes, in a file of preferences that TRL reads (prompt, chosen, rejected), and a pair
that stands there is not asked again: whoever stops goes on where they were.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

Said = Callable[[str, str, str], float]  # (prompt, first answer, second answer) -> P(the first is better)
Pairwise = Callable[[Sequence[tuple[str, str]], Sequence[tuple[str, str]]], Tensor]
SURE = 1e-9  # a probability is at least that far from 0 and 1: its log-odds are finite
KEYS = {"1": 1.0, "2": 0.0, "0": 0.5}
TRIES, PAUSE, TIMEOUT, AT_ONCE = 4, 1.0, 60.0, 16  # seconds


def pairwise(said: Said, file: Path, *, at_once: int = 1) -> Pairwise:
    """An oracle out of `said`: log-odds (B,) that each first (prompt, answer) is the better, from `file` where a pair
    stands there, in either order; what is new is asked, `at_once` at a time, and written there as it comes.

    ValueError for a file whose lines are no such preferences, or for something else than a probability.
    """
    known, lock = _read(file), threading.Lock()

    def ask(prompt: str, first: str, second: str) -> None:
        p = said(prompt, first, second)
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not isfinite(p) or not 0 <= p <= 1:
            raise ValueError(f"an oracle says how likely the first answer is the better, in [0, 1], given {p!r}")
        chosen, rejected, p_chosen = (first, second, p) if p >= 0.5 else (second, first, 1 - p)
        row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "p": p_chosen}
        with lock:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "a", encoding="utf-8") as f:
                f.write(json.dumps(row, ensure_ascii=False) + "\n")
            known[prompt, chosen, rejected] = p_chosen

    def compare(first: Sequence[tuple[str, str]], second: Sequence[tuple[str, str]]) -> Tensor:
        pairs = [(p, a, b) for (p, a), (_, b) in zip(first, second, strict=True)]
        new = [x for x in dict.fromkeys(pairs) if _found(known, *x) is None]
        if at_once == 1:
            for x in new:
                ask(*x)
        else:
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(lambda x: ask(*x), new))
        p = torch.tensor([_found(known, *x) for x in pairs], dtype=torch.float64).clamp(SURE, 1 - SURE)
        return torch.logit(p)

    setattr(compare, "pairwise", True)  # noqa: B010  what `Oracle.query` looks for
    return compare


def _found(known: dict, prompt: str, first: str, second: str) -> float | None:
    if first == second:
        return 0.5  # nobody has to say so
    p = known.get((prompt, first, second))
    other = known.get((prompt, second, first)) if p is None else None
    return p if other is None else 1 - other


def _read(file: Path) -> dict[tuple[str, str, str], float]:
    known = {}
    for n, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.exists() else (), 1):
        try:
            row = json.loads(line)
            known[row["prompt"], row["chosen"], row["rejected"]] = float(row.get("p", 1.0))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} line {n} is no preference with prompt, chosen and rejected: {error!r}") from None
    return known


def person(*, read: Callable[[str], str] = input, show: Callable[[str], None] = print) -> Said:
    """A person with three keys: 1 the first answer, 2 the second, 0 neither; q stops, and nothing said is lost."""

    def said(prompt: str, first: str, second: str) -> float:
        show(f"\n{prompt}\n\n  1: {first}\n\n  2: {second}\n")
        while True:
            key = read("better: 1, 2, 0 for neither, q to stop: ").strip().lower()
            if key in KEYS:
                return KEYS[key]
            if key == "q":
                raise KeyboardInterrupt("stopped by the person who is asked")

    return said


def service(url: str, *, pause: float = PAUSE, timeout: float = TIMEOUT) -> Said:
    """Whoever answers POST {"prompt", "first", "second"} at `url` with {"first": P(the first is better)}. A key from
    the environment variable ORACLE_KEY is sent as a bearer.

    Asked again, with doubled pauses, where it is busy (429, 5xx) or slow; ConnectionError then, or at once where it
    refuses or nobody is there; ValueError for another answer.
    """

    def said(prompt: str, first: str, second: str) -> float:
        body = json.dumps({"prompt": prompt, "first": first, "second": second}).encode()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("ORACLE_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        for k in range(TRIES):
            try:
                with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=timeout) as answer:
                    text = answer.read().decode("utf-8", "replace")
                break
            except urllib.error.HTTPError as error:
                trouble = f"it answers {error.code} {error.reason}"
                if error.code != 429 and error.code < 500:
                    raise ConnectionError(f"the oracle at {url} refuses: {trouble}") from None
            except urllib.error.URLError as error:
                if not isinstance(error.reason, TimeoutError):
                    raise ConnectionError(f"nobody answers at the oracle's address {url}: {error.reason}") from None
                trouble = "it is too slow"
            except TimeoutError:
                trouble = "it is too slow"
            if k + 1 < TRIES:
                time.sleep(pause * 2**k)
        else:
            raise ConnectionError(f"the oracle at {url} gave no answer in {TRIES} tries: {trouble}")
        try:
            return json.loads(text)["first"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'the oracle at {url} has to answer {{"first": probability}}, given {text[:80]!r}'
            ) from None

    return said


def is_asked(spec: str) -> bool:
    """Whether a reward is named that is asked a pair at a time: `person`, or an address."""
    return spec == "person" or spec.startswith(("http://", "https://"))


def oracle(spec: str, file: Path) -> Pairwise:
    """The pairwise oracle of `spec`, which `is_asked`, with its answers in `file`."""
    return pairwise(person(), file) if spec == "person" else pairwise(service(spec), file, at_once=AT_ONCE)
