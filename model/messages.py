"""Check chat messages, as OpenAI's clients and data sets write them, and bring them into one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_TEXT_PARTS = ("text", "input_text", "output_text")


class MessageError(ValueError):
    """Report a message that cannot be read. The message is one line and gives its index."""


def normalised(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return turns that have a role and content each, and tool_calls where the assistant made some.

    Content is text; of a tool turn it is [{"name": str, "text": str}, ...]. A result without a name is named after the
    call of an earlier turn that `tool_call_id` gives. Results that follow each other become one turn: M1 reads those
    of parallel calls so. Raises MessageError.
    """
    names: dict[str, str] = {}  # of called tools, by the call's id
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        turn = _turn(message, f"messages[{index}]", names)
        if turns and turn["role"] == turns[-1]["role"] == "tool":
            turns[-1]["content"] += turn["content"]
        else:
            turns.append(turn)
    return turns


def _turn(message: Any, where: str, names: dict[str, str]) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise MessageError(f"{where}: must be an object with a role")
    role = _ROLES.get(message["role"])
    if role is None:
        raise MessageError(f"{where}.role={message['role'][:40]!r}: must be system, user, assistant or tool")
    if role == "tool":
        return {"role": role, "content": _results(message, where, names)}
    calls = message.get("tool_calls")
    content = message.get("content")
    if role == "assistant" and calls:
        _remember(calls, where, names)
        return {"role": role, "content": _text(content or "", f"{where}.content"), "tool_calls": calls}
    if role == "assistant" and content is None:
        content = ""
    return {"role": role, "content": _text(content, f"{where}.content")}


def _remember(calls: Any, where: str, names: dict[str, str]) -> None:
    if not isinstance(calls, (list, tuple)):
        raise MessageError(f"{where}.tool_calls: must be a list of calls")
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("name"), str) and call.get("id") is not None:
            names[str(call["id"])] = function["name"]


def _results(message: Mapping[str, Any], where: str, names: dict[str, str]) -> list[dict[str, str]]:
    """The named results of one tool message."""
    own = message.get("name")
    name = names.get(str(message.get("tool_call_id")), own)
    content = message.get("content")
    if isinstance(content, (list, tuple)) and content and all(isinstance(x, Mapping) and "name" in x for x in content):
        return [_result(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
    if not isinstance(name, str):
        raise MessageError(f"{where}: must have a name, or a tool_call_id that an earlier call has")
    return [{"name": name, "text": _text(content, f"{where}.content")}]


def _result(part: Mapping[str, Any], where: str) -> dict[str, str]:
    if not isinstance(part["name"], str) or not isinstance(part.get("text"), str):
        raise MessageError(f"{where}: must have a name and text")
    return {"name": part["name"], "text": part["text"]}


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts: Sequence[Any] = content if isinstance(content, (list, tuple)) else (None,)
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise MessageError(f"{where}: must be text or a list of text parts")
    return "".join(map(str, texts))
