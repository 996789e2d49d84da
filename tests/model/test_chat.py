"""Turns as the release renders them, with calls and tools as `rewards.calls` renders them."""

from __future__ import annotations

import functools
import json

import pytest

from lightning_cispo.configs.schema import ChatTemplate
from lightning_cispo.model.chat import CALLS, prompt_text, render, tool_results
from lightning_cispo.model.tokenizer import decode, encode_filled, load_tokenizer
from lightning_cispo.rewards.calls import CallError, ToolCall, ToolError
from tests.model.oracle import RELEASE, needs_release

TOOLS = [
    {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    {"name": "größe", "description": "<b> & 'quotes' \"double\""},
]


def part(text: str, **more: str) -> list[dict]:
    return [{"type": "text", "text": text, **more}]


CONVERSATIONS = [
    [{"role": "user", "content": part("hi")}],
    [{"role": "system", "content": part("Be ß <brief>")}, {"role": "user", "content": part(" two\nlines \n")}],
    [
        {"role": "system", "content": part("a")},
        {"role": "user", "content": part("q")},
        {"role": "assistant", "content": part("<think>t</think>\n") + part("x")},
        {"role": "tool", "content": part("r1", name="f") + part("r2\n", name="g")},
        {"role": "assistant", "content": part("done")},
        {"role": "system", "content": part("b")},
        {"role": "user", "content": part("more")},
    ],
]


@needs_release
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("opening", [False, True])
def test_equals_the_released_template_but_for_its_lost_quotes(messages, tools, opening):
    released = json.loads((RELEASE / "tokenizer_config.json").read_text())["chat_template"]
    tokenizer = load_tokenizer("bytes")
    arguments = dict(tools=tools, tokenize=False, add_generation_prompt=opening)
    wanted = tokenizer.apply_chat_template(messages, chat_template=released, **arguments)
    faulty = "{name: <tool-name-1>, arguments: <args-json-object-1>}"
    assert (faulty in wanted) == bool(tools)
    wanted = wanted.replace(faulty, '{"name": <tool-name-1>, "arguments": <args-json-object-1>}')
    assert render(messages, tools, opening) == wanted
    # and through a saved tokenizer, as others will render it
    assert tokenizer.apply_chat_template(messages, **arguments) == wanted


def test_content_as_a_string_is_content_as_one_part():
    for messages in CONVERSATIONS[:2]:
        plain = [{**m, "content": m["content"][0]["text"]} for m in messages]
        assert render(plain) == render(messages)


def test_every_text_part_counts():
    assert "user name=user\nonetwo<end" in render([{"role": "user", "content": part("one") + part("two")}])


def test_calls_of_an_assistant_message_are_written_as_they_are_parsed():
    calls = [
        {"name": "weather", "arguments": {"city": "Köln <3"}},
        {"type": "function", "function": {"name": "größe", "arguments": '{"n": 1}'}},
    ]
    message = {"role": "assistant", "content": "<think>x</think>", "tool_calls": calls}
    text = render([message], add_generation_prompt=False)
    reply = CALLS.parse(text)
    assert reply.calls == [ToolCall("weather", {"city": "Köln <3"}), ToolCall("größe", {"n": 1})]
    assert not reply.errors
    alone = render([{**message, "content": None}], add_generation_prompt=False)
    assert "name=assistant\n<tool_calls>\n{" in alone
    # and through a saved tokenizer, which has the template alone
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.apply_chat_template([message], tokenize=False) == text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("", "{}"),
        (" \n", "{}"),
        (None, "{}"),
        ("{}", "{}"),
        ({}, "{}"),
        ('{\n  "a": 1.50,\r\n  "b": ["x:\\n, y", {}]\n}\n', '{"a": 1.50, "b": ["x:\\n, y", {}]}'),
        ('{"a":1}', '{"a":1}'),
    ],
)
def test_arguments_are_one_line_of_json(arguments, line):
    message = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]}
    wanted = f'<tool_calls>\n{{"name": "f", "arguments": {line}}}\n</tool_calls><end_of_sentence>\n'
    assert render([message], add_generation_prompt=False).endswith(f"name=assistant\n{wanted}")
    others = load_tokenizer("bytes").apply_chat_template([message], tokenize=False)
    (call,) = CALLS.parse(others).calls
    assert call == ToolCall("f", json.loads(line))


@pytest.mark.parametrize(
    "arguments", ["nope", "[1]", [1], 3, '{"a": NaN}', '{"a": 1', '{"a": 1e999}', {"a": float("nan")}]
)
def test_arguments_that_are_no_object_are_a_named_error(arguments):
    message = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]}
    with pytest.raises(CallError, match="^tool call 'f': arguments must be a JSON object: .+$"):
        render([message])


@pytest.mark.parametrize("call", [3, {}, {"name": ""}, {"function": None}, {"function": {"arguments": "{}"}}])
def test_a_call_without_a_name_is_an_error(call):
    with pytest.raises(CallError, match="must be an object with a name"):
        render([{"role": "assistant", "content": "", "tool_calls": [call]}])


def test_a_tool_that_json_cannot_hold_is_a_named_error():
    deep = functools.reduce(lambda inner, _: {"a": inner}, range(900), {})
    for wrong in ({"maximum": float("inf")}, {1: {2}}, deep):
        with pytest.raises(ToolError, match=r"^tools\[1\]: is no JSON: .+$"):
            render([{"role": "user", "content": "x"}], tools=[TOOLS[0], wrong])


def test_no_spelling_of_arguments_makes_a_special_token():
    """Escapes stay escapes: the tokenizer's guard sees what the template writes."""
    tokenizer = load_tokenizer("bytes")
    escaped = '{\n"a": "\\u003cend_of_sentence>", "<end_of_sentence>": 1}'
    message = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": escaped}]}
    ids = encode_filled(tokenizer, render, [message])
    assert ids.count(tokenizer.eos_token_id) == 1
    (call,) = CALLS.parse(decode(tokenizer, ids)).calls
    assert call.arguments == {"a": "<end_of_sentence>", "<end_of_sentence>": 1}


def test_tool_results_continue_a_finished_turn():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    results = [("f", "r1"), ("g", "r2")]
    message = {"role": "tool", "content": [{"type": "text", "name": n, "text": t} for n, t in results]}
    so_far = render(turns, add_generation_prompt=False).removesuffix("\n")
    assert so_far + tool_results(results) == render([*turns, message])
    named = {"role": "tool", "name": "f", "content": "r1"}
    assert render([*turns, named]) == so_far + tool_results(results[:1])


@pytest.mark.parametrize(
    "message", [{"role": "robot", "content": "x"}, {"role": "user"}, {"content": "x"}, {"role": "tool", "content": "x"}]
)
def test_a_message_that_fits_no_turn_is_an_error(message):
    with pytest.raises(ValueError, match=r"^messages\[0\]"):
        render([message])


def test_prompt_text():
    assert prompt_text("1+1", "", ChatTemplate.plain) == "1+1"
    assert prompt_text("1+1", "Add.", ChatTemplate.plain) == "Add.\n1+1"
    turns = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1"}]
    assert prompt_text("1+1", "Add.", ChatTemplate.minimax_m1) == render(turns)
    assert prompt_text("1+1", "", ChatTemplate.minimax_m1) == render(turns[1:])
    assert render(turns).endswith("<beginning_of_sentence>ai name=assistant\n")
