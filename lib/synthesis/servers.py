"""A teacher or judge behind a server that speaks the OpenAI protocol, asked many things at a time by the `openai`
client (extra `teachers`)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.synthesis.answers import Answer, Answers, key_of
from lib.synthesis.requests import Request, instruction

LONGEST_PAUSE = 60.0  # seconds
QUIET = ("OS", "Arch", "Runtime", "Runtime-Version", "Package-Version", "Lang", "Async", "Retry-Count", "Read-Timeout")


class Patience(NamedTuple):
    """Seconds that an answer may take, how often it is asked for again, and the first pause before that (doubled each
    time, or what the server asks for); requests at a time, and at most so many a minute (0: no limit)."""

    timeout: float = 120
    retries: int = 4
    pause: float = 1.0
    at_once: int = 16
    per_minute: float = 0


PATIENT = Patience()


class Spent(NamedTuple):
    """What a teacher took: answers it gave, found on disk, asked again, given up; tokens that were paid for, and their
    price where prices are known."""

    asked: int = 0
    known: int = 0
    again: int = 0
    none: int = 0
    read: int = 0
    written: int = 0
    price: float | None = None

    def __str__(self) -> str:
        cost = "" if self.price is None else f", {self.price:.4g} in all"
        return (
            f"{self.asked} answers paid for, {self.known} known before, {self.again} asked again, {self.none} without "
            f"an answer; {self.read} tokens read and {self.written} written{cost}"
        )


class Stopped(Exception):
    """Not asked: something else had gone wrong, or nobody waits for it any more."""


class Chat:
    """A server that speaks the OpenAI protocol (POST {url}/chat/completions). None where it was too busy or slow
    `retries` + 1 times, or said nothing.

    Answers come in the order of the requests; each is kept in `keep`, a file, as it arrives, and is not asked for
    again. When something fails for good nothing more is asked, what is on its way is waited for and kept. `prices`: of
    a million tokens read and written. A key, if the server wants one, is read from the environment variable `key` at
    each call and kept nowhere. ConnectionError where nobody answers; ValueError with the server's words where it
    refuses the request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        seed: int,
        temperature: float = 0.7,
        max_tokens: int = 1024,
        patience: Patience = PATIENT,
        keep: Path | None = None,
        key: str = "OPENAI_API_KEY",
    ):
        if not re.match(r"https?://", url):
            raise ValueError(f"a base URL begins with http:// or https://, given {url!r}")
        if patience.at_once < 1 or patience.per_minute < 0:
            raise ValueError(f"at least 1 request at a time and 0 or more a minute are asked, given {patience[3:]}")
        self.url, self.model, self.seed, self.key = url.rstrip("/"), model, seed, key
        self.temperature, self.max_tokens = temperature, max_tokens
        self.patience, self.answers = patience, Answers(keep)
        self.prices: tuple[float, float] | None = None
        self.spent = Spent()
        self.name = f"chat {model} {temperature} {max_tokens} {seed}"

    def __call__(self, requests: Sequence[Request]) -> Iterator[str | None]:
        _client()  # the extra is missing: said before anything is asked
        return self._in_order([self._body(r) for r in requests])

    def _body(self, r: Request) -> dict:
        seed = int.from_bytes(hashlib.sha256(f"{self.seed} {r.ask} {r.id}".encode()).digest()[:3], "big")
        body = {"model": self.model, "messages": [{"role": "user", "content": instruction(r)}], "seed": seed}
        return body | {"temperature": self.temperature, "max_tokens": self.max_tokens}

    def _in_order(self, bodies: list[dict]) -> Iterator[str | None]:
        """Answers in order, asked by an event loop in a thread of its own: a notebook's thread has a loop already."""
        came: queue.SimpleQueue = queue.SimpleQueue()
        work = _Work(self, came)
        thread = threading.Thread(target=work.run, args=(bodies,), daemon=True)
        thread.start()
        early: dict[int, tuple] = {}
        try:
            for i in range(len(bodies)):
                while i not in early:
                    k, *answer = came.get()
                    early[k] = tuple(answer)
                text, error = early.pop(i)
                if error is not None:
                    raise work.failed or error
                yield text
        finally:
            work.stop.set()
            thread.join()

    def count(self, **more: int) -> None:
        """Add to what was spent."""
        spent = self.spent._replace(**{k: getattr(self.spent, k) + n for k, n in more.items()})
        if self.prices is not None:
            read, written = self.prices
            spent = spent._replace(price=(spent.read * read + spent.written * written) / 1e6)
        self.spent = spent


