"""Routes of the server: chat completions, completions, models, health."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, NamedTuple

from aiohttp import web

from lightning_cispo.model.serve.answers import Answer, ChatAnswer, TextAnswer
from lightning_cispo.model.serve.errors import RequestError, in_shape, shown, told
from lightning_cispo.model.serve.metrics import COUNTED, Metrics
from lightning_cispo.model.serve.options import Options, read_options
from lightning_cispo.model.serve.prompts import chat_prompt, completion_prompts, forced_call, prompt_ids, tools
from lightning_cispo.model.serve.runner import Piece, Runner
from lightning_cispo.model.serve.wire import Envelope, event, usage


class Limits(NamedTuple):
    """What a request may weigh: a body takes memory, and a prompt CPU time before a client that leaves is noticed."""

    body_bytes: int
    prompt_chars: int


class Server:
    """The routes over one runner. `checked` is the middleware that refuses strangers (`guard`)."""

    def __init__(self, runner: Runner, name: str, limits: Limits, checked: Any):
        self.runner, self.name, self.limits = runner, name, limits
        self.metrics = Metrics(runner)
        layers = [self.metrics.middleware(), in_shape, checked]
        self.app = web.Application(client_max_size=limits.body_bytes, middlewares=layers)
        self.app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.complete),
                web.get("/v1/models", self.models),
                web.get("/v1/models/{id:.+}", self.model),
                web.get("/health", self.health),
                web.get("/metrics", self.metrics.page),
            ]
        )
        self.app.cleanup_ctx.append(self._lifetime)
        self.app.on_shutdown.append(self._shutdown)

    async def _lifetime(self, _: web.Application) -> AsyncIterator[None]:
        self.runner.start()
        yield
        await asyncio.to_thread(self.runner.stop)

    async def _shutdown(self, _: web.Application) -> None:
        self.runner.refuse("the server is shutting down")

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["id"])
        return web.json_response(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "lightning-cispo"}

    def _check_model(self, name: Any) -> None:
        if name != self.name:
            wrong = f"model={shown(name)}: this server has {self.name!r}"
            raise RequestError(wrong, "model", "model_not_found", 404)

    async def health(self, _: web.Request) -> web.Response:
        """What is in use, beside whether the engine lives."""
        engine, well = self.runner.engine, self.runner.failure is None
        pool = engine.table.pool
        status = {
            "status": "ok" if well else "failed",
            "open_requests": self.runner.open_requests,
            "running": engine.running,
            "slots": engine.slots,
            "pages_in_use": pool.total - pool.available,
            **engine.reserved,
        }
        return web.json_response(status, status=200 if well else 503)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        options, offered = read_options(body, chat=True), tools(body)
        prompt = await asyncio.to_thread(chat_prompt, body, self.runner.tokenizer, self.limits.prompt_chars)
        names = {tool["name"] for tool in offered or ()}
        answer = ChatAnswer(self.runner.tokenizer, options, names, forced_call(body))
        return await self._answer(request, [prompt], options, answer)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        options, vocabulary = read_options(body, chat=False), self.runner.engine.network.config.vocab_size
        given = completion_prompts(body, vocabulary, self.limits.prompt_chars)
        if len(given) > self.runner.max_waiting:
            wrong = f"prompt: has {len(given)} prompts, this server takes {self.runner.max_waiting} at once"
            raise RequestError(wrong, "prompt", "invalid_value")
        # One at a time: a client that leaves is noticed between two of them.
        prompts = [await asyncio.to_thread(prompt_ids, prompt, self.runner.tokenizer) for prompt in given]
        answer = TextAnswer(self.runner.tokenizer, options, len(prompts))
        return await self._answer(request, prompts, options, answer)

    async def _body(self, request: web.Request) -> dict[str, Any]:
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            raise RequestError("the body is not JSON") from None
        except web.RequestPayloadError:
            raise RequestError("the body is not in the encoding that its headers name") from None
        if not isinstance(body, dict):
            raise RequestError("the body must be a JSON object")
        self._check_model(body.get("model"))
        return body

    async def _answer(
        self, request: web.Request, prompts: list[list[int]], options: Options, answer: Answer
    ) -> web.StreamResponse:
        envelope, read = Envelope(answer.chat, self.name), sum(map(len, prompts))
        async with AsyncExitStack() as stack:
            stack.callback(lambda: request.update({COUNTED: {"prompt": read, "completion": answer.tokens}}))
            pieces = await stack.enter_async_context(aclosing(_merged(self.runner, prompts, options)))
            if not options.stream:
                async for piece in pieces:
                    answer.take(piece)
                return web.json_response(envelope.whole(answer.choices(), usage(read, answer.tokens)))
            return await self._stream(request, pieces, envelope, answer, read if options.include_usage else None)

    async def _stream(
        self, request: web.Request, pieces: AsyncIterator[Piece], envelope: Envelope, answer: Answer, read: int | None
    ) -> web.StreamResponse:
        """The answer as it comes; its usage last, if `read` prompt tokens are to be counted in it."""
        first = await anext(pieces)  # decides whether this is a stream or a refusal
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        try:
            for choice in answer.opening():
                await response.write(event(envelope.chunk([choice])))
            async for piece in _with_first(first, pieces):
                for choice in answer.stream(piece):
                    await response.write(event(envelope.chunk([choice])))
            if read is not None:
                await response.write(event(envelope.chunk([], usage(read, answer.tokens))))
        except ConnectionError:
            raise
        except Exception as error:  # too late for a status of its own
            await response.write(event(told(error).body()))
        await response.write(event("[DONE]"))
        return response


async def _merged(runner: Runner, prompts: list[list[int]], options: Options) -> AsyncGenerator[Piece, None]:
    """The pieces of all prompts; sample s of prompt p is choice p * n + s."""
    if len(prompts) == 1:
        async with aclosing(runner.generate(prompts[0], options)) as pieces:
            async for piece in pieces:
                yield piece
        return
    merged: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    async def pump(index: int, prompt: list[int]) -> None:
        try:
            async with aclosing(runner.generate(prompt, options)) as pieces:
                async for piece in pieces:
                    merged.put_nowait(replace(piece, sample=index * options.n + piece.sample))
            merged.put_nowait(None)
        except Exception as error:  # raised again where the pieces are read
            merged.put_nowait(error)

    pumps = [asyncio.create_task(pump(index, prompt)) for index, prompt in enumerate(prompts)]
    try:
        left = len(prompts)
        while left:
            item = await merged.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _with_first(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece
