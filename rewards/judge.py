"""A language model as judge, behind any OpenAI-compatible endpoint: five grades, or better and worse than a reference.

Each request carries a marker drawn for it, and only a last line `<marker>: <grade>` counts, so that a submitted answer
can't speak for the judge. Whatever the endpoint does costs at most the sample: a `JudgeError` masks it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from lightning_cispo.rewards.length_bias import LengthBias

MAX_RESPONSE_CHARS = 50_000
_MAX_REPLY_BYTES = 1 << 20
_MAX_BACKOFF_S = 60.0
_RETRIED = (408, 409, 425, 429)


class JudgeError(Exception):
    """No verdict could be had: the endpoint failed, or the budget is spent."""


class _Passing(Exception):
    """Worth another attempt, after `wait_s` seconds if the endpoint said so."""

    def __init__(self, reason: str, wait_s: float | None = None):
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class JudgeOptions:
    """`url` ends before /chat/completions; the key is read from the environment variable `key_variable`. `template` is
    a name in configs/judge or a file: text with `$question`, `$reference`, `$response`, `$nonce`, and for `pairwise`
    `$first` and `$second`. `bias_threshold` is a correlation over the last `bias_window` answers."""

    url: str
    model: str
    template: str = "grades"
    pairwise: bool = False
    key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 60.0
    retries: int = 4
    backoff_s: float = 1.0  # before the first retry; doubled before each further one
    budget: int = 1_000_000  # requests, retries included
    cache: int = 10_000  # verdicts kept
    concurrency: int = 16
    max_tokens: int = 1024
    bias_threshold: float = 0.3
    bias_window: int = 1000

    def text(self) -> str:
        """Of the template. Raises OSError."""
        named = Path(__file__).resolve().parents[1] / "configs" / "judge" / f"{self.template}.txt"
        return (named if named.is_file() else Path(self.template)).read_text()


class Judge:
    """Any number of callers; `concurrency` requests at once, the rest wait their turn."""

    def __init__(self, options: JudgeOptions):
        self.options, self._template = options, Template(options.text())
        self.bias = LengthBias(options.bias_threshold, options.bias_window)
        self._threads = ThreadPoolExecutor(options.concurrency, "judge")
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, float] = OrderedDict()
        self._closed = threading.Event()
        self._spent = 0  # requests of the budget
        self._counts = {"requests": 0, "retries": 0, "cached": 0, "failed": 0}

    def submit(self, question: str, reference: str, response: str, correct: bool | None = None) -> Future[float]:
        """A grade from 0 to 1 in quarters, or for `pairwise` -1, 0 or 1. The future raises JudgeError.

        `correct`, where something else knows it, sets answers apart for the monitor of length bias.
        """
        return self._threads.submit(self._grade, question, reference, response[:MAX_RESPONSE_CHARS], correct)

    def stats(self, reset: bool = False) -> dict[str, float]:
        """Counts since the start or the last reset, and the length bias of the latest grades."""
        with self._lock:
            found = {**self._counts, "length_bias": self.bias.correlation()}
            if reset:
                self._counts = dict.fromkeys(self._counts, 0)
            return found

    def close(self) -> None:
        """Ends waiting between attempts; returns when requests under way have ended."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)

    def _grade(self, question: str, reference: str, response: str, correct: bool | None) -> float:
        key = hashlib.blake2b(json.dumps([question, reference, response]).encode(), digest_size=16).hexdigest()
        with self._lock:
            if key in self._cache:
                self._counts["cached"] += 1
                self._cache.move_to_end(key)
                return self._cache[key]
        try:
            grade = self._pairwise(question, reference, response) if self.options.pairwise else None
            if grade is None:
                said = self._ask({"question": question, "reference": reference, "response": response}, "12345")
                grade = (int(said) - 1) / 4
        except JudgeError:
            with self._lock:
                self._counts["failed"] += 1
            raise
        with self._lock:
            self._cache[key] = grade
            while len(self._cache) > self.options.cache:
                self._cache.popitem(last=False)
            self.bias.record(grade, len(response), correct)
        return grade

    def _pairwise(self, question: str, reference: str, response: str) -> float:
        """Asked in both orders; what depends on the order is no preference."""
        choices = ("A", "B", "TIE")
        first = self._ask({"question": question, "first": response, "second": reference}, choices)
        second = self._ask({"question": question, "first": reference, "second": response}, choices)
        ahead = {"A": 1.0, "B": -1.0, "TIE": 0.0}
        return ahead[first] if ahead[first] == -ahead[second] else 0.0

    def _ask(self, values: dict[str, str], choices: Any) -> str:
        wait = self.options.backoff_s
        for attempt in range(self.options.retries + 1):
            nonce = secrets.token_hex(6)
            prompt = self._template.substitute(values, nonce=nonce)
            try:
                return _choice(self._request(prompt), nonce, choices)
            except _Passing as error:
                if attempt == self.options.retries:
                    raise JudgeError(f"no verdict after {attempt + 1} attempts: {error}") from None
                pause = min(_MAX_BACKOFF_S, wait if error.wait_s is None else error.wait_s)
            with self._lock:
                self._counts["retries"] += 1
            if self._closed.wait(pause):
                break
            wait *= 2
        raise JudgeError("the judge was closed")

    def _request(self, prompt: str) -> str:
        with self._lock:
            if self._spent >= self.options.budget:
                raise JudgeError(f"the budget of {self.options.budget} requests is spent")
            self._spent += 1
            self._counts["requests"] += 1
        body = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.options.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.options.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.options.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        deadline = time.monotonic() + self.options.timeout_s
        try:
            with urllib.request.urlopen(request, timeout=self.options.timeout_s) as reply:
                return _content(_read(reply, deadline))
        except urllib.error.HTTPError as error:
            if error.code in _RETRIED or error.code >= 500:
                raise _Passing(f"HTTP {error.code}", _retry_after(error)) from None
            raise JudgeError(f"HTTP {error.code}: {error.read(300).decode('utf-8', 'replace')}") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(f"{type(error).__name__}: {error}") from None


def _read(reply: Any, deadline: float) -> bytes:
    """The body, by a deadline for all of it: a server that sends a byte now and then holds nobody."""
    found = b""
    while part := reply.read1(1 << 16):
        found += part
        if time.monotonic() > deadline:
            raise _Passing("the reply took too long")
        if len(found) > _MAX_REPLY_BYTES:
            raise _Passing(f"a reply of more than {_MAX_REPLY_BYTES} bytes")
    return found


def _content(body: bytes) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (IndexError, KeyError, RecursionError, TypeError, ValueError):
        raise _Passing("a malformed reply") from None
    if not isinstance(content, str) or not content.strip():
        raise _Passing("an empty reply")
    return content


def _choice(text: str, nonce: str, choices: Any) -> str:
    line = text.strip().splitlines()[-1].strip().strip("*`").strip()
    found = re.fullmatch(rf"{nonce}: *(\w+)", line)
    if not found or found[1] not in choices or len(re.findall(rf"{nonce}: *\w+", text)) != 1:
        raise _Passing("a reply without a verdict")
    return found[1]


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    said = error.headers.get("Retry-After", "")
    return float(said) if said.isdecimal() else None
