"""Pieces of text to the choices of an answer, whole or streamed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lightning_cispo.model.chat import CALLS
from lightning_cispo.model.generation.requests import Token
from lightning_cispo.model.serve.errors import RequestError
from lightning_cispo.model.serve.logprobs import chat_logprobs, completion_logprobs
from lightning_cispo.model.serve.options import Options
from lightning_cispo.model.serve.runner import Piece
from lightning_cispo.model.serve.text import ReplySplitter
from lightning_cispo.model.serve.wire import FINISH, tool_calls
from lightning_cispo.rewards.calls import ToolCall


class Answer:
    """Gathers what each choice has said so far."""

    chat: bool

    def __init__(self, tokenizer: Any, options: Options, prompts: int = 1):
        self.tokenizer, self.wants_logprobs = tokenizer, options.logprobs is not None
        count = options.n * prompts
        self.texts = [""] * count
        self.said: list[list[Token]] = [[] for _ in range(count)]
        self.stops = [""] * count

    @property
    def tokens(self) -> int:
        return sum(map(len, self.said))

    def take(self, piece: Piece) -> None:
        self.texts[piece.sample] += piece.text
        self.said[piece.sample] += piece.tokens
        self.stops[piece.sample] = piece.stop or ""

    def choices(self) -> list[dict[str, Any]]:
        """All of a whole answer."""
        raise NotImplementedError

    def opening(self) -> list[dict[str, Any]]:
        """What a stream begins with."""
        return []

    def stream(self, piece: Piece) -> list[dict[str, Any]]:
        """The chunks that a piece brings."""
        raise NotImplementedError

    def _choice(self, index: int, content: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}
        # Beyond the protocol: the engine's own reason.
        return choice | ({"stop_reason": self.stops[index]} if finish else {})


class TextAnswer(Answer):
    chat = False

    def choices(self) -> list[dict[str, Any]]:
        return [
            self._choice(i, {"text": text}, self._logprobs(said, 0), FINISH.get(stop, "stop"))
            for i, (text, said, stop) in enumerate(zip(self.texts, self.said, self.stops, strict=True))
        ]

    def stream(self, piece: Piece) -> list[dict[str, Any]]:
        offset = len(self.texts[piece.sample])
        self.take(piece)
        finish = FINISH.get(piece.stop, "stop") if piece.stop else None
        return [self._choice(piece.sample, {"text": piece.text}, self._logprobs(piece.tokens, offset), finish)]

    def _logprobs(self, tokens: list[Token], offset: int) -> Any:
        return completion_logprobs(tokens, self.tokenizer, offset) if self.wants_logprobs else None


class ChatAnswer(Answer):
    """Thinking goes into `reasoning_content`, the answer into `content`, calls of offered tools into `tool_calls`."""

    chat = True

    def __init__(self, tokenizer: Any, options: Options, offered: Collection[str], forced: str = ""):
        """`offered`: names of the tools that may be called. `forced`: what the prompt has begun of every response."""
        super().__init__(tokenizer, options)
        self.offered, self.parallel, self.forced = offered, options.parallel_tool_calls, forced
        self.texts = [forced] * len(self.texts)
        self.splitters = [ReplySplitter(bool(offered)) for _ in range(options.n)]
        for splitter in self.splitters:
            splitter.push(forced)

    def choices(self) -> list[dict[str, Any]]:
        return [self._whole(index) for index in range(len(self.texts))]

    def _whole(self, index: int) -> dict[str, Any]:
        splitter = ReplySplitter(bool(self.offered))
        thinking, content = splitter.push(self.texts[index], final=True)
        calls = self._calls(index, splitter)
        message: dict[str, Any] = {"role": "assistant", "content": content + ("" if calls else splitter.rest)}
        if thinking:
            message["reasoning_content"] = thinking
        finish = FINISH.get(self.stops[index], "stop")
        if calls:
            message |= {"tool_calls": tool_calls(calls), "content": content or None}
            finish = "tool_calls"
        return self._choice(index, {"message": message}, self._logprobs(self.said[index]), finish)

    def _calls(self, index: int, splitter: ReplySplitter) -> list[ToolCall]:
        """Of offered tools, after the end of a choice."""
        calls = CALLS.parse(self.texts[index]).calls if splitter.rest else []
        calls = [call for call in calls if call.name in self.offered]
        if self.forced and not calls:
            raise RequestError("the model's call is malformed or unfinished; try again or raise max_tokens", status=500)
        return calls if self.parallel else calls[:1]

    def opening(self) -> list[dict[str, Any]]:
        delta = {"delta": {"role": "assistant", "content": ""}}
        return [self._choice(index, delta, None, None) for index in range(len(self.texts))]

    def stream(self, piece: Piece) -> list[dict[str, Any]]:
        self.take(piece)
        splitter, index = self.splitters[piece.sample], piece.sample
        thinking, content = splitter.push(piece.text, final=piece.stop is not None)
        deltas: list[dict[str, Any]] = [{"reasoning_content": thinking}] if thinking else []
        finish = FINISH.get(piece.stop, "stop") if piece.stop else None
        if piece.stop and splitter.rest:
            calls = self._calls(index, splitter)
            if calls:
                deltas += [{"content": content}] if content else []
                content, finish = "", "tool_calls"
                deltas.append({"tool_calls": tool_calls(calls, numbered=True)})
            else:
                content += splitter.rest
        if content or (piece.tokens and self.wants_logprobs and not deltas):
            deltas.append({"content": content})
        chunks = [self._choice(index, {"delta": delta}, None, None) for delta in deltas]
        if chunks and piece.tokens:
            chunks[0]["logprobs"] = self._logprobs(piece.tokens)
        return chunks + ([self._choice(index, {"delta": {}}, None, finish)] if finish else [])

    def _logprobs(self, tokens: list[Token]) -> Any:
        return chat_logprobs(tokens, self.tokenizer) if self.wants_logprobs else None
