"""Which names of the tests are the answer's, and that what the answer raises or returns is no control flow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lightning_cispo.rewards import code
from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.sandbox.names import plan
from lightning_cispo.rewards.verdict import Status
from tests.rewards.coding import ask, cases

RIGHT, WRONG, FLOW = cases("names_right"), cases("names_wrong"), cases("control_flow")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(code={"timeout_s": 5.0}) as grader:
        yield grader


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(grader: Grader, name: str) -> None:
    verdict = RIGHT[name].ask(grader)
    assert verdict.correct, verdict


@pytest.mark.parametrize("name", WRONG)
def test_names_that_are_not_the_answers_win_nothing(grader: Grader, name: str) -> None:
    verdict = WRONG[name].ask(grader)
    assert (verdict.correct, verdict.reward, verdict.status) == (False, 0.0, Status.failed), verdict


@pytest.mark.parametrize("name", FLOW)
def test_exceptions_of_the_answer_are_no_control_flow(grader: Grader, name: str) -> None:
    verdict = FLOW[name].ask(grader)
    assert (verdict.correct, verdict.reward, verdict.status) == (False, 0.0, Status.failed), verdict


def test_humaneval_rows_bring_their_prompt() -> None:
    right, wrong = RIGHT["the question's helper"], WRONG["helpers of the answer's, HumanEval/32"]
    row = {"prompt": right.question, "test": right.tests["setup"], "entry_point": "find_zero"}
    with Grader() as grader:
        assert ask(grader, right.answer, code.humaneval(row)).correct
        cheat = ask(grader, wrong.answer, code.humaneval(row))
        assert (cheat.correct, cheat.reward) == (False, 0.0)


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ({"tests": ["assert True"]}, "the tests call nothing of an answer's"),
        ({"tests": ["assert len(max([1], [2, 3])) == 2"]}, r"several builtins \(len, max\)"),
        ({"tests": ["assert sum([1]) == 1", "assert max(1, 2) == 2"]}, "the tests call nothing of an answer's"),
        ({"tests": ["assert f(1)"], "entry_point": "f("}, "'entry_point' is no Python expression"),
        ({"tests": ["assert f(1)"], "entry_point": 3}, "'entry_point' must be a text"),
        ({"tests": ["assert f(1)"], "setup": ["x"]}, "'setup' must be a text"),
        ({"tests": ["import numpy as np\nassert f(1)"]}, "the tests import numpy: only the standard library"),
        ({"tests": ["assert f(1)"], "setup": "from a.b import c\nfrom . import d"}, r"the tests import \., a: only"),
        ({"tests": ["assert f(\0)"]}, "a test is no Python"),
        ({"tests": ["def check():\n    assert 1\nyield f(1)"]}, "a test is no Python"),
        ({"tests": ["assert " + "(" * 500 + "f(1)" + ")" * 500]}, "a test is no Python"),
    ],
)
def test_rows_that_no_answer_could_pass_are_refused(tests: dict[str, Any], why: str) -> None:
    assert re.search(why, code.check_answer(json.dumps(tests)) or "")


def test_nested_json_is_refused() -> None:
    assert "JSON" in (code.check_answer("[" * 100_000) or "")


def test_names_are_found() -> None:
    def names(*tests: str, setup: str = "", entry: str = "", shown: str = "") -> set[str]:
        return plan(setup, list(tests), entry, [shown]).names

    assert names("assert f(1) == g(2)") == {"f", "g"}
    assert names("x = 1\nassert f(x) == [y for y in (1,)]") == {"f"}
    assert names("def t(f): return f(1)\nassert t(g)") == {"g"}
    assert names("assert sum(1, 2) == 3") == {"sum"}
    assert names("assert sum(f(1)) == 3") == {"f"}
    assert names("check(candidate)", setup="def check(c): assert c(1)", entry="f") == {"f"}
    assert names("assert re.match('a', f(1))") == {"f"}
    assert names("assert h(f(1))", entry="f", shown="def h(x): return x\ndef f(x):\n    '''Doc.'''") == {"f"}
    assert names("assert f(1)", shown="def f(x): return x") == {"f"}
    assert names("assert C().a()", shown="class C:\n    def a(self): ...\n    def b(self): return 1") == {"C"}
