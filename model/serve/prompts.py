"""The part of a request that becomes a prompt: messages and tools, or text and token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_cispo.model.chat import CALLS, render
from lightning_cispo.model.messages import MessageError
from lightning_cispo.model.serve.errors import RequestError, shown
from lightning_cispo.model.tokenizer import encode, encode_filled
from lightning_cispo.rewards.calls import ToolError


def chat_prompt(body: Mapping[str, Any], tokenizer: Any, max_chars: int) -> list[int]:
    """Tokenize the conversation in M1's template, with the beginning of a call that the client demands.

    Raises RequestError, also for more than `max_chars` characters of messages and tools together.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: must be a list of at least one message", "messages", "invalid_type")
    offered = tools(body)
    try:
        _bound("messages", text_length((messages, offered)), max_chars)
        return [*encode_filled(tokenizer, render, messages, offered), *encode(tokenizer, forced_call(body))]
    except ToolError as error:
        raise RequestError(str(error), "tools", "invalid_value") from None
    except RecursionError:
        raise RequestError("tools or tool_calls: nested too deeply", "tools", "invalid_value") from None
    except ValueError as error:
        said = str(error) if isinstance(error, MessageError) else f"messages: {error}"
        raise RequestError(said, "messages") from None


def tools(body: Mapping[str, Any]) -> list[Any] | None:
    """The definitions of functions, as the template writes them; None if the model is not to call any."""
    given, choice = body.get("tools"), body.get("tool_choice") or "auto"
    demanded = _demanded(choice)
    if given is None:
        if demanded is not None:
            raise RequestError(f"tool_choice={shown(choice)}: needs tools", "tool_choice", "invalid_value")
        return None
    if not isinstance(given, list):
        raise RequestError("tools: must be a list", "tools", "invalid_type")
    for i, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"tools[{i}]: must be a function with a name", "tools", "invalid_value")
    functions = [tool["function"] for tool in given]
    names = [function["name"] for function in functions]
    if demanded is not None and (not names or demanded not in (*names, "")):
        raise RequestError(f"tool_choice={shown(choice)}: is no tool of the request", "tool_choice", "invalid_value")
    return functions if choice != "none" and functions else None


def forced_call(body: Mapping[str, Any]) -> str:
    """The text that an answer begins with where the client demands a call; empty elsewhere. Raises RequestError."""
    demanded = _demanded(body.get("tool_choice") or "auto")
    return "" if demanded is None else CALLS.open_call(demanded)


def _demanded(choice: Any) -> str | None:
    """The tool that must be called: its name, "" for any, None where the model decides. Raises RequestError."""
    if choice in ("auto", "none"):
        return None
    if choice == "required":
        return ""
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RequestError(
            f"tool_choice={shown(choice)}: must be auto, none, required or a function with a name",
            "tool_choice",
            "unsupported_value",
        )
    return function["name"]


def text_length(content: Any) -> int:
    """Characters of all strings in nested lists and mappings, keys included."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, Mapping):
        return sum(text_length(key) + text_length(value) for key, value in content.items())
    return sum(map(text_length, content)) if isinstance(content, (list, tuple)) else 0


def _bound(name: str, found: int, most: int) -> None:
    if found > most:
        wrong = f"{name}: {found} characters, must be at most {most}"
        raise RequestError(wrong, name, "context_length_exceeded")


def completion_prompts(body: Mapping[str, Any], vocabulary: int, max_chars: int) -> list[str | list[int]]:
    """The prompts of a request: a text, texts, ids, or lists of ids. Raises RequestError."""
    given = body.get("prompt")
    prompts: list[Any] = [given]
    if isinstance(given, list) and not all(type(i) is int for i in given):
        prompts = given
    for prompt in prompts:
        ids = isinstance(prompt, list) and all(type(i) is int and 0 <= i < vocabulary for i in prompt)
        if not ids and not isinstance(prompt, str):
            raise RequestError("prompt: must be text, token ids, or a list of either", "prompt", "invalid_type")
        if not prompt:
            raise RequestError("prompt: is empty", "prompt", "invalid_value")
        _bound("prompt", len(prompt), max_chars)
    if not prompts:
        raise RequestError("prompt: is empty", "prompt", "invalid_value")
    return prompts


def prompt_ids(prompt: str | list[int], tokenizer: Any) -> list[int]:
    """Tokenize a prompt that is text. Raises RequestError where nothing is left of it."""
    ids = encode(tokenizer, prompt) if isinstance(prompt, str) else prompt
    if not ids:
        raise RequestError("prompt: is empty", "prompt", "invalid_value")
    return ids
