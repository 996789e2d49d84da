"""A request's JSON body to typed options; what isn't understood is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_cispo.configs.schema import MOST_STOP_BYTES, stop_bytes
from lightning_cispo.model.serve.errors import RequestError, shown

_COMMON = {
    *("model", "max_tokens", "temperature", "top_p", "top_k", "min_tokens", "n", "seed", "stop", "stream"),
    *("stream_options", "logprobs", "thinking_tokens"),
}
_CHAT = {"messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls"}
# These say nothing about the answer.
_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
# These are understood as far as they change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": ("", None),
    "response_format": ({"type": "text"}, None),
}


@dataclass(frozen=True)
class Options:
    """How to answer. `logprobs`: how many of the likeliest tokens to name beside each; None: no log-probabilities."""

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_tokens: int
    n: int
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: int | None
    thinking_tokens: int  # 0: no limit
    parallel_tool_calls: bool


def read_options(body: Mapping[str, Any], chat: bool) -> Options:
    """Raises RequestError naming the parameter."""
    known = _COMMON | _IGNORED | (_CHAT if chat else {"prompt"})
    for name, value in body.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise RequestError(f"{name}={shown(value)}: not supported by this server", name, "unsupported_value")
        elif name not in known:
            raise RequestError(f"Unrecognized request argument supplied: {shown(name)}", name, "unknown_parameter")
    limits = [_whole(body, name, 1) for name in ("max_tokens", "max_completion_tokens")]
    limit = min((limit for limit in limits if limit is not None), default=None)
    stream, usage = _flag(body, "stream"), _flag(_mapping(body, "stream_options"), "include_usage")
    return Options(
        max_tokens=limit if chat or limit is not None else 16,  # the protocol's default for completions
        temperature=_number(body, "temperature", 0, 2, 1.0),
        top_p=_number(body, "top_p", 0, 1, 1.0),
        top_k=_whole(body, "top_k", 0) or 0,
        min_tokens=_whole(body, "min_tokens", 0) or 0,
        n=_whole(body, "n", 1, 128) or 1,
        seed=_whole(body, "seed", -(1 << 63), (1 << 63) - 1),
        stop=_stops(body.get("stop")),
        stream=stream,
        include_usage=stream and usage,
        logprobs=_chat_logprobs(body) if chat else _whole(body, "logprobs", 0, 5),
        thinking_tokens=_whole(body, "thinking_tokens", 0) or 0,
        parallel_tool_calls=_flag(body, "parallel_tool_calls", True),
    )


def _chat_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted, top = _flag(body, "logprobs"), _whole(body, "top_logprobs", 0, 20)
    if top and not wanted:
        raise RequestError("top_logprobs needs logprobs=true", "top_logprobs")
    return (top or 0) if wanted else None


def _whole(body: Mapping[str, Any], name: str, low: int, high: int = (1 << 31) - 1) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name}={shown(value)}: must be an integer from {low} to {high}", name, "invalid_value")
    return value


def _number(body: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (name == "top_p" and value == 0):
        raise RequestError(f"{name}={shown(value)}: must be a number from {low} to {high}", name, "invalid_value")
    return float(value)


def _flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = default if body.get(name) is None else body[name]
    if not isinstance(value, bool):
        raise RequestError(f"{name}={shown(value)}: must be true or false", name, "invalid_type")
    return value


def _mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = {} if body.get(name) is None else body[name]
    if not isinstance(value, Mapping):
        raise RequestError(f"{name}: must be an object", name, "invalid_type")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(stop, str) and stop for stop in stops):
        raise RequestError("stop: must be a text or up to four texts, none empty", "stop", "invalid_value")
    if stop_bytes(stops) > MOST_STOP_BYTES:
        raise RequestError(f"stop: must be at most {MOST_STOP_BYTES} bytes together", "stop", "invalid_value")
    return tuple(stops)
