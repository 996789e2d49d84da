"""The server as OpenAI's own client sees it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest

from tests.serve.conftest import MAX_LENGTH, MAX_WAITING, SLOTS

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_leaks(address):
    """After every test the engine is idle, with every page back."""
    yield
    deadline = time.monotonic() + 20
    while (left := health(address))["running"] or left["open_requests"] or left["pages_in_use"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def health(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
        return json.load(answer)


def complete(client: openai.OpenAI, **options: Any) -> Any:
    return client.completions.create(**{"model": "small", "prompt": "Hello", "max_tokens": 12, "seed": 1, **options})


def chat(client: openai.OpenAI, **options: Any) -> Any:
    messages = [{"role": "user", "content": "Hello"}]
    fields = {"model": "small", "messages": messages, "max_tokens": 12, "seed": 1, **options}
    return client.chat.completions.create(**fields)


def test_completion(client):
    answer = complete(client, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) == 3
    assert answer.usage.prompt_tokens == 5
    assert all(choice.finish_reason in ("length", "stop") for choice in answer.choices)
    assert complete(client, n=3).choices == answer.choices, "the seed decides"
    assert complete(client, n=3, seed=2).choices != answer.choices
    assert complete(client, n=2).choices == answer.choices[:2], "a sample does not depend on how many are asked for"
    assert complete(client, seed=None).choices != complete(client, seed=None).choices


def test_greedy_top_k_and_tiny_top_p_agree(client):
    texts = [complete(client, **o).choices[0].text for o in ({"temperature": 0}, {"top_p": 1e-9})]
    texts.append(complete(client, extra_body={"top_k": 1}).choices[0].text)
    assert len(set(texts)) == 1


def test_logprobs(client):
    found = complete(client, logprobs=5, temperature=0).choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) == 12
    assert all(max(top.values()) == pytest.approx(p) for p, top in zip(found.token_logprobs, found.top_logprobs))
    entries = chat(client, logprobs=True, top_logprobs=3, temperature=0).choices[0].logprobs.content
    assert len(entries) == 12
    assert all(
        entry.logprob == pytest.approx(entry.top_logprobs[0].logprob) and entry.logprob <= 0 for entry in entries
    )
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    assert chat(client).choices[0].logprobs is None


def test_the_sampled_token_is_among_the_top_log_probabilities(client):
    for count in (0, 1):
        found = complete(client, logprobs=count, max_tokens=40).choices[0].logprobs
        for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
            assert top[token] == logprob and len(top) in (1, count + 1)


@pytest.mark.parametrize("make", [complete, chat], ids=["completions", "chat"])
def test_a_stream_says_the_same(client, make):
    whole = make(client, n=2, max_tokens=40)
    texts, reasons, usage = {0: "", 1: ""}, {}, None
    for chunk in make(client, n=2, max_tokens=40, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += (choice.text if make is complete else choice.delta.content) or ""
            if choice.finish_reason:
                assert choice.index not in reasons
                reasons[choice.index] = choice.finish_reason
    for choice in whole.choices:
        assert texts[choice.index] == (choice.text if make is complete else choice.message.content)
        assert reasons[choice.index] == choice.finish_reason
    assert usage == whole.usage


def test_stop_strings_end_a_response_before_them(client):
    options = dict(max_tokens=90, extra_body={"min_tokens": 30})
    free = complete(client, **options)
    text, at = late_pair(free.choices[0].text)
    options["stop"] = [text[at : at + 2], "never in there"]
    for stream in (True, False):
        answer = complete(client, **options, stream=stream)
        chunks = list(answer) if stream else [answer]
        assert "".join(chunk.choices[0].text for chunk in chunks) == text[:at]
        assert chunks[-1].choices[0].finish_reason == "stop"
    assert 30 < answer.usage.completion_tokens < free.usage.completion_tokens, "the engine went on"


def test_stop_strings_do_not_end_a_response_before_its_minimum(client):
    options = dict(max_tokens=60, extra_body={"min_tokens": 60})
    text, at = late_pair(complete(client, **options).choices[0].text)
    assert complete(client, **options, stop=text[at : at + 2]).choices[0].text == text


def late_pair(text: str) -> tuple[str, int]:
    """The text, and where two letters are for the first time, late in it."""
    return text, max(i for i in range(len(text) - 4) if text[i : i + 2].isascii() and text.index(text[i : i + 2]) == i)


def test_minimum_of_tokens_and_eos(client):
    """Some of these end by themselves; none does before its minimum."""
    free = complete(client, n=128, max_tokens=40)
    assert {choice.finish_reason for choice in free.choices} == {"stop", "length"}
    held = complete(client, n=128, max_tokens=40, extra_body={"min_tokens": 40})
    assert {choice.finish_reason for choice in held.choices} == {"length"}


def test_the_smaller_of_two_limits_counts(client):
    answer = chat(client, max_tokens=12, max_completion_tokens=5, extra_body={"min_tokens": 5})
    assert answer.usage.completion_tokens == 5


def test_several_prompts_and_token_ids(client):
    answer = complete(client, prompt=["Hello", "Bye"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[:2] == complete(client, n=2).choices
    assert complete(client, prompt=list(b"Hello")).choices == complete(client).choices
    assert answer.usage.prompt_tokens == 8


def test_thinking_that_was_never_opened_is_not_closed(client):
    """The policy of these tests never opens a think block, so nothing may be closed."""
    free = complete(client, max_tokens=60, extra_body={"min_tokens": 60}).choices[0].text
    bounded = complete(client, max_tokens=60, extra_body={"thinking_tokens": 20, "min_tokens": 60}).choices[0].text
    assert bounded == free


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_a_conversation_with_tools(client):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    with_tools = chat(client, messages=messages, tools=[TOOL])
    assert with_tools.usage.prompt_tokens > chat(client, messages=messages).usage.prompt_tokens
    assert chat(client, messages=messages, tools=[TOOL], tool_choice="none").choices[0].message.content


DEEP: dict[str, Any] = {}
for _ in range(900):
    DEEP = {"a": DEEP}
BAD = [
    (dict(temperature=3), "temperature"),
    (dict(temperature="hot"), "temperature"),
    (dict(temperature=10**400), "temperature"),
    (dict(top_p=10**400), "top_p"),
    (dict(top_p=0), "top_p"),
    (dict(n=0), "n"),
    (dict(n=129), "n"),
    (dict(max_tokens=0), "max_tokens"),
    (dict(max_tokens=True), "max_tokens"),
    (dict(seed=1 << 64), "seed"),
    (dict(stop=[""]), "stop"),
    (dict(stop=["a", "b", "c", "d", "e"]), "stop"),
    (dict(stop=["é" * 300, "a" * 425]), "stop"),
    (dict(frequency_penalty=0.5), "frequency_penalty"),
    (dict(extra_body={"nonsense": 1}), "nonsense"),
    (dict(stream_options=3), "stream_options"),
    (dict(seed=DEEP), "seed"),
]


def called_with(arguments: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


BAD_CHAT = [
    (dict(messages=[]), "messages"),
    (dict(messages=[{"role": "wizard", "content": "x"}]), "messages"),
    (dict(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "messages"),
    (dict(messages=[{"role": "user"}]), "messages"),
    (dict(messages=[{"role": "tool", "tool_call_id": "unknown", "content": "x"}]), "messages"),
    (dict(tools=[{"type": "function"}]), "tools"),
    (dict(tools=[{"type": "function", "function": {"name": "f", "parameters": DEEP}}]), "tools"),
    *((dict(messages=[called_with(wrong)]), "messages") for wrong in ("nope", "[1]", '{"a": NaN}', '{"a": 1', 3)),
    (dict(parallel_tool_calls="no"), "parallel_tool_calls"),
    (dict(max_completion_tokens="many"), "max_completion_tokens"),
    (dict(tool_choice="required"), "tool_choice"),  # without tools
    (dict(tool_choice="any"), "tool_choice"),
    (dict(tool_choice={"type": "function", "function": {"name": "g"}}, tools=[TOOL]), "tool_choice"),
    (dict(messages=[{"role": "user", "content": "x" * (16 * MAX_LENGTH)}]), "messages"),
    (dict(top_logprobs=2), "top_logprobs"),
    (dict(response_format={"type": "json_object"}), "response_format"),
]
BAD_COMPLETION = [
    (dict(prompt=""), "prompt"),
    (dict(prompt=[]), "prompt"),
    (dict(prompt=[1, "a"]), "prompt"),
    (dict(prompt=[999]), "prompt"),
    (dict(prompt=[-1]), "prompt"),
    (dict(prompt=["x"] * (MAX_WAITING + 1)), "prompt"),
    (dict(logprobs=6), "logprobs"),
    (dict(echo=True), "echo"),
    (dict(best_of=4), "best_of"),
]


@pytest.mark.parametrize(("make", "cases"), [(complete, BAD + BAD_COMPLETION), (chat, BAD + BAD_CHAT)])
def test_bad_requests_are_refused_by_name(client, make, cases):
    for stream in (False, True):
        for options, param in cases:
            options = {"stream_options": {}, **options} if stream else options
            with pytest.raises(openai.BadRequestError) as refused:
                make(client, **{"stream": stream, **options})
            assert refused.value.param == param, options
            assert refused.value.type == "invalid_request_error" and refused.value.body["message"]


def test_unknown_models_paths_methods_and_bodies(client, address):
    with pytest.raises(openai.NotFoundError, match="this server has 'small'"):
        complete(client, model="gpt-4")
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError, match="this server has 'small'"):
        client.models.retrieve("gpt-4")
    for path, body, status in [
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b"[1]", 400),
        ("/v1/completions", b"[" * 100_000, 400),
        ("/v1/completions", b"\xff\xfe", 400),
        ("/v1/nothing", b"{}", 404),
        ("/v1/completions", None, 405),
        ("/v1/completions", b" " * (3 << 20), 413),
    ]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(address + path, body, JSON), timeout=30)
        assert refused.value.code == status, (path, body and body[:20])
        assert json.load(refused.value)["error"]["message"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bodies_that_cannot_be_unpacked(address, encoding):
    headers = {**JSON, "Content-Encoding": encoding}
    request = urllib.request.Request(f"{address}/v1/completions", b"garbage" * 10, headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 400
    assert json.load(refused.value)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_oversized_prompts(client, stream):
    for options in (dict(prompt="x" * MAX_LENGTH), dict(prompt="x" * 1_000_000), dict(max_tokens=MAX_LENGTH)):
        with pytest.raises(openai.BadRequestError) as refused:
            complete(client, **options, stream=stream)
        assert refused.value.code == "context_length_exceeded"
    exact = complete(client, prompt="x" * 590, max_tokens=10)
    assert exact.usage.prompt_tokens == 590


def test_a_streams_client_that_leaves_frees_its_slots(client, address):
    for _ in range(3):
        stream = complete(client, n=8, max_tokens=500, stream=True, extra_body={"min_tokens": 500})
        next(iter(stream))
        assert health(address)["running"] > 0
        stream.close()


def test_a_waiting_client_that_leaves_frees_its_slots(address):
    body = json.dumps({"model": "small", "prompt": "x", "n": 64, "max_tokens": 590, "min_tokens": 590}).encode()
    host, port = address.removeprefix("http://").split(":")
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    deadline = time.monotonic() + 60
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while health(address)["running"] < SLOTS:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_200_clients_at_once(client, address):
    """Each gets what it would get alone; a quarter of them hang up half-way."""
    alone = {seed: complete(client, seed=seed, max_tokens=24).choices[0].text for seed in range(4)}

    async def one(client: openai.AsyncOpenAI, number: int) -> bool:
        fields = dict(model="small", prompt="Hello", max_tokens=24, seed=number % 4)
        stream = await client.completions.create(**fields, stream=True)
        if number % 4 == 3:
            await anext(stream)
            await stream.close()
            return True
        return "".join([chunk.choices[0].text async for chunk in stream]) == alone[number % 4]

    async def everyone() -> list[bool]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120) as client:
            return await asyncio.gather(*(one(client, number) for number in range(200)))

    assert asyncio.run(everyone()) == [True] * 200
