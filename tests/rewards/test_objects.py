"""Values, objects and callbacks between the tests and the answer: what Python does with them, and what cheats get."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.verdict import Status
from tests.rewards.coding import ask, cases

SAME = "def same(x): return x"
RIGHT, WRONG = cases("objects_right"), cases("objects_wrong")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(code={"timeout_s": 10.0}) as grader:
        yield grader


@pytest.fixture(scope="module")
def impatient() -> Iterator[Grader]:
    with Grader(code={"timeout_s": 1.0}) as grader:
        yield grader


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(grader: Grader, name: str) -> None:
    verdict = RIGHT[name].ask(grader)
    assert verdict.correct, verdict


@pytest.mark.parametrize("name", RIGHT)
def test_cases_hold_in_python(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes above is what plain Python passes, in one process."""
    case = RIGHT[name]
    monkeypatch.setitem(sys.modules, "plain", ModuleType("plain"))
    names = vars(sys.modules["plain"])
    for text in (case.tests.get("prelude", ""), case.answer, case.tests.get("setup", "")):
        exec(compile(text, "<plain>", "exec"), names)
    if case.tests.get("entry_point"):
        names["candidate"] = eval(case.tests["entry_point"], names)
    for test in case.tests["tests"]:
        exec(compile(test, "<plain>", "exec"), names)


@pytest.mark.parametrize("name", WRONG)
def test_objects_in_the_place_of_values_win_nothing(impatient: Grader, name: str) -> None:
    verdict = WRONG[name].ask(impatient)
    assert (verdict.correct, verdict.reward) == (False, 0.0), verdict
    assert verdict.status in (Status.failed, Status.timeout)


def test_arguments_that_cannot_be_sent_mask(grader: Grader) -> None:
    verdict = ask(grader, SAME, {"tests": ["assert same('x' * (50 << 20))"]})
    assert (verdict.reward, verdict.status) == (None, Status.infra_error)
    assert "they pass on a value of" in verdict.error


def test_large_results_are_wrong(grader: Grader) -> None:
    verdict = ask(grader, "def f(): return 'x' * (5 << 20)", {"tests": ["assert f() == ''"]})
    assert (verdict.reward, verdict.status) == (0.0, Status.failed)
