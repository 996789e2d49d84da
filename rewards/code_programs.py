"""Judging of a program by cases of input and output: each runs in a process of its own."""

from __future__ import annotations

import time
from typing import Any

from lightning_cispo.rewards.sandbox.box import Box
from lightning_cispo.rewards.sandbox.meter import backstop
from lightning_cispo.rewards.sandbox.run import Ended, Late, SandboxError

MAX_OUTPUT_BYTES = 4 << 20


def programs(
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
