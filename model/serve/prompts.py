"""The part of a request that becomes a prompt: messages and tools, or text and token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_cispo.model.chat import render
from lightning_cispo.model.serve.errors import RequestError, shown
from lightning_cispo.model.tokenizer import encode, encode_filled
from lightning_cispo.rewards.calls import ToolError


def chat_prompt(body: Mapping[str, Any], tokenizer: Any) -> list[int]:
    """Token ids of the conversation in M1's template. Raises RequestError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: must be a list of at least one message", "messages", "invalid_type")
    names: dict[str, str] = {}  # of called tools, by the call's id
    turns = _merged([_turn(message, f"messages[{i}]", names) for i, message in enumerate(messages)])
    try:
        return encode_filled(tokenizer, render, turns, tools(body))
    except ToolError as error:
        raise RequestError(str(error), "tools", "invalid_value") from None
    except RecursionError:
        raise RequestError("tools or tool_calls: nested too deeply", "tools", "invalid_value") from None
    except (ValueError, TypeError) as error:
        raise RequestError(f"messages: {error}", "messages") from None


def tools(body: Mapping[str, Any]) -> list[Any] | None:
    """The definitions of functions, as the template writes them; None if the model is not to call any."""
    given, choice = body.get("tools"), body.get("tool_choice") or "auto"
    if choice not in ("auto", "none"):
        raise RequestError(
            f"tool_choice={shown(choice)}: auto and none are supported", "tool_choice", "unsupported_value"
        )
    if given is None:
        return None
    if not isinstance(given, list):
        raise RequestError("tools: must be a list", "tools", "invalid_type")
    for i, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"tools[{i}]: must be a function with a name", "tools", "invalid_value")
    return [tool["function"] for tool in given] if choice == "auto" and given else None


def _turn(message: Any, where: str, names: dict[str, str]) -> dict[str, Any]:
    """A message as the template takes it; tool results are named after the calls they answer."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError(f"{where}: must be an object with a role", "messages", "invalid_type")
    role = "system" if message["role"] == "developer" else message["role"]
    if role not in ("system", "user", "assistant", "tool"):
        raise RequestError(f"{where}.role={shown(role)}: must be system, user, assistant or tool", "messages")
    turn: dict[str, Any] = {"role": role, "content": _content(message.get("content"), where, role)}
    calls = message.get("tool_calls")
    if role == "assistant" and calls:
        if not isinstance(calls, list) or not all(isinstance(_called(call).get("name"), str) for call in calls):
            raise RequestError(f"{where}.tool_calls: each must have a function with a name", "messages")
        if not all(isinstance(_called(call).get("arguments"), (str, dict)) for call in calls):
            raise RequestError(f"{where}.tool_calls: each function must have arguments", "messages")
        names.update({str(call.get("id")): call["function"]["name"] for call in calls})
        turn["tool_calls"] = calls
    if role == "tool":
        name = names.get(str(message.get("tool_call_id"))) or message.get("name")
        if not name:
            raise RequestError(f"{where}.tool_call_id: answers no call of an earlier message", "messages")
        turn["content"] = [{"name": name, "text": turn["content"]}]
    return turn


def _merged(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tool results that follow each other in one turn: M1 reads those of parallel calls so."""
    merged: list[dict[str, Any]] = []
    for turn in turns:
        if merged and turn["role"] == merged[-1]["role"] == "tool":
            merged[-1]["content"] += turn["content"]
        else:
            merged.append(turn)
    return merged


def _called(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    return function if isinstance(function, dict) else {}


def _content(content: Any, where: str, role: str) -> str:
    if content is None and role == "assistant":
        return ""
    if isinstance(content, str):
        return content
    parts: list[Any] = content if isinstance(content, list) else [None]
    if not all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in parts):
        raise RequestError(f"{where}.content: must be text or a list of text parts", "messages", "invalid_type")
    return "".join(part["text"] for part in parts)


def completion_prompts(body: Mapping[str, Any], tokenizer: Any, vocabulary: int) -> list[list[int]]:
    """Token ids of each prompt: a text, texts, ids, or lists of ids. Raises RequestError."""
    given = body.get("prompt")
    prompts: list[Any] = [given]
    if isinstance(given, list) and not all(type(i) is int for i in given):
        prompts = given
    found = []
    for prompt in prompts:
        if isinstance(prompt, str):
            found.append(encode(tokenizer, prompt))
        elif isinstance(prompt, list) and all(type(i) is int and 0 <= i < vocabulary for i in prompt):
            found.append(prompt)
        else:
            raise RequestError("prompt: must be text, token ids, or a list of either", "prompt", "invalid_type")
    if not all(found):
        raise RequestError("prompt: is empty", "prompt", "invalid_value")
    return found
