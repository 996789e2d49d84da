"""Text that grows token by token, and chat replies taken apart while they stream."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_cispo.model.generation.requests import Token
from lightning_cispo.model.generation.stop_strings import automaton
from lightning_cispo.model.serve.answers import ChatAnswer
from lightning_cispo.model.serve.logprobs import chat_logprobs, completion_logprobs
from lightning_cispo.model.serve.options import read_options
from lightning_cispo.model.serve.prompts import chat_prompt
from lightning_cispo.model.serve.runner import Piece, Runner
from lightning_cispo.model.serve.text import GrowingText, ReplySplitter
from lightning_cispo.model.serve.wire import event
from lightning_cispo.model.spelling import byte_letters, spellings
from lightning_cispo.model.tokenizer import decode, encode, load_tokenizer

TOKENIZER = load_tokenizer("bytes")
texts = st.text(alphabet=st.sampled_from("ab\n<>é€𝄞 "), max_size=40)
stop_strings = st.lists(st.text(st.sampled_from("ab<é"), min_size=1, max_size=3), min_size=1, max_size=3)


@given(texts)
def test_pieces_are_whole_characters_and_join_to_the_text(text):
    growing = GrowingText(TOKENIZER)
    pieces = [growing.push(token) for token in encode(TOKENIZER, text)]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + growing.finish() == text == growing.text


def merged_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level vocabulary whose merges cross characters: the last byte of one and the first of the next."""
    letters = byte_letters()
    one, two, three = (letters[byte] for byte in "中".encode())
    merges = [(three, one), (three + one, two), (one, two)]
    vocab = {piece: id for id, piece in enumerate([*letters, *("".join(merge) for merge in merges)])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", clean_up_tokenization_spaces=False)


MERGED = merged_tokenizer()


def test_characters_that_tokens_cut_across_stay_whole():
    ids = encode(MERGED, "中" * 8)
    assert len(ids) < 24, "tokens hold parts of two characters"
    growing = GrowingText(MERGED)
    pieces = [growing.push(token) for token in ids] + [growing.finish()]
    assert "".join(pieces) == "中" * 8


@given(st.lists(st.integers(0, 259), max_size=30), st.booleans())
def test_pieces_of_any_tokens_join_to_what_all_of_them_decode_to(ids, ends):
    """Also of bytes that are no text, and with the eos that no text shows."""
    ids = [*ids, MERGED.eos_token_id] if ends else ids
    growing = GrowingText(MERGED)
    assert "".join([*map(growing.push, ids), growing.finish()]) == decode(MERGED, ids) == growing.text


@given(texts, stop_strings)
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


@given(texts, stop_strings, st.integers(0, 9))
def test_text_and_engine_agree_on_where_a_response_ends(text, stops, least):
    """The same tokens, through the automaton that the engine keeps and through the text that is shown."""
    growing, next_SB, state = GrowingText(TOKENIZER, stops, least), automaton(stops), 0
    for index, token in enumerate(encode(TOKENIZER, text)):
        hit = False
        for byte in spellings(TOKENIZER)[token]:
            entry = int(next_SB[state, byte])
            hit |= entry < 0
            state = ~entry if entry < 0 else entry
        growing.push(token)
        assert growing.stopped == (hit and index >= least)
        if growing.stopped:
            break


def test_bytes_that_are_no_text_do_not_hold_back_for_ever():
    growing = GrowingText(TOKENIZER)
    shown = "".join(growing.push(0xFF) for _ in range(20)) + growing.finish()
    assert shown == "\ufffd" * 20


@given(st.data())
def test_splitting_does_not_depend_on_how_the_text_comes(data):
    text = "".join(data.draw(st.lists(st.sampled_from(["<think>", "</think>", "<tool_calls>", "a", "<", "\n", " "]))))
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


def answered(text: str, offered: set[str], size: int = 3, **more: object) -> tuple[dict, list[dict]]:
    """The whole answer's choice, and the chunks of the same streamed in pieces of `size` characters."""
    options = read_options({"messages": [], "logprobs": True, **more}, chat=True)
    pieces = [Piece(0, text[i : i + size], [Token(0, 65, -1.0, [])]) for i in range(0, len(text), size)]
    pieces.append(Piece(0, "", [], "eos"))
    whole, streamed, chunks = ChatAnswer(TOKENIZER, options, offered), ChatAnswer(TOKENIZER, options, offered), []
    for piece in pieces:
        whole.take(piece)
        chunks += streamed.stream(piece)
    assert all(event(chunk) for chunk in chunks)
    assert sum(len(c["logprobs"]["content"]) for c in chunks if c["logprobs"]) == len(pieces) - 1
    choice = whole.choices()[0]
    for part in ("content", "reasoning_content"):
        assert said(chunks, part) == (choice["message"].get(part) or "")
    return choice, chunks


def said(chunks: list[dict], part: str) -> str:
    return "".join(chunk["delta"].get(part, "") for chunk in chunks)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_thinking_answer_and_calls(size):
    whole, chunks = answered(REPLY, {"add"}, size)
    assert whole["finish_reason"] == chunks[-1]["finish_reason"] == "tool_calls"
    message = whole["message"]
    assert message["reasoning_content"] == "hm" and message["content"] == "Let me see."
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    deltas = [chunk["delta"] for chunk in chunks]
    (calls,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["index"] == 0 and calls[0]["function"] == message["tool_calls"][0]["function"]


def test_calls_that_nobody_offered_are_text():
    for offered in (set(), {"subtract"}):
        whole, chunks = answered(REPLY, offered)
        assert whole["finish_reason"] == chunks[-1]["finish_reason"] == "stop"
        assert whole["message"]["content"] == REPLY.partition("</think>\n\n")[2]
        assert "tool_calls" not in whole["message"]
        assert not any("tool_calls" in chunk["delta"] for chunk in chunks)


TWO = '<tool_calls>\n{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}\n</tool_calls>'


@pytest.mark.parametrize(
    ("offered", "parallel", "called"),
    [({"f", "g"}, True, ["f", "g"]), ({"f", "g"}, False, ["f"]), ({"g"}, True, ["g"]), ({"g"}, False, ["g"])],
)
def test_which_calls_are_passed_on(offered, parallel, called):
    whole, chunks = answered(TWO, offered, parallel_tool_calls=parallel)
    (streamed,) = [chunk["delta"]["tool_calls"] for chunk in chunks if "tool_calls" in chunk["delta"]]
    for calls in (whole["message"]["tool_calls"], streamed):
        assert [call["function"]["name"] for call in calls] == called


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("offered", [set(), {"f"}])
def test_blank_lines_around_thinking_and_answer_are_dropped(size, offered):
    whole, _ = answered("<think>\nfoo\n</think>\n\nThe answer\n", offered, size)
    assert whole["message"] == {"role": "assistant", "content": "The answer\n", "reasoning_content": "foo"}


def test_half_a_surrogate_pair_in_a_call_survives():
    text = '<tool_calls>\n{"name": "f", "arguments": {"é": "\\ud800"}}\n</tool_calls>'
    whole, _ = answered(text, {"f"})
    assert whole["message"]["tool_calls"][0]["function"]["arguments"] == '{"é": "\\ud800"}'


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("quoted", ["</tool_calls>", "</think>", "<think>", "<tool_calls>"])
def test_a_tag_inside_a_string_of_a_call_loses_no_call(quoted, size):
    whole, chunks = answered(REPLY.replace('"a": 1', f'"a": "{quoted}"'), {"add"}, size)
    (streamed,) = [chunk["delta"]["tool_calls"] for chunk in chunks if "tool_calls" in chunk["delta"]]
    for calls in (whole["message"]["tool_calls"], streamed):
        assert json.loads(calls[0]["function"]["arguments"]) == {"a": quoted}
    assert whole["finish_reason"] == chunks[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("broken", [REPLY.replace("{", "", 1), *(REPLY.replace("1", n) for n in ("NaN", "1e999"))])
def test_a_malformed_call_is_text(broken):
    whole, _ = answered(broken, {"add"})
    assert whole["finish_reason"] == "stop" and "<tool_calls>" in whole["message"]["content"]


def test_thinking_that_is_never_closed_is_no_answer():
    whole, _ = answered("<think>for ever", {"add"})
    assert whole["message"] == {"role": "assistant", "content": "", "reasoning_content": "for ever"}


def test_log_probabilities_of_parts_of_characters():
    first, second, letter = (Token(0, i, -1.0, [(i, -1.0)]) for i in (*"é".encode(), ord("a")))
    entries = chat_logprobs([first, second, letter], TOKENIZER)["content"]
    assert [entry["bytes"] for entry in entries] == [[0xC3], [0xA9], [ord("a")]]
    assert [entry["token"] for entry in entries] == [r"bytes:\xc3", r"bytes:\xa9", "a"]
    found = completion_logprobs([first, second, letter], TOKENIZER, 7)
    assert found["tokens"] == [r"bytes:\xc3", r"bytes:\xa9", "a"]
    assert found["text_offset"] == [7, 7, 8]
    assert found["top_logprobs"][0] == {r"bytes:\xc3": -1.0}


def test_results_of_parallel_calls_are_one_turn():
    calls = [{"id": i, "type": "function", "function": {"name": i, "arguments": "{}"}} for i in "fg"]
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "f", "content": "1"},
        {"role": "tool", "tool_call_id": "g", "content": [{"type": "text", "text": "2"}]},
        {"role": "assistant", "content": "y"},
    ]
    text = decode(TOKENIZER, chat_prompt({"messages": messages}, TOKENIZER, 10_000))
    results = "tool name: f\ntool result: 1\n\ntool name: g\ntool result: 2\n\n"
    assert f"<beginning_of_sentence>tool name=tools\n{results}<end_of_sentence>\n" in text


@pytest.mark.parametrize(
    ("response", "closed"),
    [("<think>hm", False), ("\n<think>hm", False), ("<think>hm</think>a", True), ("hm", True), ("a <think>b", False)]
    + [("<think></think><think>b", False)],
)
def test_only_open_thinking_is_interrupted(response, closed):
    interruption = Runner(None, TOKENIZER, 1)._interruption(5)  # type: ignore[arg-type]
    assert interruption.closed(np.array(encode(TOKENIZER, response))) is closed
