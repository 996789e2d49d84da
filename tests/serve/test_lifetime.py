"""How the server's process begins, what it logs, and how it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from lightning_cispo.model.serve.app import Limits, Server
from lightning_cispo.model.serve.guard import guard
from lightning_cispo.model.serve.runner import Piece
from lightning_cispo.model.tokenizer import load_tokenizer
from tests.serve.conftest import command, serving

LONG = {"model": "small", "prompt": "x", "max_tokens": 590, "min_tokens": 590, "n": 8}


def post(address: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=60)


def test_a_signal_ends_streams_and_whole_answers_at_once(checkpoint_folder):
    """Also one whose client does not read."""
    refusals: list[tuple[int, Any]] = []

    def whole(address: str) -> None:
        try:
            post(address, LONG)
        except urllib.error.HTTPError as error:
            refusals.append((error.code, json.load(error)["error"]))

    with serving(checkpoint_folder) as (process, address, log):
        stream = post(address, LONG | {"stream": True})
        assert stream.readline().startswith(b"data: ")
        deaf = post(address, LONG | {"stream": True, "n": 128, "logprobs": 5})
        waiting = threading.Thread(target=whole, args=(address,))
        waiting.start()
        time.sleep(0.5)
        process.terminate()
        before = time.monotonic()
        events = [line.removeprefix(b"data: ").strip() for line in stream if line.strip()]
        assert events[-1] == b"[DONE]"
        assert json.loads(events[-2])["error"]["type"] == "server_error"
        waiting.join()
        assert process.wait(20) == 0
        assert time.monotonic() - before < 10, "about 3 s on an idle machine"
        deaf.close()
        assert "Traceback" not in log.read_text()
    assert [(status, error["message"]) for status, error in refusals] == [(503, "the server is shutting down")]


def test_what_clients_do_wrong_is_not_logged(checkpoint_folder):
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    )
    with serving(checkpoint_folder) as (process, address, log):
        post(address, LONG | {"stream": True}).close()
        host, port = address.removeprefix("http://").split(":")
        for sent in (
            head + b"\r\n{",
            head + b"Content-Encoding: gzip\r\n\r\n" + b"x" * 100,
            b"\x16\x03 no HTTP\r\n\r\n",
        ):
            with socket.create_connection((host, int(port))) as raw:
                raw.sendall(sent)
                time.sleep(0.3)
        process.terminate()
        process.wait(30)
        said = log.read_text()
    assert "Traceback" not in said and "rror" not in said


def test_a_port_in_use_is_one_line(checkpoint_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(command(checkpoint_folder, port=port), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: port={port} ") and ended.stderr.count("\n") == 1


class Broken:
    """A runner without an engine: its answers end in what nobody foresaw."""

    tokenizer, max_waiting = load_tokenizer("bytes"), 1
    start = stop = refuse = lambda *_: None

    async def generate(self, prompt: list[int], options: Any) -> AsyncIterator[Piece]:
        yield Piece(0, "a", [])
        raise KeyError("nobody foresaw this")


async def asked(stream: bool) -> tuple[int, str]:
    body = {"model": "small", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    server = Server(Broken(), "small", Limits(1 << 20, 1000), guard(None, ()))  # type: ignore[arg-type]
    async with TestClient(TestServer(server.app)) as client:
        answer = await client.post("/v1/chat/completions", json=body)
        return answer.status, await answer.text()


def test_a_fault_of_the_server_has_openais_shape(caplog):
    status, text = asyncio.run(asked(stream=False))
    assert status == 500 and json.loads(text)["error"]["type"] == "server_error"
    assert caplog.text.count("Traceback") == 1 and "nobody foresaw" not in text


def test_a_fault_within_a_stream_ends_it_with_an_error(caplog):
    status, text = asyncio.run(asked(stream=True))
    *_, error, done = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert status == 200 and json.loads(error)["error"]["type"] == "server_error" and done == "[DONE]"
    assert caplog.text.count("Traceback") == 1 and "nobody foresaw" not in text


def test_a_client_that_leaves_between_two_events_is_not_logged(caplog, monkeypatch):
    write = web.StreamResponse.write

    async def write_too_late(self: web.StreamResponse, data: bytes) -> None:
        self._req.transport.close()
        await write(self, data)

    monkeypatch.setattr(web.StreamResponse, "write", write_too_late)
    with pytest.raises(aiohttp.ClientError):
        asyncio.run(asked(stream=True))
    assert not caplog.text
