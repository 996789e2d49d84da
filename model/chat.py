"""MiniMax-M1's chat turns: messages to text, and the model's text to tool calls.

`chat_template.jinja` renders ordinary turns as the released template does, character by character, and departs from it
in four places, all faults of the release:
  - the example in the tools turn lost its quotes (`{name: ...`): here it is JSON, `{"name": ...`;
  - content may be a plain string beside the list of parts, and all text parts count, not the first alone;
  - an assistant message's `tool_calls` are written out, in the syntax the model is asked for;
  - an unknown role is an error instead of being left out.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

from lightning_cispo.configs.schema import ChatTemplate

BEGIN_DOCUMENT = "<begin_of_document>"
BEGIN_SENTENCE = "<beginning_of_sentence>"
END_SENTENCE = "<end_of_sentence>"
TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text()

Message = Mapping[str, Any]


def render(messages: Sequence[Message], tools: Sequence[Any] | None = None, add_generation_prompt: bool = True) -> str:
    """The conversation as M1 reads it, up to the opening of its next turn.

    Args:
        messages: {"role": system | user | assistant | tool, "content": str or [{"type": "text", "text": str}, ...]}.
            A tool message holds [{"name": str, "text": str}, ...], or "name" and a string. An assistant message may
            have "tool_calls": [{"name": str, "arguments": dict or JSON text}, ...], also nested under "function".
        tools: JSON-serialisable definitions, one a line.
    Raises: ValueError for an unknown role or a message without its parts.
    """
    try:
        return _template().render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise ValueError(f"messages do not fit the chat template: {error}") from None


def tool_results(results: Sequence[tuple[str, str]]) -> str:
    """What follows an assistant turn that ended in <end_of_sentence>: named results, and the next turn's opening."""
    content = [{"type": "text", "name": name, "text": text} for name, text in results]
    return "\n" + render([{"role": "tool", "content": content}]).removeprefix(BEGIN_DOCUMENT)


def prompt_text(question: str, system: str, template: ChatTemplate) -> str:
    """The prompt of a single question; `plain` puts a system text on the lines above it."""
    if template is ChatTemplate.plain:
        return f"{system}\n{question}" if system else question
    turns = [{"role": "system", "content": system}] if system else []
    return render([*turns, {"role": "user", "content": question}])


@functools.cache
def _template():
    # trim_blocks, lstrip_blocks and a tojson that keeps < and non-ASCII are how transformers renders templates.
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = _raise
    return environment.from_string(TEMPLATE)


def _raise(message: str) -> None:
    raise TemplateError(message)


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A response taken apart. `errors` are sentences that can be shown to the model."""

    thinking: str
    text: str  # the answer, without its tool calls
    calls: list[ToolCall] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def thinking_open(text: str) -> bool:
    """Whether a response has opened a think block, which only its beginning can, and not closed it."""
    return text.lstrip().startswith("<think>") and "</think>" not in text


def parse_reply(response: str) -> Reply:
    """Thinking, answer and tool calls of a response.

    Calls count only after the last </think>; a <think> left open hides all.

    A call is one line of JSON, {"name": str, "arguments": object}, between <tool_calls> and </tool_calls>. Never raises
    for any text: what is malformed becomes an error beside the calls that are sound.
    """
    thinking, thought, answer = response.rpartition("</think>")
    if not thought and "<think>" in answer:
        return Reply(thinking=answer.partition("<think>")[2], text="")
    calls: list[ToolCall] = []
    errors: list[str] = []
    text, blocks, closed = _split_blocks(answer)
    for line in (line.strip() for block in blocks for line in block.split("\n") if line.strip()):
        parsed = _parse_call(line)
        if isinstance(parsed, str):
            errors.append(parsed)
        else:
            calls.append(parsed)
    if not closed:
        errors.append("<tool_calls> is opened but never closed with </tool_calls>")
    return Reply(thinking.removeprefix("<think>"), text.strip(), calls, errors)


def _split_blocks(answer: str) -> tuple[str, list[str], bool]:
    """Text outside of tool-call blocks, the blocks, and whether every block was closed (an open one is dropped).

    One pass over the tags: a lazy pattern from the one to the other is quadratic in what a hostile text repeats.
    """
    outside: list[str] = []
    blocks: list[str] = []
    inside: list[str] | None = None
    for word in re.split("(<tool_calls>|</tool_calls>)", answer):
        if inside is not None and word == "</tool_calls>":
            blocks.append("".join(inside))
            inside = None
        elif inside is not None:
            inside.append(word)
        elif word == "<tool_calls>":
            inside = []
        else:
            outside.append(word)
    return "".join(outside), blocks, inside is None


def _parse_call(line: str) -> ToolCall | str:
    """The call, or what is wrong with it."""
    shown = line if len(line) <= 200 else line[:200] + "..."
    try:
        call = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"tool call is not one line of JSON ({error}): {shown}"
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return f'tool call must be a JSON object with a "name": {shown}'
    if not isinstance(call.get("arguments"), dict):
        return f'tool call {call["name"]}: "arguments" must be a JSON object: {shown}'
    return ToolCall(call["name"], call["arguments"])
