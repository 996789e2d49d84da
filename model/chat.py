"""Render MiniMax-M1's chat turns.

`chat_template.jinja` renders ordinary turns as the released template does, character by character, and departs from it
in four places, all faults of the release:
  - the example in the tools turn lost its quotes (`{name: ...`): here it is JSON, `{"name": ...`;
  - content may be a plain string beside the list of parts, and all text parts count, not the first alone;
  - an assistant message's `tool_calls` are written out, in the syntax the model is asked for;
  - an unknown role is an error instead of being left out.
Messages are checked and brought into one form first (`model.messages`).
The text of tools and calls is `CALLS`' here. The template holds it too, for programs that read a saved tokenizer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

from lightning_cispo.configs.schema import ChatTemplate
from lightning_cispo.model.messages import normalised
from lightning_cispo.rewards.calls import SYNTAXES

BEGIN_DOCUMENT = "<begin_of_document>"
BEGIN_SENTENCE = "<beginning_of_sentence>"
END_SENTENCE = "<end_of_sentence>"
CALLS = SYNTAXES["minimax_m1"]
TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text()

Message = Mapping[str, Any]


def render(messages: Sequence[Message], tools: Sequence[Any] | None = None, add_generation_prompt: bool = True) -> str:
    """The conversation as M1 reads it, up to the opening of its next turn.

    Args:
        messages: {"role": system | user | assistant | tool, "content": str or [{"type": "text", "text": str}, ...]}.
            A tool message holds [{"name": str, "text": str}, ...], or text and a "name" or "tool_call_id". An assistant
            message may have "tool_calls": [{"name": str, "arguments": dict or JSON text}, ...], also nested under
            "function".
        tools: JSON-serialisable definitions, one a line.
    Raises: MessageError, CallError and ToolError, which are ValueErrors, for what cannot be rendered.
    """
    turns = [_with_calls(message) for message in normalised(messages)]
    offered = CALLS.render_tools(tools) if tools else None
    try:
        return _template().render(messages=turns, tools=offered, add_generation_prompt=add_generation_prompt)
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


def _with_calls(message: Message) -> Message:
    calls = message.get("tool_calls")
    return {**message, "tool_calls": CALLS.render_calls(calls)} if calls else message


@functools.cache
def _template():
    # As transformers renders templates.
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.globals["raise_exception"] = _raise
    return environment.from_string(TEMPLATE)


def _raise(message: str) -> None:
    raise TemplateError(message)


def thinking_open(text: str) -> bool:
    """Return whether a response thinks at its end: its last think tag opens a block, wherever that stands."""
    return text.rfind("<think>") > text.rfind("</think>")
