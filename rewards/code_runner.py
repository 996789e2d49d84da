"""Judging of programs, in an isolated process that keeps two sandboxes: one for judged code, one for the tests.

Calls and values pass through here as bytes that nobody looks into; what is expected never goes the other way.
"""

from __future__ import annotations

import json
import time
from typing import Any

from lightning_cispo.rewards.sandbox.box import Box, Ended, Late, NoIsolation, SandboxError, open_box
from lightning_cispo.rewards.sandbox.levels import Isolation
from lightning_cispo.rewards.sandbox.meter import backstop

MAX_OUTPUT_BYTES = 4 << 20
_TESTS_MEMORY_MB = 1024

_boxes: dict[tuple[str, str], Box] = {}


def grade(code: str, tests: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """What `Grader` documents for a verifier, with parts `passed` (fraction) and `compiled`.

    `limits` are the fields of `CodeOptions`.
    """
    source = (tests.get("prelude", "") + "\n" + code if tests.get("prelude") else code).encode("utf-8", "surrogatepass")
    partial = limits["partial"]
    try:
        box = _box("code", limits["min_isolation"])
        if "cases" in tests:
            problems = _programs(box, source, tests["cases"], limits, partial)
        else:
            problems = _functions(box, source, tests, limits)
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
    box: Box, source: bytes, cases: list[tuple[str, str]], limits: dict[str, Any], partial: bool
) -> list[str | None]:
    """What is wrong with each case; None for a right one. Cases after the first failure run only if `partial`."""
    problems: list[str | None] = []
    left, end = limits["total_timeout_s"], time.monotonic() + backstop(limits["total_timeout_s"])
    for number, (given, wanted) in enumerate(cases, 1):
        seconds = min(limits["timeout_s"], left)
        problem, spent = _program(box, source, given, wanted, seconds, limits["memory_mb"])
        left -= spent
        if time.monotonic() > end:
            raise SandboxError("the machine is too busy for all cases")
        problems.append(None if problem is None else _numbered(problem, number))
        if problem and (not partial or problem.startswith(("compile error", "timeout"))):
            problems += [problems[-1]] * (len(cases) - number)  # where it is tried it would be so again
            break
        if left <= 0 and number < len(cases):
            late = f"timeout: case {number + 1}: all cases together had {limits['total_timeout_s']:g} s"
            problems += [late] * (len(cases) - number)
            break
    return problems


def _numbered(problem: str, number: int) -> str:
    kind, colon, rest = problem.partition(": ")
    return f"{kind}: case {number}: {rest}" if colon else f"{kind}: case {number}"


def _program(
    box: Box, source: bytes, given: str, wanted: str, seconds: float, memory_mb: int
) -> tuple[str | None, float]:
    """What is wrong, or None, and the seconds that it took."""
    run = box.run("program", memory_mb, seconds, given.encode("utf-8", "surrogatepass"))
    try:
        run.send(source)
        output = run.output(MAX_OUTPUT_BYTES)
        code = run.wait()
        complaint = run.complaint()
    except Late:
        return f"timeout: not done after {seconds:g} s", run.meter.spent()
    except Ended as error:
        return f"wrong: {error}", run.meter.spent()
    finally:
        run.finish()
        run.close()
    problem = None
    if complaint.startswith("C"):
        problem = f"compile error: {complaint[1:]}"
    elif code:
        problem = f"error: {complaint[1:] or _ending(code)}"
    elif not _same_output(output.decode("utf-8", "replace"), wanted):
        problem = "wrong: not the expected output"
    return problem, run.meter.spent()


def _same_output(given: str, wanted: str) -> bool:
    return [line.rstrip() for line in given.rstrip().splitlines()] == [
        line.rstrip() for line in wanted.rstrip().splitlines()
    ]


def _ending(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"


def _functions(box: Box, source: bytes, tests: dict[str, Any], limits: dict[str, Any]) -> list[str | None]:
    timeout_s, count = limits["timeout_s"], len(tests["tests"])
    run = box.run("candidate", limits["memory_mb"], timeout_s)
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
        judging = _box("tests", limits["min_isolation"]).run("tests", _TESTS_MEMORY_MB, 2 * timeout_s)
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
