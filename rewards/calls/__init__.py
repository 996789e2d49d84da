"""Parse and render tool calls, a table by syntax. Text only: serving, scoring and environments share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_cispo.rewards.calls import minimax_m1
from lightning_cispo.rewards.calls.types import CallError, Reply, ToolCall, ToolError

__all__ = ["SYNTAXES", "CallError", "Reply", "Syntax", "ToolCall", "ToolError"]


@dataclass(frozen=True)
class Syntax:
    """Hold the functions of one syntax.

    parse: a response to its parts; never raises. render_calls: calls to the end of an assistant's turn. render_tools:
    definitions to the text of the turn that offers them. The renderers raise CallError and ToolError. open_call: a
    tool's name to the text that a call of it begins with; of "": what any call begins with.
    """

    parse: Callable[[str], Reply]
    render_calls: Callable[[Sequence[ToolCall | Mapping[str, Any]]], str]
    render_tools: Callable[[Sequence[Any]], str]
    open_call: Callable[[str], str]


SYNTAXES = {
    "minimax_m1": Syntax(minimax_m1.parse, minimax_m1.render_calls, minimax_m1.render_tools, minimax_m1.open_call)
}
