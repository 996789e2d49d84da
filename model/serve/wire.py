"""The JSON objects of OpenAI's protocol."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from lightning_cispo.rewards.calls import ToolCall

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
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def tool_calls(calls: Sequence[ToolCall], numbered: bool = False) -> list[dict[str, Any]]:
    found = []
    for index, call in enumerate(calls):
        # Half a surrogate pair, which no UTF-8 can hold, stays the escape that the model wrote.
        arguments = json.dumps(call.arguments, ensure_ascii=False).encode(errors="backslashreplace").decode()
        function = {"name": call.name, "arguments": arguments}
        item: dict[str, Any] = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
        found.append(({"index": index} if numbered else {}) | item)
    return found
