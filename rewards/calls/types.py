"""Define what a reply's tool calls are parsed into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class CallError(ValueError):
    """Report a tool call that cannot be rendered. The message is one line and names the tool."""


class ToolError(ValueError):
    """Report a tool's definition that cannot be rendered. The message is one line and gives its index."""


@dataclass(frozen=True)
class ToolCall:
    """Hold one call. `arguments` has JSON types only: no NaN, no infinity."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """Hold a response in its parts.

    `errors` are single lines that can be shown to the model. `sound` is whether everything that belongs to the calls'
    syntax is used as the syntax has it; a reply without calls is sound. `answer` is all that follows the thinking, as
    it stands.
    """

    thinking: str
    text: str  # the answer, without its tool calls
    calls: list[ToolCall] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sound: bool = True
    answer: str = ""
