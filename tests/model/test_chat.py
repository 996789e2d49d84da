"""Turns as the release renders them, and tool calls taken out of hostile text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cispo.configs.schema import ChatTemplate
from lightning_cispo.model.chat import ToolCall, parse_reply, prompt_text, render, tool_results
from lightning_cispo.model.tokenizer import load_tokenizer
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
    reply = parse_reply(text)
    assert reply.calls == [ToolCall("weather", {"city": "Köln <3"}), ToolCall("größe", {"n": 1})]
    assert not reply.errors
    alone = render([{**message, "content": None}], add_generation_prompt=False)
    assert "name=assistant\n<tool_calls>\n{" in alone


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
    with pytest.raises(ValueError, match="do not fit the chat template"):
        render([message])


def test_prompt_text():
    assert prompt_text("1+1", "", ChatTemplate.plain) == "1+1"
    assert prompt_text("1+1", "Add.", ChatTemplate.plain) == "Add.\n1+1"
    turns = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1"}]
    assert prompt_text("1+1", "Add.", ChatTemplate.minimax_m1) == render(turns)
    assert prompt_text("1+1", "", ChatTemplate.minimax_m1) == render(turns[1:])
    assert render(turns).endswith("<beginning_of_sentence>ai name=assistant\n")


CALL = '{"name": "f", "arguments": {"a": 1}}'


def block(*lines: str) -> str:
    return "<tool_calls>\n" + "\n".join(lines) + "\n</tool_calls>"


def test_calls_only_after_the_last_closed_thought():
    planned = block('{"name": "planned", "arguments": {}}')
    response = f"<think>{planned}</think>{planned}</think>\nHere:\n{block(CALL, CALL)}"
    reply = parse_reply(response)
    assert reply.calls == [ToolCall("f", {"a": 1})] * 2
    assert (reply.text, reply.errors) == ("Here:", [])
    assert reply.thinking == f"{planned}</think>{planned}"
    assert parse_reply(f"<think>{planned}").calls == []  # never closed: all thought
    assert parse_reply(f"no thought {block(CALL)}").calls == [ToolCall("f", {"a": 1})]


@pytest.mark.parametrize(
    "line, said",
    [
        ("{'name': 'f'}", "not one line of JSON"),
        ('{"name": "f", "arguments": {"a": 1}', "not one line of JSON"),
        ("[1]", '"name"'),
        ('{"arguments": {}}', '"name"'),
        ('{"name": 3, "arguments": {}}', '"name"'),
        ('{"name": "", "arguments": {}}', '"name"'),
        ('{"name": "f"}', '"arguments" must be a JSON object'),
        ('{"name": "f", "arguments": "{}"}', '"arguments" must be a JSON object'),
        ("[" * 200_000, "not one line of JSON"),
        ('{"name": "f", "arguments": {"n": ' + "9" * 10_000 + "}}", "not one line of JSON"),
    ],
)
def test_a_malformed_call_is_a_readable_error_beside_the_sound_one(line, said):
    reply = parse_reply(f"</think>{block(line, CALL)}")
    assert reply.calls == [ToolCall("f", {"a": 1})]
    assert len(reply.errors) == 1 and said in reply.errors[0]
    assert len(reply.errors[0]) < 500 and "\n" not in reply.errors[0]


def test_a_block_that_is_never_closed():
    reply = parse_reply(f"</think>ok {block(CALL)} <tool_calls>\n{CALL}\n")
    assert reply.calls == [ToolCall("f", {"a": 1})]
    assert reply.errors == ["<tool_calls> is opened but never closed with </tool_calls>"]
    assert reply.text == "ok"


def test_lines_end_at_newlines_only():
    reply = parse_reply(block('{"name": "f", "arguments": {"a": "x\u2028y"}}'))
    assert reply.calls == [ToolCall("f", {"a": "x\u2028y"})]


@given(st.lists(st.sampled_from(["<think>", "</think>", "<tool_calls>", "</tool_calls>", CALL, "{", "\n", "x"])))
def test_never_raises(words):
    reply = parse_reply("".join(words))
    assert all(isinstance(call, ToolCall) for call in reply.calls)


@pytest.mark.parametrize("word", ["<tool_calls>", "</tool_calls>", "<tool_calls></tool_calls>", "</think>", "<think>"])
def test_hostile_repetition_ends(word):
    """A search quadratic in these would run into the test's deadline."""
    reply = parse_reply(word * 400_000)
    assert not reply.calls and len(reply.errors) == (word == "<tool_calls>")
