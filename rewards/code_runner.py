"""Judging of code, in an isolated process that keeps two sandboxes: one for judged code, one for the tests."""

from __future__ import annotations

import re
from typing import Any

from lightning_cispo.rewards.code_functions import functions
from lightning_cispo.rewards.code_programs import programs
from lightning_cispo.rewards.sandbox.box import Box, NoIsolation, open_box
from lightning_cispo.rewards.sandbox.levels import Isolation
from lightning_cispo.rewards.sandbox.run import SandboxError

_boxes: dict[tuple[str, str], Box] = {}


def grade(code: str, tests: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """What `Grader` documents for a verifier, with parts `passed` (fraction) and `compiled`.

    `limits` are the fields of `CodeOptions`.
    """
    source = _after(tests.get("prelude", ""), code)
    partial = limits["partial"]
    try:
        box = _box("code", limits["min_isolation"])
        if "cases" in tests:
            problems = programs(box, source.encode("utf-8", "surrogatepass"), tests["cases"], limits, partial)
        else:
            problems = functions(box, _box("tests", limits["min_isolation"]), source, tests, limits)
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


def _after(prelude: str, code: str) -> str:
    """The code behind what goes before it. Imports from the future stay first."""
    if not prelude:
        return code
    future = re.compile(r"^from __future__ import .*\n", re.MULTILINE)
    return "".join(future.findall(code)) + prelude + "\n" + future.sub("\n", code)


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
