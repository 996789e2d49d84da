"""Judging of programs, in an isolated process that keeps two sandboxes: one for judged code, one for the tests.

Calls and values pass through here as bytes that nobody looks into; what is expected never goes the other way.
"""

from __future__ import annotations

import json
import time
from typing import Any

from lightning_cispo.rewards.sandbox.box import Box, Ended, Late, NoIsolation, SandboxError, open_box
from lightning_cispo.rewards.sandbox.levels import Isolation

MAX_OUTPUT_BYTES = 4 << 20
_TESTS_MEMORY_MB = 1024

_boxes: dict[tuple[str, str], Box] = {}


def grade(
    code: str, tests: dict[str, Any], min_isolation: str, timeout_s: float, memory_mb: int, partial: bool
) -> dict[str, Any]:
    """What `Grader` documents for a verifier, with parts `passed` (fraction) and `compiled`."""
    source = (tests.get("prelude", "") + "\n" + code if tests.get("prelude") else code).encode("utf-8", "surrogatepass")
    try:
        box = _box("code", min_isolation)
        if "cases" in tests:
            problems = _programs(box, source, tests["cases"], timeout_s, memory_mb)
        else:
            problems = _functions(box, source, tests, min_isolation, timeout_s, memory_mb)
    except SandboxError as error:
        _forget()
        if isinstance(error, NoIsolation):
            return {"correct": False, "parts": {}, "error": str(error), "masked": True}
        return {"correct": False, "parts": {}, "error": f"the sandbox failed: {error}", "masked": True}
    passed = problems.count(None) / len(problems)
    wrong = next((problem for problem in problems if problem is not None), "")
    parts = {"passed": passed, "compiled": float(not wrong.startswith("compile error"))}
    if partial:
        parts["correct"] = passed
    timeout = wrong.startswith("timeout")
    found = {"correct": passed == 1.0, "parts": parts, "error": wrong, "timeout": timeout, "isolation": box.level.value}
    return found


def level(min_isolation: str) -> str:
    """The level that can be had. Raises NoIsolation."""
    return _box("code", min_isolation).level.value


def _box(purpose: str, min_isolation: str) -> Box:
    key = (purpose, min_isolation)
    if key not in _boxes:
        _boxes[key] = open_box(Isolation(min_isolation))
    return _boxes[key]


def _forget() -> None:
    """Broken or not, the next call gets new ones."""
    for key in list(_boxes):
        _boxes.pop(key).close()


def _programs(
    box: Box, source: bytes, cases: list[tuple[str, str]], timeout_s: float, memory_mb: int
) -> list[str | None]:
    problems: list[str | None] = []
    for number, (given, wanted) in enumerate(cases, 1):
        problem = _program(box, source, given, wanted, timeout_s, memory_mb)
        problems.append(None if problem is None else _numbered(problem, number))
        if problem and problem.startswith(("compile error", "timeout")):
            problems += [problems[-1]] * (len(cases) - number)  # it would be so again
            break
    return problems


def _numbered(problem: str, number: int) -> str:
    kind, colon, rest = problem.partition(": ")
    return f"{kind}: case {number}: {rest}" if colon else f"{kind}: case {number}"


def _program(box: Box, source: bytes, given: str, wanted: str, timeout_s: float, memory_mb: int) -> str | None:
    run = box.run("program", memory_mb, time.monotonic() + timeout_s)
    try:
        run.send(source)
        output = run.converse(given.encode("utf-8", "surrogatepass"), MAX_OUTPUT_BYTES)
        code = run.finish(max(0.01, run.deadline - time.monotonic()))
        complaint = run.complaint()
    except Late:
        return f"timeout: not done after {timeout_s:g} s"
    except Ended as error:
        return f"wrong: {error}"
    finally:
        run.finish()
        run.close()
    if complaint.startswith("C"):
        return f"compile error: {complaint[1:]}"
    if code == -9 and time.monotonic() >= run.deadline:
        return f"timeout: not done after {timeout_s:g} s"
    if code:
        return f"error: {complaint[1:] or _ending(code)}"
    return None if _same_output(output.decode("utf-8", "replace"), wanted) else "wrong: not the expected output"


def _same_output(given: str, wanted: str) -> bool:
    return [line.rstrip() for line in given.rstrip().splitlines()] == [
        line.rstrip() for line in wanted.rstrip().splitlines()
    ]


def _ending(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"


def _functions(
    box: Box, source: bytes, tests: dict[str, Any], min_isolation: str, timeout_s: float, memory_mb: int
) -> list[str | None]:
    deadline = time.monotonic() + timeout_s
    count = len(tests["tests"])
    run = box.run("candidate", memory_mb, deadline)
    try:
        try:
            run.send(source)
            ready = _ready(run.receive())
        except Late:
            return [f"timeout: not done after {timeout_s:g} s"] * count
        except Ended as error:
            return [f"error: {error} before it could be called"] * count
        if ready:
            return [ready] * count
        judging = _box("tests", min_isolation).run("tests", _TESTS_MEMORY_MB, deadline + timeout_s)
        try:
            order = {"setup": tests.get("setup", ""), "tests": tests["tests"]}
            judging.send(json.dumps({**order, "entry_point": tests.get("entry_point", "")}).encode())
            return _conversation(run, judging, count, timeout_s)
        finally:
            judging.finish()
            judging.close()
    finally:
        run.finish()
        run.close()


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


def _conversation(run: Any, judging: Any, count: int, timeout_s: float) -> list[str | None]:
    """Carries calls to the judged code and its answers back, until the tests have said what they found."""
    gone, calls = "", 0
    while True:
        try:
            frame = judging.receive()
        except Late:
            return [f"timeout: the tests weren't done after {2 * timeout_s:g} s"] * count
        except Ended as error:
            if calls:
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
        calls += 1
        answer = b""
        if not gone:
            try:
                run.send(body)
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
