"""Judging of functions and classes: the tests in one sandbox use what the judged code in another one defines.

Requests and answers pass through here as bytes that nobody looks into; what is expected never goes to the judged code.
"""

from __future__ import annotations

import json
from typing import Any

from lightning_cispo.rewards.fences import blocks
from lightning_cispo.rewards.sandbox.box import Box
from lightning_cispo.rewards.sandbox.frames import MAX_TESTS_FRAME_BYTES
from lightning_cispo.rewards.sandbox.run import Ended, Late, Run, SandboxError

_TESTS_MEMORY_MB = 1024


def functions(box: Box, tests_box: Box, source: str, tests: dict[str, Any], limits: dict[str, Any]) -> list[str | None]:
    """What is wrong with each test; None for one that passes."""
    timeout_s, count = limits["timeout_s"], len(tests["tests"])
    order = {key: tests.get(key, "") for key in ("setup", "tests", "entry_point")}
    question = _question(tests)
    run = box.run("candidate", limits["memory_mb"], timeout_s)
    try:
        try:
            first = {"source": source, "shown": question["shown"], "entry_point": order["entry_point"]}
            run.send(json.dumps(first).encode())
            ready = _ready(run.receive())
        except Late:
            return [f"timeout: not done after {timeout_s:g} s"] * count
        except Ended as error:
            return [f"error: {error} before it could be called"] * count
        if ready:
            return [ready] * count
        judging = tests_box.run("tests", _TESTS_MEMORY_MB, 2 * timeout_s)
        try:
            judging.send(json.dumps({**order, **question}).encode())
            return _conversation(run, judging, count, timeout_s)
        finally:
            judging.finish()
            judging.close()
    finally:
        run.finish()
        run.close()


def _question(tests: dict[str, Any]) -> dict[str, Any]:
    """What the question shows: its pieces of code, and its text."""
    text = tests.get("question", "")
    found = [block.text for block in blocks(text) if block.python or not block.info]
    code = [tests.get("prompt", ""), tests.get("prelude", ""), *(found or [text])]
    return {"shown": [piece for piece in code if piece], "prose": "\n".join([*code, text])}


def _ready(frame: bytes) -> str:
    """Empty if the code can be called, else why not. The frame is the judged code's to write: it gets no say."""
    if frame == b"{}":
        return ""
    try:
        said = json.loads(frame[:4000])
        kind, text = next(iter(said.items()))
    except (AttributeError, RecursionError, StopIteration, ValueError):
        return "error: it wrote into its pipe"
    return f"{'compile error' if kind == 'compile' else 'error'}: {str(text)[:500]}"


def _conversation(run: Run, judging: Run, count: int, timeout_s: float) -> list[str | None]:
    """Carry requests and answers between the two until the tests have said what they found. One of them is at work."""
    gone, frames = "", 0
    while True:
        try:
            frame = judging.receive(MAX_TESTS_FRAME_BYTES)
        except Late:
            return [f"timeout: the tests weren't done after {2 * timeout_s:g} s"] * count
        except Ended as error:
            if frames:
                return [f"error: the tests ended on what the code returned: {error}"] * count
            raise SandboxError(f"the tests ended by themselves: {error}") from None
        kind, body = frame[:1], frame[1:]
        if kind == b"B":
            raise SandboxError(f"the tests can't be used: {body.decode('utf-8', 'replace')}")
        if kind == b"R":
            found: list[str | None] = json.loads(body)
            if gone and not any(found):
                found[-1] = gone  # a test that swallows everything
            return [None if problem is None else gone or f"wrong: {problem}" for problem in found]
        frames += 1
        answer = b""
        if not gone:
            try:
                run.send(frame)
                answer = run.receive()
            except Late:
                gone = f"timeout: not done after {timeout_s:g} s"
            except Ended as error:
                gone = f"error: {error} while it was called"
        try:
            judging.send(b"X" + gone.encode() if gone else answer)
        except Ended:
            return [gone or "error: the tests ended on what the code returned"] * count
        except Late:
            return [f"timeout: the tests weren't done after {2 * timeout_s:g} s"] * count