class _Work:
    """One call's requests on their way."""

    def __init__(self, chat: Chat, came: queue.SimpleQueue):
        self.chat, self.came, self.stop = chat, came, threading.Event()
        self.failed: BaseException | None = None
        self.free_at = 0.0  # when the next request may go, of the loop's clock

    def run(self, bodies: list[dict]) -> None:
        try:
            asyncio.run(self._all(bodies))
        except BaseException as error:  # whoever waits must hear of it
            self.failed = self.failed or error
            for i in range(len(bodies)):
                self.came.put((i, None, error))

    async def _all(self, bodies: list[dict]) -> None:
        openai, chat = _client(), self.chat
        key = os.environ.get(chat.key)
        # no word of this machine in the headers, and no key that nobody gave
        self.headers = {f"X-Stainless-{name}": openai.Omit() for name in QUIET}
        self.headers |= {} if key else {"Authorization": openai.Omit()}
        how = dict(base_url=chat.url, api_key=key or "none", max_retries=0, timeout=chat.patience.timeout)
        at_once = asyncio.Semaphore(chat.patience.at_once)
        async with openai.AsyncOpenAI(**how) as client:
            alike: dict[str, list[int]] = {}  # equal requests are one
            for i, body in enumerate(bodies):
                alike.setdefault(key_of(body), []).append(i)
            await asyncio.gather(*(self._one(client, at_once, k, at, bodies[at[0]]) for k, at in alike.items()))

    async def _one(self, client, at_once: asyncio.Semaphore, key: str, at: list[int], body: dict) -> None:
        """The answer to one request, from disk or from the server, into the queue for each place that asked it."""
        text = error = None
        try:
            known = self.chat.answers.get(key)
            if known is not None:
                self.chat.count(known=1)
                text = known.text
            else:
                async with at_once:
                    answer = await self._ask(client, body)
                if answer is not None:
                    self.chat.answers.put(key, answer)
                    text = answer.text
        except Exception as e:
            error = e
            if self.failed is None and not isinstance(e, Stopped):
                self.failed = e
            self.stop.set()
        for i in at:
            self.came.put((i, text, error))

    async def _ask(self, client, body: dict) -> Answer | None:
        openai, chat, patience = _client(), self.chat, self.chat.patience
        last: Exception | None = None
        for attempt in range(patience.retries + 1):
            if attempt:
                chat.count(again=1)
            await self._turn(self._pause(attempt, last))
            try:
                done = await client.chat.completions.create(**body, extra_headers=self.headers)
            except openai.APIStatusError as e:
                if e.status_code < 500 and e.status_code not in (408, 409, 429):
                    raise ValueError(self._refusal(e)) from None
                last = e
                continue
            except (openai.OpenAIError, ValueError) as e:  # nobody there, too slow, or half an object
                last = e
                continue
            try:
                return self._read(done)
            except (AttributeError, IndexError, TypeError) as e:  # the page of a proxy, another protocol
                last = e
        if isinstance(last, (openai.APITimeoutError, openai.APIStatusError)):
            chat.count(none=1)
            return None
        times = f"asked {patience.retries + 1} times"
        if isinstance(last, openai.APIConnectionError):
            raise ConnectionError(f"no server answers at {chat.url} ({last.__cause__ or last}), {times}") from None
        raise ValueError(
            f"{chat.url} does not speak the OpenAI protocol: its answer has no choices[0].message.content, {times}"
        ) from None

    def _read(self, done) -> Answer | None:
        text = done.choices[0].message.content
        if text is not None and not isinstance(text, str):
            raise TypeError("content is no text")
        usage = getattr(done, "usage", None)
        read, written = (getattr(usage, f"{k}_tokens", 0) or 0 for k in ("prompt", "completion"))
        self.chat.count(asked=1, read=read, written=written, none=int(not text))
        return Answer(text, read, written) if text else None

    def _pause(self, attempt: int, last: Exception | None) -> float:
        """Seconds before an attempt: doubled each time, or what the server asked for; that holds for all requests."""
        if not attempt:
            return 0.0
        asked = getattr(getattr(last, "response", None), "headers", {}).get("retry-after", "")
        try:
            wanted = float(asked)
        except ValueError:
            return min(self.chat.patience.pause * 2 ** (attempt - 1), LONGEST_PAUSE)
        wanted = min(max(wanted, 0.0), LONGEST_PAUSE)
        self.free_at = max(self.free_at, asyncio.get_running_loop().time() + wanted)
        return wanted

    async def _turn(self, pause: float) -> None:
        """Wait for `pause` and for this request's turn; Stopped as soon as nothing more is to be asked."""
        clock = asyncio.get_running_loop().time
        until = clock() + pause
        if self.chat.patience.per_minute:
            until = max(until, self.free_at)
            self.free_at = until + 60 / self.chat.patience.per_minute
        while True:
            if self.stop.is_set():
                raise Stopped
            left = max(until, self.free_at if not self.chat.patience.per_minute else 0.0) - clock()
            if left <= 0:
                return
            await asyncio.sleep(min(left, 0.1))

    def _refusal(self, e) -> str:
        said = " ".join(str(getattr(e.response, "text", e)).split())[:300]
        hint = f"; a key is read from the environment variable {self.chat.key}" * (e.status_code in (401, 403))
        return f"{self.chat.url} refused the request for {self.chat.model!r} ({e.status_code}): {said}{hint}"


def _client():
    try:
        import openai
    except ImportError:
        raise ValueError('a teacher behind a server needs the extra: pip install -e ".[teachers]"') from None
    return openai
