"""Asking for a verdict on code, and the cases in `cases/`, for the tests of the verifier."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
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


@dataclass
class Case:
    answer: str
    tests: dict[str, Any]
    question: str

    def ask(self, grader: Grader) -> Verdict:
        return ask(grader, self.answer, self.tests, self.question)


def cases(name: str) -> dict[str, Case]:
    """By title. A case begins with `=== title`, its parts with `--- name`: answer, question, setup, test ..."""
    found = {}
    for text in (Path(__file__).parent / "cases" / f"{name}.txt").read_text().split("\n=== ")[1:]:
        title, *parts = text.split("\n--- ")
        named = [tuple(part.split("\n", 1)) for part in parts]
        single = {key: body.rstrip("\n") for key, body in named if key != "test"}
        tests = {**single, "tests": [body for key, body in named if key == "test"]}
        found[title] = Case(tests.pop("answer"), tests, tests.pop("question", "?"))
    return found
