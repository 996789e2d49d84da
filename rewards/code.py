"""Programs as answers: found in a response, and sent to a sandbox with one test after another.

What is judged is the last fenced block of Python after the last `</think>` (`fences.answer` says which), or all of that
text if it holds no fence. Tests stand in `Problem.entry`, or as JSON in `Problem.answer`:

- of functions and classes: `tests`, each a piece of Python that fails by raising; `setup`, which runs before them;
  `entry_point`, an expression such as `f` or `Solution().f` that `candidate` means in them;
- of programs: `cases`, pairs of standard input and expected output, compared whole, blanks at line ends aside.

`prelude` is code put before the answer, `prompt` code that the question shows. A helper that stands whole in one of
them or in `Problem.prompt` is there for the answer, and not the answer's to define (`sandbox.names`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightning_cispo.rewards import fences
from lightning_cispo.rewards.answer import final_text
from lightning_cispo.rewards.judgement import Call, Decision
from lightning_cispo.rewards.sandbox.levels import Isolation
from lightning_cispo.rewards.sandbox.meter import backstop
from lightning_cispo.rewards.sandbox.names import foreign_modules, plan
from lightning_cispo.rewards.verdict import Problem

MAX_CODE_CHARS = 100_000
KEYS = ("setup", "tests", "entry_point", "cases", "prelude", "prompt")
_START_S = 45.0  # of two sandboxes, on a busy machine


@dataclass(frozen=True)
class CodeOptions:
    """`timeout_s` seconds for all tests of an answer, each of a program's cases on its own, `total_timeout_s` for a
    program's cases together, `memory_mb` MB of address space for the judged process, which is all there is of it.
    `partial`: the part is the passed fraction. Seconds are those of `sandbox.meter`: computed or slept."""

    min_isolation: str = "rlimits"
    timeout_s: float = 6.0
    memory_mb: int = 512
    partial: bool = False
    total_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.min_isolation not in list(Isolation):
            raise ValueError(f"min_isolation={self.min_isolation}: one of {', '.join(Isolation)}")
        if not 0 < self.timeout_s < float("inf") or self.memory_mb < 64:
            raise ValueError(f"timeout_s={self.timeout_s}, memory_mb={self.memory_mb}: above 0 and at least 64")
        if not 0 < self.total_timeout_s < float("inf"):
            raise ValueError(f"total_timeout_s={self.total_timeout_s}: must be above 0")


def judge(problem: Problem, text: str, options: CodeOptions) -> Decision | Call:
    code = extract(text)
    if code is None:
        return Decision(False, "no code after </think>")
    if len(code) > MAX_CODE_CHARS:
        return Decision(False, f"more than {MAX_CODE_CHARS} characters of code")
    tests = problem.entry if "tests" in problem.entry or "cases" in problem.entry else json.loads(problem.answer)
    if wrong := _check_form(tests):
        raise ValueError(f"{problem.task}: {wrong}")
    kept = {key: tests[key] for key in KEYS if key in tests} | {"question": problem.prompt[:MAX_CODE_CHARS]}
    # The sandbox keeps the deadlines; the isolated process's own stands behind them.
    seconds = options.total_timeout_s if "cases" in tests else 3 * options.timeout_s
    whole = _START_S + backstop(options.timeout_s) + backstop(seconds)
    limits = {**asdict(options), "min_isolation": Isolation(options.min_isolation).value}
    return Call("lightning_cispo.rewards.code_runner:grade", (code, kept, limits), timeout_s=whole)


def extract(text: str) -> str | None:
    """The block of code that is the answer; without a block the whole of what follows the thinking."""
    final = final_text(text)
    return None if final is None else fences.answer(final)


def check_tests(tests: Any) -> str | None:
    """What is wrong with the tests of a problem, or None. Parses them and runs nothing."""
    return _check_form(tests) or (None if "cases" in tests else _check_names(tests))


def _check_form(tests: Any) -> str | None:
    if not isinstance(tests, Mapping):
        return "tests must be an object with 'tests' or 'cases'"
    for key in ("setup", "entry_point", "prelude", "prompt"):
        if not isinstance(tests.get(key, ""), str):
            return f"{key!r} must be a text"
    if "cases" in tests:
        cases = tests["cases"]
        pairs = isinstance(cases, list) and all(
            isinstance(case, (list, tuple)) and len(case) == 2 and all(isinstance(side, str) for side in case)
            for case in cases
        )
        return None if pairs and cases else "'cases' must be pairs of texts: input and output"
    listed = tests.get("tests")
    if not isinstance(listed, list) or not listed or not all(isinstance(test, str) for test in listed):
        return "'tests' must be a list of pieces of Python"
    for text in (tests.get("setup", ""), *listed):
        if error := _unparsable(text, "exec"):
            return f"a test is no Python: {error}"
    return None


def _check_names(tests: Mapping[str, Any]) -> str | None:
    if foreign := foreign_modules((tests.get("setup", ""), *tests["tests"])):
        return f"the tests import {', '.join(sorted(foreign))}: only the standard library is inside the sandbox"
    entry, prelude = tests.get("entry_point", ""), tests.get("prelude", "")
    if entry and (error := _unparsable(entry, "eval")):
        return f"'entry_point' is no Python expression: {error}"
    return plan(tests.get("setup", ""), tests["tests"], entry, [tests.get("prompt", ""), prelude]).wrong or None


def _unparsable(text: str, mode: str) -> str:
    try:
        compile(text, "<tests>", mode)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return ""


def check_answer(answer: str) -> str | None:
    """`check_tests` for tests that stand as JSON in a data file's column."""
    try:
        tests = json.loads(answer)
    except (ValueError, RecursionError) as error:
        return f"tests must be JSON: {error}"
    return check_tests(tests)


def humaneval(row: Mapping[str, Any]) -> dict[str, Any]:
    """The tests of a row of HumanEval. Its prompt, which holds imports and helpers, goes before a completion."""
    return {
        "setup": row["test"],
        "tests": ["check(candidate)"],
        "entry_point": row["entry_point"],
        "prompt": row["prompt"],
    }


def mbpp(row: Mapping[str, Any]) -> dict[str, Any]:
    """The tests of a row of MBPP."""
    return {"setup": row["test_setup_code"], "tests": list(row["test_list"]), "entry_point": ""}
