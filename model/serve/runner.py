"""The engine in a thread of its own, and requests as asynchronous streams of what it makes."""

from __future__ import annotations

import asyncio
import itertools
import queue
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_cispo.model.chat import thinking_open
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.generation.requests import Completion, Interruption, Request, Token
from lightning_cispo.model.serve.errors import RequestError
from lightning_cispo.model.serve.options import Options
from lightning_cispo.model.serve.text import GrowingText
from lightning_cispo.model.spelling import spelled_text
from lightning_cispo.model.tokenizer import encode, eos_ids

_CLOSING = "\n</think>\n\n"


@dataclass(frozen=True)
class Piece:
    """What a step adds to one sample: settled text, the tokens behind it, and at the end why it ended."""

    sample: int
    text: str
    tokens: list[Token]
    stop: str | None = None


@dataclass
class _Open:
    """A request whose samples are not all finished."""

    stream: asyncio.Queue[Piece | Exception]
    texts: list[GrowingText]
    unsent: list[list[Token]]
    left: int


@dataclass
class Runner:
    """Everything of the engine happens in one thread; others hand it calls to make between steps."""

    engine: Engine
    tokenizer: Any
    max_waiting: int
    failure: BaseException | None = None
    refusal: str = ""  # why no request is accepted any more
    _open: dict[int, _Open] = field(default_factory=dict)
    _ids: Any = field(default_factory=itertools.count)
    _calls: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    _outbox: list[tuple[asyncio.Queue, Piece]] = field(default_factory=list)

    def start(self) -> None:
        """Begin to serve the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._calls.put(None)
        self._thread.join()

    @property
    def open_requests(self) -> int:
        return len(self._open)

    async def generate(self, prompt: list[int], options: Options) -> AsyncGenerator[Piece, None]:
        """Pieces of all samples until each has ended. Leaving the iteration cancels the request.

        Raises RequestError for a request that can't be served.
        """
        if self.refusal:
            raise RequestError(self.refusal, status=503)
        if len(self._open) >= self.max_waiting:
            raise RequestError(f"{self.max_waiting} requests are open already; try again later", status=429)
        number, stream = next(self._ids), asyncio.Queue[Piece | Exception]()
        request = self._request(number, prompt, options)
        texts = [GrowingText(self.tokenizer, options.stop, options.min_tokens) for _ in range(options.n)]
        self._open[number] = _Open(stream, texts, [[] for _ in range(options.n)], options.n)
        self._calls.put(lambda: self.engine.submit(request))
        left = options.n
        try:
            while left:
                piece = await stream.get()
                if isinstance(piece, Exception):
                    raise piece
                left -= piece.stop is not None
                yield piece
        finally:
            self._open.pop(number, None)
            if left:
                self._calls.put(lambda: self.engine.cancel(number))

    def _request(self, number: int, prompt: list[int], options: Options) -> Request:
        room = self.engine.max_length - len(prompt)
        limit = options.max_tokens if options.max_tokens is not None else max(1, room)
        seed = options.seed if options.seed is not None else secrets.randbits(63)
        request = Request(
            number,
            np.array(prompt, np.int32),
            [stream_key("serve", seed, sample) for sample in range(options.n)],
            limit,
            options.temperature,
            options.top_p,
            options.top_k,
            min(options.min_tokens, limit),
            eos_ids(self.tokenizer)[1:],
            stop_strings=options.stop,
            interruption=self._interruption(options.thinking_tokens),
            observer=lambda token: self._observe(number, token),
            top_logprobs=options.logprobs or 0,
        )
        if wrong := self.engine.problem(request):
            oversized = len(prompt) + limit > self.engine.max_length
            raise RequestError(wrong, None, "context_length_exceeded" if oversized else "invalid_value")
        return request

    def _interruption(self, tokens: int) -> Interruption | None:
        def closed(response_T: np.ndarray) -> bool:
            return not thinking_open(spelled_text(self.tokenizer, response_T.tolist()))

        return Interruption(tokens, encode(self.tokenizer, _CLOSING), closed) if tokens else None

    def _run(self) -> None:
        try:
            while self._take_calls():
                for completion in self.engine.step():
                    self._finish(completion)
                self._deliver()
        except BaseException as error:  # whoever waits is told, and no more is accepted
            self.failure = error
            self._loop.call_soon_threadsafe(self.refuse, "the engine has failed; the server must be restarted")
            raise

    def _take_calls(self) -> bool:
        """Make the calls that have come; wait for one if there is nothing else to do. False: it is over."""
        while not self.engine.has_work or not self._calls.empty():
            call = self._calls.get()
            if call is None:
                return False
            call()
        return True

    def _observe(self, number: int, token: Token) -> None:
        """In the engine's thread: text grows."""
        request = self._open.get(number)
        if request is None:  # its client has left; the cancellation is on its way
            return
        text, unsent = request.texts[token.sample], request.unsent[token.sample]
        unsent.append(token)
        settled = text.push(token.id)
        if settled:
            self._send(request, Piece(token.sample, settled, list(unsent)))
            unsent.clear()

    def _finish(self, completion: Completion) -> None:
        request = self._open.get(completion.request_id)
        if request is not None:
            sample = completion.sample
            rest = request.texts[sample].finish()
            self._send(request, Piece(sample, rest, list(request.unsent[sample]), completion.stop))

    def _send(self, request: _Open, piece: Piece) -> None:
        self._outbox.append((request.stream, piece))

    def _deliver(self) -> None:
        """All of a step at once: waking the event loop is the dear part."""
        if self._outbox:
            pieces, self._outbox = self._outbox, []
            self._loop.call_soon_threadsafe(_put_all, pieces)

    def refuse(self, why: str) -> None:
        """In the event loop: what is open fails, and all that comes is refused."""
        self.refusal = why
        for request in self._open.values():
            request.stream.put_nowait(RequestError(why, status=503))


def _put_all(pieces: list[tuple[asyncio.Queue, Piece]]) -> None:
    for stream, piece in pieces:
        stream.put_nowait(piece)
