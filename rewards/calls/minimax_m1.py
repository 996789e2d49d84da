"""Parse and render MiniMax-M1's tool calls.

After the thinking comes `<tool_calls>`, then one JSON object a line, `{"name": str, "arguments": object}`, then
`</tool_calls>`. A tag inside a JSON string is text. Source: the model's chat template and its function-call guide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_cispo.rewards.calls import strict_json
from lightning_cispo.rewards.calls.types import CallError, Reply, ToolCall, ToolError

_MAX_ERRORS = 10  # of one reply; more would only fill the model's context
_MAX_SHOWN_CHARS = 200
_THINK, _UNTHINK, _OPEN, _CLOSE = "<think>", "</think>", "<tool_calls>", "</tool_calls>"
_TAG = re.compile("</?think>|</?tool_calls>")
_END = re.compile("</tool_calls>|</think>")
# From anywhere in a block to the end of the line, to a tag that ends the block, or to a string without an end.
_LINE = re.compile(r'(?:[^"\n<]+|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|<(?!/tool_calls>|/think>))*')
_INSTRUCTIONS = (
    "</tools>\n\nIf you need to call tools, please respond with <tool_calls></tool_calls> XML tags, "
    "and provide tool-name and json-object of arguments, following the format below:\n"
    '<tool_calls>\n{"name": <tool-name-1>, "arguments": <args-json-object-1>}\n...\n</tool_calls>'
)


def parse(response: str) -> Reply:
    """Parse thinking, answer and tool calls of a response, in linear time. Never raises.

    The answer begins after the last `</think>`; a `<think>` left open hides all. A malformed call becomes an error
    beside the sound ones. The calls of a block that is never closed do not count.
    """
    return _Parser(response.lstrip()).reply()


def render_calls(calls: Sequence[ToolCall | Mapping[str, Any]]) -> str:
    """Render the block that ends an assistant's turn.

    calls: ToolCall, or {"name": str, "arguments": dict or JSON text}, which OpenAI's messages nest under "function".
        Arguments of None or blank text are {}.
    Raises: CallError for a call without a name, and for arguments that are no JSON object.
    """
    return "".join([f"{_OPEN}\n", *(f"{_call_line(call)}\n" for call in calls), _CLOSE])


def render_tools(tools: Sequence[Any]) -> str:
    """Render the turn that offers tools: one JSON definition a line, then how to call them. Raises ToolError."""
    lines = []
    for index, tool in enumerate(tools):
        try:
            lines.append(f"{strict_json.write(tool)}\n")
        except ValueError as error:
            raise ToolError(f"tools[{index}]: is no JSON: {error}") from None
    return "".join(["You are provided with these tools:\n<tools>\n", *lines, _INSTRUCTIONS])


def open_call(name: str) -> str:
    """Write the beginning of a block with one call, up to the tool's arguments; of "", up to the tool's name."""
    return f'{_OPEN}\n{{"name": ' + (f'{strict_json.write(name)}, "arguments": {{' if name else '"')


class _Parser:
    """Reads a response from left to right. The lists hold what came since the last `</think>`."""

    def __init__(self, body: str):
        self.body = body
        self.unquoted = 0  # up to here quotes are no strings: the line's last one has no end
        self._begin(0)

    def _begin(self, start: int) -> None:
        self.start = self.text_from = start
        self.text: list[str] = []
        self.calls: list[ToolCall] = []
        self.errors: list[str] = []
        self.thinks, self.sound, self.blocks = False, True, 0

    def reply(self) -> Reply:
        body, position = self.body, 0
        if body.startswith(_THINK):
            position = max(body.find(_UNTHINK), 0)
        while tag := _TAG.search(body, position):
            position = tag.end()
            if tag[0] == _UNTHINK:
                self._begin(position)
            elif tag[0] == _OPEN:
                self.text.append(body[self.text_from : tag.start()])
                position = self.text_from = self._block(position)
            else:
                self.thinks |= tag[0] == _THINK
                self.sound &= tag[0] != _CLOSE
        if self.thinks:
            return Reply(body.removeprefix(_THINK), "")
        thinking = body[: max(0, self.start - len(_UNTHINK))].removeprefix(_THINK)
        text = "".join([*self.text, body[self.text_from :]]).strip()
        one_block = self.blocks == bool(self.calls)
        return Reply(thinking, text, self.calls, self.errors, self.sound and one_block, body[self.start :])

    def _block(self, position: int) -> int:
        """Take the calls of a block whose inside begins at `position`. Returns the position after its end.

        A block that is never closed ends before the next `</think>` or with the text.
        """
        calls: list[ToolCall] = []
        errors: list[str] = []
        self.blocks += 1
        tag = None
        while tag is None and position < len(self.body):
            end = self._line_end(position)
            line = self.body[position:end].strip()
            if line:
                call, strict = _read_call(line)
                self.sound &= strict
                if isinstance(call, ToolCall):
                    calls.append(call)
                elif len(errors) < _MAX_ERRORS:
                    errors.append(call)
            tag = _END.match(self.body, end)
            position = min(end + 1, len(self.body))
        if tag and tag[0] == _CLOSE:
            self.calls += calls
            self.errors += errors[: _MAX_ERRORS - len(self.errors)]
            return tag.end()
        self.sound = False
        self.errors.append(f"{_OPEN} is opened but never closed with {_CLOSE}")
        return tag.start() if tag else position

    def _line_end(self, position: int) -> int:
        """Where a line of a block ends: at its newline, or at a tag that no string holds."""
        if position >= self.unquoted:
            end = self._match_line(position)
            if self.body[end : end + 1] != '"':
                return end
            newline = self.body.find("\n", end)
            self.unquoted, position = len(self.body) if newline < 0 else newline, end
        tag = _END.search(self.body, position, self.unquoted)
        return tag.start() if tag else self.unquoted

    def _match_line(self, position: int) -> int:
        found = _LINE.match(self.body, position)
        assert found  # it also matches nothing
        return found.end()


def _read_call(line: str) -> tuple[ToolCall | str, bool]:
    """Return the call, or what is wrong with it, and whether it is just as the syntax has it."""
    shown = line if len(line) <= _MAX_SHOWN_CHARS else line[:_MAX_SHOWN_CHARS] + "..."
    try:
        call = strict_json.read(line)
    except ValueError as error:
        return f"tool call is not one line of JSON ({error}): {shown}", False
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return f'tool call must be a JSON object with a "name": {shown}', False
    if not isinstance(call.get("arguments"), dict):
        return f'tool call {call["name"][:_MAX_SHOWN_CHARS]!r}: "arguments" must be a JSON object: {shown}', False
    return ToolCall(call["name"], call["arguments"]), len(call) == 2


def _call_line(call: ToolCall | Mapping[str, Any]) -> str:
    if isinstance(call, ToolCall):
        call = {"name": call.name, "arguments": call.arguments}
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise CallError("tool call: must be an object with a name")
    try:
        return f'{{"name": {strict_json.write(name)}, "arguments": {_arguments(function.get("arguments"))}}}'
    except ValueError as error:
        raise CallError(f"tool call {name[:_MAX_SHOWN_CHARS]!r}: arguments must be a JSON object: {error}") from None


def _arguments(given: Any) -> str:
    """Return JSON of one line. Text keeps the spelling of its strings and numbers. Raises ValueError."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return "{}"
    value = strict_json.read(given) if isinstance(given, str) else given
    if not isinstance(value, Mapping):
        raise ValueError(f"not {str(given)[:40]!r}")
    return strict_json.one_line(given) if isinstance(given, str) else strict_json.write(value)
