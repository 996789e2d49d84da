"""A language model as judge, behind any OpenAI-compatible endpoint: five grades, or better and worse than a reference.

Each request carries a marker drawn for it, and only a last line `<marker>: <grade>` counts, so that a submitted answer
cannot speak for the judge. Whatever the endpoint does costs at most the sample: a `JudgeError` masks it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future
from string import Template

from lightning_cispo.rewards.judge_client import JudgeClient, JudgeError, RetryableError
from lightning_cispo.rewards.judge_options import JudgeOptions
from lightning_cispo.rewards.length_bias import LengthBias

__all__ = ["Judge", "JudgeError", "JudgeOptions"]

MAX_RESPONSE_CHARS = 50_000
_LEAST_S = 0.001  # of an attempt: 0 would set no limit
_LEAST_DOWN = 4  # answers in a row without a grade; fewer can be the answers' own fault


class Judge:
    """Grades for any number of callers, from one event loop in a thread of its own.

    At most `concurrency` answers are graded at once. An answer has `timeout_s` seconds from its first request to its
    grade, all attempts and waits included. Equal answers share one grade, also while it is under way.
    Once `concurrency` answers in a row got none, those that waited meanwhile fail too: else a judge that is down would
    hold a step for `timeout_s` times its answers.
    """

    def __init__(self, options: JudgeOptions):
        self.options, self._template = options, Template(options.text())
        self.bias = LengthBias(options.bias_threshold, options.bias_window)
        self._client = JudgeClient(options)
        self._cache: OrderedDict[str, float] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[float]] = {}
        self._slots = asyncio.Semaphore(options.concurrency)
        self._spent = 0  # requests of the budget
        self._failed_in_row, self._failed_at, self._why = 0, 0.0, ""
        self._counts = {"requests": 0, "retries": 0, "cached": 0, "failed": 0}
        self._lock = threading.Lock()  # of the counts, the bias and `_closed`, which other threads read
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def submit(self, question: str, reference: str, response: str, correct: bool | None = None) -> Future[float]:
        """Return the future of a grade: 0 to 1 in quarters, or for `pairwise` -1, 0 or 1.

        `correct`, where something else knows it, sets answers apart for the monitor of length bias.
        Raises: JudgeError once closed; the future raises it where there is no grade.
        """
        work = self._grade(question, reference, response[:MAX_RESPONSE_CHARS], correct)
        with self._lock:  # what comes before `close` has begun when that ends everything
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise JudgeError("the judge was closed")

    def stats(self, reset: bool = False) -> dict[str, float]:
        """Return counts since the start or the last reset, and the length bias of the latest grades."""
        with self._lock:
            found = {**self._counts, "length_bias": self.bias.correlation()}
            if reset:
                self._counts = dict.fromkeys(self._counts, 0)
            return found

    def close(self) -> None:
        """Return when all requests have ended; what had no grade raises JudgeError. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    async def _grade(self, question: str, reference: str, response: str, correct: bool | None) -> float:
        key = hashlib.blake2b(json.dumps([question, reference, response]).encode(), digest_size=16).hexdigest()
        if key in self._cache:
            self._count("cached")
            self._cache.move_to_end(key)
            return self._cache[key]
        if key in self._under_way:
            self._count("cached")
        else:
            task = asyncio.ensure_future(self._new_grade(key, question, reference, response, correct))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        try:
            return await asyncio.shield(self._under_way[key])
        except asyncio.CancelledError:
            raise JudgeError("the judge was closed") from None
        except JudgeError:
            self._count("failed")
            raise

    async def _new_grade(self, key: str, question: str, reference: str, response: str, correct: bool | None) -> float:
        submitted = time.monotonic()
        async with self._slots:
            if self._failed_in_row >= max(_LEAST_DOWN, self.options.concurrency) and submitted < self._failed_at:
                raise JudgeError(f"not asked, since {self._failed_in_row} answers in a row got no grade: {self._why}")
            try:
                grade = await self._asked_grade(question, reference, response)
            except JudgeError as error:
                self._failed_in_row += 1
                self._failed_at, self._why = time.monotonic(), str(error)
                raise
            self._failed_in_row = 0
        self._cache[key] = grade
        while len(self._cache) > self.options.cache:
            self._cache.popitem(last=False)
        with self._lock:
            self.bias.record(grade, len(response), correct)
        return grade

    async def _asked_grade(self, question: str, reference: str, response: str) -> float:
        deadline = time.monotonic() + self.options.timeout_s
        if self.options.pairwise:
            return await self._pairwise(question, reference, response, deadline)
        values = {"question": question, "reference": reference, "response": response}
        return (int(await self._ask(values, "12345", deadline)) - 1) / 4

    async def _pairwise(self, question: str, reference: str, response: str, deadline: float) -> float:
        """Ask in both orders. A preference that depends on the order is none."""
        choices = ("A", "B", "TIE")
        first = await self._ask({"question": question, "first": response, "second": reference}, choices, deadline)
        second = await self._ask({"question": question, "first": reference, "second": response}, choices, deadline)
        ahead = {"A": 1.0, "B": -1.0, "TIE": 0.0}
        return ahead[first] if ahead[first] == -ahead[second] else 0.0

    async def _ask(self, values: dict[str, str], choices: Collection[str], deadline: float) -> str:
        """Return the judge's choice.

        An attempt has half of the time left, so that a hanging one leaves time for the next; the last one has all.
        """
        wait, reason = self.options.backoff_s, ""
        for attempt in range(self.options.retries + 1):
            left = deadline - time.monotonic()
            nonce = secrets.token_hex(6)
            prompt = self._template.substitute(values, nonce=nonce)
            self._spend()
            try:
                share = max(_LEAST_S, left if attempt == self.options.retries else left / 2)
                return _choice(await self._client.ask(prompt, share), nonce, choices)
            except RetryableError as error:
                reason, pause = str(error), wait if error.wait_s is None else error.wait_s
            if attempt < self.options.retries:
                await self._pause(pause, deadline, reason)
                wait *= 2
        raise JudgeError(f"no verdict after {self.options.retries + 1} attempts: {reason}")

    async def _pause(self, seconds: float, deadline: float, reason: str) -> None:
        """Wait before the next attempt. Raises JudgeError where none would be in time."""
        if time.monotonic() + seconds >= deadline:
            raise JudgeError(f"no verdict within {self.options.timeout_s:g} s: {reason}")
        self._count("retries")
        await asyncio.sleep(seconds)

    def _spend(self) -> None:
        if self._spent >= self.options.budget:
            raise JudgeError(f"the budget of {self.options.budget} requests is spent")
        self._spent += 1
        self._count("requests")


def _choice(text: str, nonce: str, choices: Collection[str]) -> str:
    line = text.strip().splitlines()[-1].strip().strip("*`").strip()
    found = re.fullmatch(rf"{nonce}: *(\w+)", line)
    if not found or found[1] not in choices or len(re.findall(rf"{nonce}: *\w+", text)) != 1:
        raise RetryableError("a reply without a verdict")
    return found[1]
