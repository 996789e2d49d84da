"""Chat messages in the spellings that clients and data sets use, and those that say nothing."""

from __future__ import annotations

import pytest

from lightning_cispo.model.chat import render
from lightning_cispo.model.messages import MessageError, normalised

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([{"role": "developer", "content": "x"}], [{"role": "system", "content": "x"}]),
        ([{"role": "assistant", "content": None}], [{"role": "assistant", "content": ""}]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]}],
            [{"role": "user", "content": "ab"}],
        ),
        (
            [
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "42"},
            ],
            [
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": [{"name": "f", "text": "42"}]},
            ],
        ),
        (
            [
                {"role": "tool", "name": "f", "content": "1"},
                {"role": "tool", "name": "g", "content": [{"type": "text", "text": "2"}]},
            ],
            [{"role": "tool", "content": [{"name": "f", "text": "1"}, {"name": "g", "text": "2"}]}],
        ),
        (
            [{"role": "tool", "content": [{"name": "f", "text": "1"}, {"name": "g", "text": "2"}]}],
            [{"role": "tool", "content": [{"name": "f", "text": "1"}, {"name": "g", "text": "2"}]}],
        ),
    ],
)
def test_spellings(messages, turns):
    assert normalised(messages) == turns
    assert render(messages) == render(turns)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("hi", "messages[0]: must be an object with a role"),
        ({"content": "hi"}, "messages[0]: must be an object with a role"),
        ({"role": "robot", "content": "x"}, "messages[0].role='robot': must be system, user"),
        ({"role": "user"}, "messages[0].content: must be text"),
        ({"role": "user", "content": None}, "messages[0].content: must be text"),
        ({"role": "user", "content": {"a": 1}}, "messages[0].content: must be text"),
        ({"role": "user", "content": 3}, "messages[0].content: must be text"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "messages[0].content: must be text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "messages[0].content: must be text"),
        ({"role": "assistant", "tool_calls": "f()"}, "messages[0].tool_calls: must be a list"),
        ({"role": "tool", "content": "42"}, "messages[0]: must have a name, or a tool_call_id"),
        ({"role": "tool", "tool_call_id": "c9", "content": "42"}, "messages[0]: must have a name, or a tool_call_id"),
        ({"role": "tool", "name": "f", "content": None}, "messages[0].content: must be text"),
        (
            {"role": "tool", "content": [{"name": "f", "text": None}]},
            "messages[0].content[0]: must have a name and text",
        ),
    ],
)
def test_what_says_nothing_is_refused(message, says):
    with pytest.raises(MessageError) as refused:
        render([message])
    assert str(refused.value).startswith(says) and "\n" not in str(refused.value)
