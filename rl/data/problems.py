"""A row as a problem: question or chat, gold answer, and the row itself for a user's verifier."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from lightning_cispo.configs.schema import ChatTemplate, DataConfig
from lightning_cispo.model.chat import render
from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.data.errors import DataError

_ABSENT = object()
_KINDS = {
    bool: "a boolean",
    bytes: "bytes",
    dict: "a struct",
    list: "a list",
    datetime: "a timestamp",
    float: "a number",
    int: "a number",
}
_ROLES = ("system", "user", "assistant", "tool")


def to_problem(row: Any, data: DataConfig, task: str) -> Problem:
    """The problem that a row holds. Raises DataError naming the column and what is wrong with it."""
    if not isinstance(row, Mapping):
        raise DataError(f"must be an object with the keys {data.prompt_key} and {data.answer_key}, not {_kind(row)}")
    entry: dict[str, Any] = {}
    asked = _column(row, "data.prompt_key", data.prompt_key)
    if isinstance(asked, list):
        entry["messages"], entry["tools"] = _chat(asked, row, data)
        question = _question(entry["messages"])
    elif isinstance(asked, str):
        question = asked
    else:
        raise DataError(f"{data.prompt_key!r} is {_kind(asked)}; must be text, or chat messages with role and content")
    if not question.strip():
        raise DataError(f"{data.prompt_key!r} is empty")
    raw = _text(_column(row, "data.answer_key", data.answer_key), data.answer_key)
    entry["solution"] = raw
    return Problem(question, _gold(raw, data), data.verifier, task, entry, _json_types(row))


def _column(row: Mapping[str, Any], setting: str, key: str) -> Any:
    """A column, or by a dotted key what lies in one."""
    value: Any = row.get(key, _ABSENT)
    if value is _ABSENT:
        value = row
        for part in key.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
            if value is _ABSENT:
                raise DataError(f"no {key!r} ({setting}); it has {', '.join(_keys(row, key))}")
    if value is None:
        raise DataError(f"{key!r} is empty")
    return value


def _keys(row: Mapping[str, Any], key: str) -> list[str]:
    inner = row.get(key.partition(".")[0])
    nested = [f"{key.partition('.')[0]}.{name}" for name in inner] if isinstance(inner, Mapping) else []
    return [*map(str, row), *nested]


def _text(value: Any, key: str) -> str:
    """A gold answer as text: numbers and dates as they are written."""
    if isinstance(value, (bool, datetime)) or not isinstance(value, (str, int, float, Decimal, date)):
        raise DataError(f"{key!r} is {_kind(value)}; must be text or a number")
    if isinstance(value, (float, Decimal)) and not math.isfinite(value):
        raise DataError(f"{key!r} is {value}; must be text or a finite number")
    try:
        text = str(value)
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{key!r}: {error}") from None
    if not text.strip():
        raise DataError(f"{key!r} is empty")
    return text


def _gold(raw: str, data: DataConfig) -> str:
    if data.answer_pattern is None:
        return raw
    found = _pattern(data.answer_pattern).search(raw)
    if found is None or not (found[1] or "").strip():
        raise DataError(f"data.answer_pattern={data.answer_pattern} finds no answer in ...{raw[-60:]!r}")
    return found[1].strip()


@lru_cache(maxsize=8)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _chat(messages: list[Any], row: Mapping[str, Any], data: DataConfig) -> tuple[list[dict[str, Any]], list[Any]]:
    """Turns that the chat template renders, and the tools offered. Raises DataError."""
    key = data.prompt_key
    if data.chat_template is ChatTemplate.plain:
        raise DataError(f"{key!r} holds chat messages, which data.chat_template=plain can't render; set minimax_m1")
    turns = [_turn(message, f"{key!r} message {number}") for number, message in enumerate(messages, 1)]
    if not any(turn["role"] == "user" for turn in turns) or turns[-1]["role"] == "assistant":
        raise DataError(f"{key!r} must hold a user's message and end before the assistant's")
    tools = row.get(data.tools_key) if data.tools_key else None
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise DataError(f"{data.tools_key!r} is text that is no JSON; must be a list of tools") from None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError(f"{data.tools_key!r} is {_kind(tools)}; must be a list of tools")
    tools = [_without_none(tool) for tool in tools or []]
    if tools or any(turn["role"] == "tool" or "tool_calls" in turn for turn in turns):
        try:
            render(turns, tools)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{key!r}: {error}") from None
    return turns, tools


def _turn(message: Any, name: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise DataError(f"{name} is {_kind(message)}; must have role and content")
    turn = {field: value for field, value in message.items() if value is not None}
    if turn.get("role") not in _ROLES:
        raise DataError(f"{name} has the role {turn.get('role')!r}; must be one of {', '.join(_ROLES)}")
    content = turn.setdefault("content", "")
    if isinstance(content, list):
        parts = [_without_none(part) if isinstance(part, Mapping) else part for part in content]
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
            raise DataError(f"{name} has parts that are no text")
        turn["content"] = [{"type": "text", **part} for part in parts]
    elif not isinstance(content, str):
        raise DataError(f"{name} has a content that is {_kind(content)}; must be text")
    if "tool_calls" in turn:
        turn["tool_calls"] = _without_none(turn["tool_calls"])
    return turn


def _question(turns: list[dict[str, Any]]) -> str:
    """The user's only message, or all turns but the system's by role: what judges and reports show."""
    shown = [(turn["role"], turn_text(turn)) for turn in turns if turn["role"] != "system"]
    if len(shown) == 1:
        return shown[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in shown)


def turn_text(turn: Mapping[str, Any]) -> str:
    """The text of a turn's content, its parts joined."""
    content = turn["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _without_none(value: Any) -> Any:
    """A nested value without the empty fields that Parquet gives every struct."""
    if isinstance(value, Mapping):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _json_types(value: Any) -> Any:
    """A row as it travels to a verifier's process: dates and decimals as text, bytes in base64."""
    if isinstance(value, Mapping):
        return {str(name): _json_types(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_types(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date) else str(value)


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return "text"
    return next((name for kind, name in _KINDS.items() if isinstance(value, kind)), type(value).__name__)
