"""Asking for a verdict on code, for the tests of the verifier."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.verdict import Problem, Response, Verdict

DOUBLE = {"tests": ["assert double(2) == 4", "assert double([1]) == [1, 1]", "assert double('ab') == 'abab'"]}
ECHO = {"cases": [["1 2\n", "3\n"], ["5 6\n", "11"]]}


def submit(grader: Grader, answer: str, tests: dict[str, Any] | None = None, prompt: str = "?") -> Future[Verdict]:
    problem = Problem(prompt, "", "code", "t", tests or DOUBLE)
    return grader.submit(problem, Response(f"<think>hm</think>So:\n```python\n{answer}\n```\n", 1, "eos", 9))


def ask(grader: Grader, answer: str, tests: dict[str, Any] | None = None, prompt: str = "?") -> Verdict:
    return submit(grader, answer, tests, prompt).result()
