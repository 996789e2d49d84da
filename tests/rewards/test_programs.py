"""Programs as answers: right is what `python3 solution.py < input` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.sandbox import box as boxes
from lightning_cispo.rewards.sandbox.levels import Isolation
from lightning_cispo.rewards.verdict import Status
from tests.rewards.coding import ECHO, ask, cases

RIGHT, WRONG = cases("programs_right"), cases("programs_wrong")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(code={"timeout_s": 5.0}) as grader:
        yield grader


@pytest.mark.parametrize("name", RIGHT)
def test_right_is_what_python_prints(grader: Grader, name: str) -> None:
    verdict = ask(grader, RIGHT[name].answer, ECHO)
    assert verdict.correct, verdict


@pytest.mark.parametrize("name", WRONG)
def test_wrong_is_what_python_does_not_print(grader: Grader, name: str) -> None:
    verdict = ask(grader, WRONG[name].answer, ECHO)
    assert (verdict.correct, verdict.reward, verdict.status) == (False, 0.0, Status.failed), verdict


@pytest.mark.parametrize("level", [Isolation.unshare, Isolation.rlimits], ids=lambda level: level.value)
def test_the_input_is_a_file_at_every_level(level: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_cispo.rewards import code_runner

    try:
        box = boxes.Box(level)
    except boxes.SandboxError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(code_runner, "_box", lambda *_: box)
    for name in ("open('/dev/stdin')", "the input's size", "open('/dev/stdout')", "asyncio.run", "fast-IO header"):
        limits = {
            "min_isolation": "rlimits",
            "timeout_s": 5.0,
            "total_timeout_s": 9.0,
            "memory_mb": 512,
            "partial": False,
        }
        found = code_runner.grade(RIGHT[name].answer, ECHO, limits)
        assert found["correct"], (name, found)
    box.close()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that a verdict takes, as it goes."""
    runs: list[str] = []
    started = boxes.Box.run

    def run(box: boxes.Box, kind: str, *rest: Any) -> boxes.Run:
        runs.append(kind)
        return started(box, kind, *rest)

    monkeypatch.setattr(boxes.Box, "run", run)
    return runs


def verdict(answer: str, cases: list[list[str]], monkeypatch: pytest.MonkeyPatch, **limits: Any) -> tuple[Any, int]:
    from lightning_cispo.rewards import code_runner

    runs = counted(monkeypatch)
    known = {"min_isolation": "rlimits", "timeout_s": 5.0, "total_timeout_s": 60.0, "memory_mb": 256, "partial": False}
    try:
        return code_runner.grade(answer, {"cases": cases}, {**known, **limits}), len(runs)
    finally:
        code_runner._forget()


SQUARES = [[f"{n}\n", f"{n * n}\n"] for n in range(12)]


def test_cases_stop_at_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found, runs = verdict("n = int(input()); print(n if n < 3 else n * n)", SQUARES, monkeypatch)
    assert (found["correct"], runs) == (False, 3)  # 0 and 1 are their own squares
    assert found["error"] == "wrong: case 3: not the expected output"


def test_all_cases_count_where_parts_are_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    found, runs = verdict("n = int(input()); print(n if n < 3 else n * n)", SQUARES, monkeypatch, partial=True)
    assert (found["correct"], runs, found["parts"]["correct"]) == (False, 12, 11 / 12)


@pytest.mark.parametrize("partial", [False, True])
def test_all_cases_together_have_a_limit(monkeypatch: pytest.MonkeyPatch, partial: bool) -> None:
    slow = "import time; time.sleep(0.4); n = int(input()); print(n * n)"
    found, runs = verdict(slow, SQUARES, monkeypatch, total_timeout_s=1.0, partial=partial)
    assert (found["correct"], found["timeout"]) == (False, True)
    assert runs <= 3
    assert found["parts"]["passed"] <= 2 / 12


def test_a_slow_wrong_program_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, runs = verdict("import time; time.sleep(0.3); print('no')", SQUARES, monkeypatch, timeout_s=2.0)
    assert (found["correct"], runs) == (False, 1)
