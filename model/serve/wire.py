"""The JSON objects of OpenAI's protocol."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

from model.chat import ToolCall
from model.generation.requests import Token

FINISH = {"length": "length", "repetition": "length"}  # all other stops are "stop"


class Envelope:
    """What all objects of one answer have in common."""

    def __init__(self, chat: bool, model: str):
        self.id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        self.chat, self.model, self.created = chat, model, int(time.time())

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head("chat.completion" if self.chat else "text_completion"), "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, **({"usage": usage} if usage else {})}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode()


def tool_calls(calls: Sequence[ToolCall], numbered: bool = False) -> list[dict[str, Any]]:
    found = []
    for index, call in enumerate(calls):
        function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
        item: dict[str, Any] = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
        found.append(({"index": index} if numbered else {}) | item)
    return found


def chat_logprobs(tokens: Sequence[Token], tokenizer: Any) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}

    content = [
        {**entry(token.id, token.logprob), "top_logprobs": [entry(*pair) for pair in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], tokenizer: Any, offset: int) -> dict[str, Any]:
    texts = [tokenizer.decode([token.id]) for token in tokens]
    offsets = [offset + sum(map(len, texts[:i])) for i in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        # Reversed: of several ids with one text the likeliest is the last to be written.
        "top_logprobs": [{tokenizer.decode([i]): _finite(p) for i, p in reversed(token.top)} for token in tokens],
        "text_offset": offsets,
    }


def _finite(logprob: float) -> float:
    """JSON has no infinity; the protocol writes -9999 for what can't be drawn."""
    return logprob if math.isfinite(logprob) else -9999.0
