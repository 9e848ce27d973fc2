"""A teacher behind a server that speaks the OpenAI protocol, over HTTP and the standard library alone."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lib.synthesis.requests import Request, instruction


class Patience(NamedTuple):
    """Seconds that an answer may take, how often it is asked for again, and the first pause before that (doubled each
    time)."""

    timeout: float = 120
    retries: int = 2
    pause: float = 1.0


PATIENT = Patience()


class Chat:
    """A server that speaks the OpenAI protocol (POST {url}/chat/completions). None where it was too busy or slow
    `retries` + 1 times, or said nothing.

    A key, if the server wants one, is read from the environment variable `key` at each call and kept nowhere.
    ConnectionError where nobody answers; ValueError with the server's words where it refuses the request.
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
        key: str = "OPENAI_API_KEY",
    ):
        if not re.match(r"https?://", url):
            raise ValueError(f"a base URL begins with http:// or https://, given {url!r}")
        self.url, self.model, self.seed, self.key = url.rstrip("/"), model, seed, key
        self.temperature, self.max_tokens = temperature, max_tokens
        self.patience = patience
        self.name = f"chat {model} {temperature} {max_tokens} {seed}"

    def __call__(self, requests: Sequence[Request]) -> Iterable[str | None]:
        return (self._ask(r) for r in requests)

    def _ask(self, r: Request) -> str | None:
        seed = int.from_bytes(hashlib.sha256(f"{self.seed} {r.ask} {r.id}".encode()).digest()[:3], "big")
        body = {"model": self.model, "messages": [{"role": "user", "content": instruction(r)}], "seed": seed}
        body |= {"temperature": self.temperature, "max_tokens": self.max_tokens}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {key}"
        for attempt in range(self.patience.retries + 1):
            if attempt:
                time.sleep(self.patience.pause * 2 ** (attempt - 1))
            refused = None
            try:
                post = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
                with urllib.request.urlopen(post, timeout=self.patience.timeout) as answer:
                    return json.load(answer)["choices"][0]["message"]["content"] or None
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    said = error.read(300).decode(errors="replace").strip()
                    raise ValueError(
                        f"{self.url} refused the request for {self.model!r} ({error.code}): {said}"
                    ) from None
            except (KeyError, IndexError, TypeError, json.JSONDecodeError):
                raise ValueError(
                    f"{self.url} does not speak the OpenAI protocol: its answer has no choices[0].message.content"
                ) from None
            except TimeoutError:
                continue
            except (urllib.error.URLError, ConnectionError, http.client.HTTPException) as error:
                refused = error
        if refused is not None and not isinstance(getattr(refused, "reason", None), TimeoutError):
            raise ConnectionError(
                f"no server answers at {self.url} ({getattr(refused, 'reason', refused)}), asked "
                f"{self.patience.retries + 1} times"
            )
        return None
