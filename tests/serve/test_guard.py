"""Who may use the server, what it counts, and what it logs. In this process, over a small random checkpoint."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import ServeConfig
from lightning_cispo.model.serve.__main__ import build, settings
from lightning_cispo.rewards.calls import SYNTAXES

BODY: dict[str, Any] = {"model": "checkpoint", "prompt": "Hello", "max_tokens": 3, "seed": 1}


@pytest.fixture
def serve(checkpoint_folder) -> Callable[..., None]:
    """Run requests against a server of its own."""

    def run(requests: Callable[[TestClient], Awaitable[None]], **changes: Any) -> None:
        async def over() -> None:
            sizes = {"slots": 4, "max_length": 64, "kv_tokens": 600, "threads": 1, **changes}
            config = ServeConfig(str(checkpoint_folder), **sizes)
            async with TestClient(TestServer(build(config).app)) as client:
                await requests(client)

        asyncio.run(over())

    return run


async def post(client: TestClient, body: Any = BODY, **headers: str) -> ClientResponse:
    path = "/v1/chat/completions" if isinstance(body, dict) and "messages" in body else "/v1/completions"
    return await client.post(path, data=json.dumps(body), headers={"Content-Type": "application/json", **headers})


def test_a_key_is_asked_of_everything_but_health(serve, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "secret")

    async def requests(client: TestClient) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            refused = await post(client, **headers)
            assert refused.status == 401 and (await refused.json())["error"]["code"] == "invalid_api_key"
            assert "secret" not in await refused.text()
        assert (await post(client, Authorization="Bearer secret")).status == 200
        assert (await client.get("/metrics")).status == 401
        assert (await client.get("/health")).status == 200

    serve(requests, key_variable="SERVER_KEY")


@pytest.mark.parametrize("key", [None, "", " ", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused(key, monkeypatch):
    monkeypatch.delenv("SERVER_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("SERVER_KEY", key)
    with pytest.raises(ConfigError, match="^key_variable=SERVER_KEY: ") as refused:
        settings(["checkpoint=x", "key_variable=SERVER_KEY"])
    assert not (key and key.strip()) or key.strip() not in str(refused.value)


def test_on_loopback_other_names_are_refused(serve):
    """A page of evil.example that its owner's DNS sends to loopback."""

    async def requests(client: TestClient) -> None:
        assert (await post(client, Host="evil.example:8000")).status == 421
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
            assert (await post(client, Host=host)).status == 200, host

    serve(requests)


def test_beyond_loopback_any_name_or_those_listed(serve):
    async def any_name(client: TestClient) -> None:
        assert (await post(client, Host="cluster.example")).status == 200

    async def listed(client: TestClient) -> None:
        assert (await post(client, Host="cluster.example:80")).status == 200
        assert (await post(client, Host="localhost")).status == 421

    serve(any_name, host="0.0.0.0")
    serve(listed, host="0.0.0.0", hosts=["cluster.example"])


def test_forms_of_web_pages_are_refused(serve):
    async def requests(client: TestClient) -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            refused = await client.post("/v1/completions", data=json.dumps(BODY), headers={"Content-Type": kind})
            assert refused.status == 415
        assert (await post(client, **{"Content-Type": "application/json; charset=utf-8"})).status == 200

    serve(requests)


def test_requests_and_tokens_are_counted_and_logged(serve, caplog):
    async def requests(client: TestClient) -> None:
        for _ in range(2):
            assert (await post(client, BODY | {"n": 2})).status == 200
        assert (await post(client, BODY | {"n": 0})).status == 400
        page = await (await client.get("/metrics")).text()
        assert 'cispo_requests_total{route="/v1/completions",status="200"} 2.0' in page
        assert 'cispo_requests_total{route="/v1/completions",status="400"} 1.0' in page
        assert 'cispo_tokens_total{kind="prompt"} 10.0' in page
        assert "cispo_slots 4.0" in page and "cispo_running_sequences 0.0" in page
        sampled = re.search(r'cispo_tokens_total{kind="completion"} (\d+)', page)
        assert sampled and 0 < int(sampled[1]) <= 12
        assert 'cispo_request_seconds_count{route="/v1/completions"} 3.0' in page

    with caplog.at_level(logging.INFO, logger="lightning_cispo.model.serve.metrics"):
        serve(requests)
    lines = [record.getMessage() for record in caplog.records if "/v1/completions" in record.getMessage()]
    assert len(lines) == 3 and re.match(r"POST /v1/completions 200 prompt=5 completion=\d+ \d", lines[0])
    assert "Hello" not in caplog.text


def test_prompts_are_bounded_before_they_are_tokenized(serve, monkeypatch):
    def never(*_: Any) -> list[int]:
        raise AssertionError("tokenized")

    monkeypatch.setattr("lightning_cispo.model.serve.prompts.encode", never)
    monkeypatch.setattr("lightning_cispo.model.serve.prompts.encode_filled", never)
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 1025}}
    chat = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}

    async def requests(client: TestClient) -> None:
        for body in (
            BODY | {"prompt": "x" * 1025},
            BODY | {"prompt": ["x", "x" * 1025]},
            chat | {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 600}] * 2}]},
            chat | {"tools": [tool]},
        ):
            refused = await post(client, body)
            error = (await refused.json())["error"]
            assert refused.status == 400 and error["code"] == "context_length_exceeded", error

    serve(requests)  # 16 characters for each of 64 tokens


def test_a_call_that_is_demanded_is_begun_for_the_model(serve, monkeypatch):
    """The random model finishes no call: the client is told so. What the prompt ends with is the call's beginning."""
    seen = []
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}}]
    body = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "tools": tools}
    monkeypatch.setattr("lightning_cispo.model.serve.prompts.encode", lambda _, text: seen.append(text) or [1])

    async def requests(client: TestClient) -> None:
        for choice in ("auto", "required", {"type": "function", "function": {"name": "g"}}):
            answer = await post(client, body | {"tool_choice": choice})
            assert answer.status == (200 if choice == "auto" else 500), await answer.text()
            if choice != "auto":
                assert "the model's call is malformed or unfinished" in await answer.text()

    serve(requests, max_length=600)
    assert seen == ["", '<tool_calls>\n{"name": "', '<tool_calls>\n{"name": "g", "arguments": {']


@pytest.mark.parametrize("name", ["", "f"])
def test_what_a_call_begins_with_is_parsed_as_one(name):
    syntax = SYNTAXES["minimax_m1"]
    rest = '"a": 1}}\n</tool_calls>' if name else 'f", "arguments": {"a": 1}}\n</tool_calls>'
    reply = syntax.parse(syntax.open_call(name) + rest)
    assert [(call.name, call.arguments) for call in reply.calls] == [("f", {"a": 1})] and reply.sound
