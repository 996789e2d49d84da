"""Text that grows token by token, and chat replies taken apart while they stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.generation.requests import Token
from model.serve.answers import ChatAnswer
from model.serve.options import read_options
from model.serve.runner import Piece
from model.serve.text import GrowingText, ReplySplitter
from model.tokenizer import encode, load_tokenizer

TOKENIZER = load_tokenizer("bytes")
texts = st.text(alphabet=st.sampled_from("ab\n<>é€𝄞 "), max_size=40)


@given(texts)
def test_pieces_are_whole_characters_and_join_to_the_text(text):
    growing = GrowingText(TOKENIZER)
    pieces = [growing.push(token) for token in encode(TOKENIZER, text)]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + growing.finish() == text == growing.text


@given(texts, st.lists(st.text(alphabet=st.sampled_from("ab<é"), min_size=1, max_size=3), min_size=1, max_size=3))
def test_nothing_of_a_stop_string_is_ever_shown(text, stops):
    growing, shown = GrowingText(TOKENIZER, stops), ""
    for token in encode(TOKENIZER, text):
        shown += growing.push(token)
        if growing.stopped:
            break
    shown += growing.finish()
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert shown == text and not growing.stopped
        return
    # The stop string that is complete first ends it; of several that end together, the one that begins first.
    first = min(ends)
    starts = [text.index(stop) for stop in stops if stop in text and text.index(stop) + len(stop) == first]
    assert growing.stopped and shown == text[: min(starts)]


def test_bytes_that_are_no_text_do_not_hold_back_for_ever():
    growing = GrowingText(TOKENIZER)
    shown = "".join(growing.push(0xFF) for _ in range(20)) + growing.finish()
    assert shown == "\ufffd" * 20


@given(st.data())
def test_splitting_does_not_depend_on_how_the_text_comes(data):
    text = "".join(data.draw(st.lists(st.sampled_from(["<think>", "</think>", "<tool_calls>", "a", "<", "\n"]))))
    calls = data.draw(st.booleans())
    whole = ReplySplitter(calls)
    expected = (*whole.push(text, final=True), whole.rest)
    streamed, thinking, answer = ReplySplitter(calls), "", ""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        more = streamed.push(text[start:stop], final=stop == len(text) and start == (cuts or [0])[-1])
        thinking, answer = thinking + more[0], answer + more[1]
    more = streamed.push("", final=True)
    assert (thinking + more[0], answer + more[1], streamed.rest) == expected


REPLY = '<think>\nhm</think>\n\nLet me see.\n<tool_calls>\n{"name": "add", "arguments": {"a": 1}}\n</tool_calls>'


def answered(text: str, calls: bool, size: int = 3) -> tuple[dict, list[dict]]:
    """The whole answer's choice, and the chunks of the same streamed in pieces of `size` characters."""
    options = read_options({"messages": [], "logprobs": True}, chat=True)
    pieces = [Piece(0, text[i : i + size], [Token(0, 65, -1.0, [])]) for i in range(0, len(text), size)]
    pieces.append(Piece(0, "", [], "eos"))
    whole, streamed, chunks = ChatAnswer(TOKENIZER, options, calls), ChatAnswer(TOKENIZER, options, calls), []
    for piece in pieces:
        whole.take(piece)
        chunks += streamed.stream(piece)
    assert sum(len(c["logprobs"]["content"]) for c in chunks if c["logprobs"]) == len(pieces) - 1
    return whole.choices()[0], chunks


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_thinking_answer_and_calls(size):
    whole, chunks = answered(REPLY, True, size)
    assert whole["finish_reason"] == chunks[-1]["finish_reason"] == "tool_calls"
    message = whole["message"]
    assert message["reasoning_content"] == "hm" and message["content"] == "Let me see."
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    deltas = [chunk["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "\nhm"
    assert "".join(delta.get("content", "") for delta in deltas).strip() == "Let me see."
    (calls,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["index"] == 0 and calls[0]["function"] == message["tool_calls"][0]["function"]


def test_calls_that_nobody_offered_are_text():
    whole, chunks = answered(REPLY, False)
    assert whole["finish_reason"] == "stop" and "<tool_calls>" in whole["message"]["content"]
    assert "tool_calls" not in whole["message"]
    assert "".join(c["delta"].get("content", "") for c in chunks).strip() == whole["message"]["content"].strip()


def test_a_malformed_call_is_text():
    broken = REPLY.replace("{", "", 1)
    whole, chunks = answered(broken, True)
    assert whole["finish_reason"] == "stop" and "<tool_calls>" in whole["message"]["content"]
    assert "".join(c["delta"].get("content", "") for c in chunks).strip() == whole["message"]["content"].strip()


def test_thinking_that_is_never_closed_is_no_answer():
    whole, _ = answered("<think>for ever", True)
    assert whole["message"] == {"role": "assistant", "content": "", "reasoning_content": "for ever"}
