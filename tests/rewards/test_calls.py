"""Tool calls taken out of hostile text, and written so that they are read back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cispo.rewards.answer import final_text
from lightning_cispo.rewards.calls import SYNTAXES, ToolCall
from lightning_cispo.rewards.format import format_score
from lightning_cispo.rewards.rules import tools_score

M1 = SYNTAXES["minimax_m1"]
parse = M1.parse
CALL = '{"name": "f", "arguments": {"a": 1}}'


def block(*lines: str) -> str:
    return "<tool_calls>\n" + "\n".join(lines) + "\n</tool_calls>"


def test_calls_only_after_the_last_closed_thought():
    planned = block('{"name": "planned", "arguments": {}}')
    response = f"<think>{planned}</think>{planned}</think>\nHere:\n{block(CALL, CALL)}"
    reply = parse(response)
    assert reply.calls == [ToolCall("f", {"a": 1})] * 2
    assert (reply.text, reply.errors) == ("Here:", [])
    assert reply.thinking == f"{planned}</think>{planned}"
    assert parse(f"<think>{planned}").calls == []  # never closed: all thought
    assert parse(f"no thought {block(CALL)}").calls == [ToolCall("f", {"a": 1})]


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
        ('{"name": "f", "arguments": {"n": NaN}}', "NaN is no JSON number"),
        ('{"name": "f", "arguments": {"n": [-Infinity]}}', "-Infinity is no JSON number"),
        ('{"name": "f", "arguments": {"n": 1e999}}', "1e999 is beyond the range"),
        ('{"name": "f", "arguments": {"n": ' + "[" * 500 + "]" * 500 + "}}", "nested more than 100 deep"),
        (f"{CALL} {CALL}", "not one line of JSON"),
        (f"{CALL} and so on", "not one line of JSON"),
    ],
)
def test_a_malformed_call_is_a_readable_error_beside_the_sound_one(line, said):
    reply = parse(f"</think>{block(line, CALL)}")
    assert reply.calls == [ToolCall("f", {"a": 1})]
    assert len(reply.errors) == 1 and said in reply.errors[0]
    assert len(reply.errors[0]) < 500 and "\n" not in reply.errors[0]


def test_a_block_that_is_never_closed():
    reply = parse(f"</think>ok {block(CALL)} <tool_calls>\n{CALL}\n")
    assert reply.calls == [ToolCall("f", {"a": 1})]
    assert reply.errors == ["<tool_calls> is opened but never closed with </tool_calls>"]
    assert reply.text == "ok"


def test_lines_end_at_newlines_only():
    reply = parse(block('{"name": "f", "arguments": {"a": "x\u2028y"}}'))
    assert reply.calls == [ToolCall("f", {"a": "x\u2028y"})]


QUOTED = '{"name": "f", "arguments": {"a": "</tool_calls> </think> <think> \\" <tool_calls>\\n", "</think>": [1.5]}}'


@pytest.mark.parametrize("before", ["", "</think>", "<think>hm</think>", 'hm "</think>', "<think></think></think>ok "])
@pytest.mark.parametrize("lines", [[QUOTED], [CALL, QUOTED], ["", QUOTED, CALL]])
def test_tags_inside_a_string_of_a_call_are_text(before, lines):
    reply = parse(f"{before}{block(*lines)} bye")
    assert reply.calls == [ToolCall(**json.loads(line)) for line in lines if line]
    assert (reply.errors, reply.sound) == ([], True)
    assert reply.text == ("ok  bye" if before.endswith("ok ") else "bye")
    assert reply.thinking == {
        "<think>hm</think>": "hm",
        'hm "</think>': 'hm "',
        "<think></think></think>ok ": "</think>",
    }.get(before, "")

    assert final_text(f"{before}{block(*lines)} bye").endswith(f"{block(*lines)} bye")
    assert format_score(f"{before}{block(*lines)} bye") == float(before == "<think>hm</think>")


@given(st.lists(st.sampled_from(["<think>", "</think>", "</tool_calls>", "a", " ", "\n", '"'])).map("".join))
def test_without_calls_the_last_tag_of_thinking_decides(text):
    tail = text.rpartition("</think>")[2]
    assert final_text(text) == (None if "<think>" in tail else tail.strip() or None)
    assert final_text(text) == (parse(text).answer.strip() or None)
    body = text.lstrip()
    once = body.startswith("<think>") and body.count("<think>") == body.count("</think>") == 1
    assert format_score(text) == float(once and bool(tail.strip()))


def test_a_string_without_an_end_quotes_nothing():
    open_string = '{"name": "f", "arguments": {"a": "x</tool_calls>'
    reply = parse(f"<tool_calls>\n{CALL}\n{open_string} after")
    assert reply.calls == [ToolCall("f", {"a": 1})] and len(reply.errors) == 1
    assert (reply.text, reply.sound) == ("after", False)
    reply = parse(f"<tool_calls>{open_string[:-13]}</think>{block(CALL)}")
    assert reply.calls == [ToolCall("f", {"a": 1})] and reply.errors == []


def test_a_thought_opened_after_the_call_hides_it():
    reply = parse(f"<think>a</think>{block(CALL)}<think>wait")
    assert (reply.calls, reply.text, reply.errors) == ([], "", [])


def test_what_is_planned_in_an_unclosed_block_before_the_thinking_ends_does_not_count():
    assert parse(f"maybe <tool_calls>\n{CALL}\n</think>{block(CALL)}").calls == [ToolCall("f", {"a": 1})]
    assert parse(f"maybe <tool_calls>\n{CALL}\n</think>no").text == "no"


def test_a_reply_has_few_errors_however_many_lines_are_malformed():
    reply = parse(f"{block(*['{'] * 1000, CALL)}{block('[')}")
    assert len(reply.errors) == 10 and reply.calls == [ToolCall("f", {"a": 1})]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("no call", 1.0),
        (block(CALL), 1.0),
        (f"<think>a</think>text {block('', CALL, '  ', CALL)} text", 1.0),
        (f"<tool_calls>{CALL}</tool_calls>", 1.0),
        (f"<think>a <tool_calls> b</think>{block(CALL)}", 1.0),
        (block(QUOTED), 1.0),
        (block('{"arguments": {"a": "x\u2028y"}, "name": "f"}'), 1.0),
        ('</tool_calls><tool_calls>{"name":"f","arguments":{}}', 0.0),
        (f"</tool_calls>{block(CALL)}", 0.0),
        (f"{block(CALL)}</tool_calls>", 0.0),
        (f"{block(CALL)}<tool_calls>", 0.0),
        (block(CALL) + block(CALL), 0.0),
        (block(), 0.0),
        (block(CALL, '{"name": "f"}'), 0.0),
        (block('{"name": "f", "arguments": {}, "id": 1}'), 0.0),
        (block('{"name": "", "arguments": {}}'), 0.0),
        (block('{"name": "f", "arguments": {"a": NaN}}'), 0.0),
        (block('{"name": "f", "arguments": {"a": 1e400}}'), 0.0),
        (block('{"name": "f",', '"arguments": {}}'), 0.0),
        (f"<tool_calls>{CALL}{CALL}</tool_calls>", 0.0),
    ],
)
def test_the_score_of_tool_calls(text, score):
    assert tools_score(text) == score


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)
words = st.sampled_from(["</tool_calls>", "<tool_calls>", "</think>", "<think>", '"', "\\", "\n", "x"])
tool_calls = st.builds(
    ToolCall,
    st.text(min_size=1),
    st.dictionaries(st.text(), st.one_of(json_values, st.lists(words).map("".join)), max_size=3),
)


@given(st.lists(tool_calls, min_size=1, max_size=3), st.sampled_from([None, 0, 2]))
def test_rendered_calls_are_read_back(calls, indent):
    """As objects, and as JSON text in one line or pretty."""
    text = M1.render_calls(calls)
    given = [{"name": call.name, "arguments": json.dumps(call.arguments, indent=indent)} for call in calls]
    for rendered in (text, M1.render_calls(given)):
        assert rendered.count("\n") == len(calls) + 1
        reply = parse(f"<think>t</think>a{rendered}")
        assert (reply.calls, reply.text, reply.errors, reply.sound) == (calls, "a", [], True)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<tool_calls>", "</tool_calls>", CALL, "{", "\n", '"', "x"])))
def test_never_raises(words):
    reply = parse("".join(words))
    assert all(isinstance(call, ToolCall) for call in reply.calls)


REPEATED = ["<tool_calls>", "</tool_calls>", "<tool_calls></tool_calls>", "</think>", "<think>", "<tool_calls></think>"]
REPEATED += ["<tool_calls>x</tool_calls>", '<tool_calls>"</tool_calls>', '"</tool_calls><tool_calls>\\', "[1,\n"]
REPEATED += ['<tool_calls>"\n', "<tool_calls>{\n", "<tool_calls>\n", '<tool_calls>"\\</think>', "{\n", '"', '\\"']


@pytest.mark.parametrize("word", REPEATED)
@pytest.mark.parametrize("start", ["", "<tool_calls>\n"])
@pytest.mark.timeout(120)
def test_hostile_repetition_ends(word, start):
    """A search quadratic in these would run into the test's deadline."""
    reply = parse(start + word * 50_000)
    assert not reply.calls and len(reply.errors) <= 11
