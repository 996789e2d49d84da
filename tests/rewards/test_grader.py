"""Composition, the registry, a user's verifiers, and what the run sees when a verifier fails."""

from __future__ import annotations

import datetime
import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from lightning_cispo.configs.schema import RewardsConfig
from lightning_cispo.rewards.format import format_score
from lightning_cispo.rewards.grader import Grader, check_verifier
from lightning_cispo.rewards.overlong import overlong_penalty
from lightning_cispo.rewards.verdict import Problem, Response, Status
from tests.rewards.processes import alive

ROOT = Path(__file__).resolve().parents[2]
MINE = "tests.rewards.verifiers"
ANYTHING = "tests.rewards.returning:returns"


def problem(verifier: str = "exact", answer: str = "5") -> Problem:
    return Problem("2+3=", answer, verifier, "sums")


def response(text: str, tokens: int = 50) -> Response:
    return Response(text, tokens, "eos", 100)


INFRA = Status.infra_error


@pytest.fixture(scope="module")
def numbers() -> Iterator[Grader]:
    with Grader(timeout_s=30.0, memory_mb=4096) as grader:
        yield grader


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(timeout_s=2.0, memory_mb=256) as grader:
        yield grader


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a</think>b", 1.0),
        (" \n<think>\na\n</think>\n\nb", 1.0),
        ("<think></think>b", 1.0),
        ("<think>a</think>", 0.0),
        ("<think>a</think> \n", 0.0),
        ("<think>a", 0.0),
        ("a</think>b", 0.0),
        ("x<think>a</think>b", 0.0),
        ("<think>a</think>b<think>c</think>d", 0.0),
        ("<think><think>a</think>b", 0.0),
        ("<think>a</think>b</think>", 0.0),
        ("</think>a<think>", 0.0),
        ("b", 0.0),
        ("", 0.0),
    ],
)
def test_format(text: str, score: float) -> None:
    assert format_score(text) == score


@pytest.mark.parametrize(
    ("tokens", "cache", "penalty"),
    [(50, 20, 0.0), (80, 20, 0.0), (90, 20, -0.5), (100, 20, -1.0), (110, 20, -1.0), (100, 0, 0.0), (101, 0, -1.0)],
)
def test_overlong(tokens: int, cache: int, penalty: float) -> None:
    assert overlong_penalty(tokens, 100, cache) == penalty


def test_the_schemas_fields_are_the_graders() -> None:
    with Grader(**asdict(RewardsConfig())) as grader:
        assert grader.grade(problem(), response("5")).reward == 1.0


def test_parts_are_weighted_and_correctness_is_kept() -> None:
    with Grader(
        correct_weight=2.0, format_weight=0.5, overlong_weight=0.4, overlong_cache_tokens=20, clip_max=9.0
    ) as grader:
        verdict = grader.grade(problem(), response("<think>a</think>5", tokens=90))
        assert verdict.parts == {"correct": 1.0, "format": 1.0, "overlong": -0.5}
        assert verdict.reward == pytest.approx(2.0 + 0.5 - 0.2)
        verdict = grader.grade(problem(), response("6", tokens=100))
        assert verdict.parts == {"correct": 0.0, "format": 0.0, "overlong": -1.0}
        assert (verdict.reward, verdict.correct) == (pytest.approx(-0.4), False)


def test_the_sum_is_clipped_and_unweighted_parts_are_left_out() -> None:
    with Grader(correct_weight=0.0, format_weight=3.0, clip_min=-0.25, clip_max=0.75) as grader:
        verdict = grader.grade(problem(), response("<think>a</think>5"))
    assert (verdict.reward, verdict.correct) == (0.75, True)
    assert verdict.parts == {"correct": 1.0, "format": 1.0}
    with pytest.raises(ValueError, match="clip_min"):
        Grader(clip_min=1.0, clip_max=0.0)


def test_a_tiny_change_of_the_text_never_flips_exact(grader: Grader) -> None:
    assert grader.grade(problem(answer="a b"), response("<think>c</think> a b ")).correct
    for text in ("", "a  b", "A b", "a b c", "a b</think>", "<think>a b", "<think>a b</think>"):
        assert not grader.grade(problem(answer="a b"), response(text)).correct


@pytest.mark.parametrize(
    ("function", "text", "reward", "correct"),
    [
        ("contains", "it is 5", 1.0, True),
        ("contains", "it is 6", 0.0, False),
        ("by_length", "", 0.0, False),
        ("by_length", "12345", 1.0, True),
        ("verdict", "x", 0.25, False),
    ],
)
def test_a_users_verifier(grader: Grader, function: str, text: str, reward: float, correct: bool) -> None:
    verdict = grader.grade(problem(f"{MINE}:{function}"), response(text))
    assert (verdict.reward, verdict.correct) == (reward, correct)
    assert verdict.status is (Status.passed if correct else Status.failed)
    if function == "verdict":
        assert verdict.parts == {"correct": 0.25, "style": 0.5}
        assert verdict.error == "so so"


@pytest.mark.parametrize(
    ("function", "says"),
    [("raises", "my own bug"), ("returns_text", "must return a bool"), ("masked", "judge is down"), ("gone", "gone")],
)
def test_a_failing_verifier_masks(grader: Grader, function: str, says: str) -> None:
    verdict = grader.grade(problem(f"{MINE}:{function}"), response("5"))
    assert (verdict.reward, verdict.correct, verdict.status) == (None, False, Status.infra_error)
    assert says in verdict.error


@pytest.mark.parametrize(
    ("returned", "reward", "correct"),
    [
        ("np.float64(1.0)", 1.0, True),
        ("np.float32(0.25)", 0.25, False),
        ("np.int64(1)", 1.0, True),
        ("np.bool_(True)", 1.0, True),
        ("np.array(0.5)", 0.5, False),
        ("torch.tensor(0.5)", 0.5, False),
        ("Fraction(1, 4)", 0.25, False),
        ("Decimal('0.25')", 0.25, False),
        ("Verdict(np.float32(0.25), np.bool_(True), 'pass', {'style': np.float64(0.5)})", 0.25, True),
        ("Verdict(True, 1, Status.passed)", 1.0, True),
    ],
)
def test_every_kind_of_number_is_a_number(numbers: Grader, returned: str, reward: float, correct: bool) -> None:
    verdict = numbers.grade(problem(ANYTHING, returned), response("5"))
    assert (verdict.reward, verdict.correct, verdict.error) == (reward, correct, "" if correct else "not the answer")
    assert {type(value) for value in (verdict.reward, *verdict.parts.values())} == {float}
    assert type(verdict.correct) is bool


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("nan", "nan; it must be finite"),
        ("-inf", "-inf; it must be finite"),
        ("10**400", "it must be finite"),
        ("np.float64('nan')", "it must be finite"),
        ("'1.0'", "'1.0'; it must return a bool, a finite number or a Verdict"),
        ("None", "must return"),
        ("1j", "must return"),
        ("np.ones(2)", "must return"),
        ("(1.0, True)", "must return"),
        ("Verdict(nan, True, Status.passed)", "reward=nan: must be a finite number"),
        ("Verdict(inf, True, Status.passed)", "reward=inf: must be a finite number"),
        ("Verdict('1.0', True, Status.passed)", "reward='1.0': must be a finite number"),
        ("Verdict(1.0, None, Status.passed)", "correct=None: must be True or False"),
        ("Verdict(1.0, True, 'good')", "'good' is not a valid Status"),
        ("Verdict(1.0, True, Status.passed, {'style': None})", "parts['style']=None: must be a finite number"),
        ("Verdict(1.0, True, Status.passed, {'style': nan})", "parts['style']=nan: must be a finite number"),
        ("Verdict(1.0, True, Status.passed, {1: 1.0})", "must be a dict of numbers by name"),
        ("Verdict(1.0, True, Status.passed, None)", "must be a dict of numbers by name"),
        ("Verdict(1.0, True, Status.passed, {}, None)", "error=None: must be text"),
        ("Verdict(0.0, False, Status.infra_error, {}, 'no disk')", "no disk"),
    ],
)
def test_what_is_no_number_masks(numbers: Grader, returned: str, says: str) -> None:
    verdict = numbers.grade(problem(ANYTHING, returned), response("5"))
    assert (verdict.reward, verdict.correct, verdict.status) == (None, "infra" in returned and verdict.correct, INFRA)
    assert says in verdict.error


def test_a_users_timeout_is_one(numbers: Grader) -> None:
    verdict = numbers.grade(problem(ANYTHING, "Verdict(0.5, False, 'timeout')"), response("5"))
    assert (verdict.reward, verdict.status) == (0.5, Status.timeout)


def test_a_sum_that_no_float_holds_masks() -> None:
    with Grader(correct_weight=10.0, memory_mb=4096) as grader:
        verdict = grader.grade(problem(ANYTHING, "1e308"), response("5"))
    assert verdict.reward is None and "reward=inf" in verdict.error
    for wrong in ({"correct_weight": float("inf")}, {"clip_max": float("nan")}):
        with pytest.raises(ValueError, match="must be finite"):
            Grader(**wrong)


def deep(levels: int) -> dict:
    return functools.reduce(lambda inner, _: {"a": inner}, range(levels), {})


@pytest.mark.parametrize(
    "bad",
    [
        problem("maths"),
        problem("judge"),
        problem("code", "not JSON"),
        problem("code", "[" * 100_000),
        problem("code", '{"tests": ["assert f(1) =="]}'),
        problem("code", '{"tests": ["' + "(" * 5000 + '"]}'),
        problem("code", '{"cases": []}'),
        problem("logic"),
        problem("math", None),  # type: ignore[arg-type]
        Problem("", "5", f"{MINE}:contains", "t", {"when": datetime.date(2024, 5, 1)}),
        Problem("", "5", f"{MINE}:contains", "t", deep(100_000)),
        Problem("", "5", f"{MINE}:contains", "t", deep(900)),
        Problem("", "5", f"{MINE}:contains", "t", {"nan": "x" * (65 << 20)}),
        Problem("", "5", f"{MINE}:masked", "t"),
    ],
    ids=lambda bad: f"{bad.verifier} {str(bad.answer)[:20]}",
)
def test_a_bad_row_masks_its_samples_and_the_next_is_judged(grader: Grader, bad: Problem) -> None:
    verdict = grader.submit(bad, response("6")).result()
    assert (verdict.reward, verdict.correct, verdict.status) == (None, False, INFRA)
    assert verdict.error.startswith("the verifier failed: ") or bad.verifier.endswith("masked")
    assert 0 < len(verdict.error) <= 1000
    assert grader.grade(problem(f"{MINE}:contains"), response("5")).correct


def test_a_closed_grader_masks() -> None:
    grader = Grader()
    grader.close()
    verdict = grader.submit(problem(f"{MINE}:contains"), response("5")).result()
    assert (verdict.reward, verdict.error) == (None, "the verifier failed: RuntimeError: the pool is closed")


def test_which_verifiers_failed_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with Grader(timeout_s=2.0) as grader:
        for function in ("raises", "raises", "contains", "returns_text"):
            grader.grade(problem(f"{MINE}:{function}"), response("5"))
        failures = grader.stats(reset=True)["failures"]
        assert {name: count for name, (count, _) in failures.items()} == {
            f"{MINE}:raises": 2,
            f"{MINE}:returns_text": 1,
        }
        assert "KeyError: 'my own bug'" in failures[f"{MINE}:raises"][1]
        assert grader.stats()["failures"] == {}
    assert caplog.text.count("its samples are masked") == 2


def test_a_verifier_that_hangs_is_a_timeout_and_wrong(grader: Grader) -> None:
    verdict = grader.grade(problem(f"{MINE}:sleeps"), response("5"))
    assert (verdict.reward, verdict.correct, verdict.status) == (0.0, False, Status.timeout)


def test_verifiers_are_checked_before_a_run() -> None:
    for name in ("math", "logic", "exact", f"{MINE}:contains"):
        assert check_verifier(name) is None
    for name in ("maths", "", "a.b", "os.system('x'):f", "a:b:c"):
        assert "unknown verifier" in (check_verifier(name) or "")
    assert "No module named 'nowhere'" in (check_verifier("nowhere.at_all:f") or "")
    assert "gone" in (check_verifier(f"{MINE}:gone") or "")
    assert "not a function" in (check_verifier(f"{MINE}:number") or "")


@pytest.mark.parametrize(
    ("body", "says"),
    [("raise ValueError('two\\nlines')", "ValueError: two lines"), ("import os; os._exit(3)", "process")],
)
def test_a_module_whose_import_fails_is_refused_in_one_line(tmp_path, monkeypatch, body, says) -> None:
    (tmp_path / "failing_verifier.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    found = check_verifier("failing_verifier:f") or ""
    assert found.startswith("verifier 'failing_verifier:f' can't be loaded: ") and says in found and "\n" not in found


def test_stats() -> None:
    with Grader(timeout_s=2.0) as grader:
        for function in ("contains", "sleeps", "raises"):
            grader.grade(problem(f"{MINE}:{function}"), response("5"))
        grader.grade(problem(), response("5"))
        stats = grader.stats(reset=True)
        assert (stats["graded"], stats["library_calls"], stats["timeouts"], stats["infra_errors"]) == (4, 3, 1, 1)
        assert stats["latency_max_s"] >= 2.0 > stats["latency_mean_s"] > 0.0
        assert stats["queue_depth"] == 0
        stats = grader.stats()
        assert (stats.pop("failures"), set(stats.values())) == ({}, {0})


def test_submit_returns_while_a_verification_runs_and_close_ends_it() -> None:
    grader = Grader(timeout_s=600.0)
    slow = grader.submit(problem(f"{MINE}:sleeps"), response("5"))
    queued = grader.submit(problem(f"{MINE}:contains"), response("5"))
    quick = grader.submit(problem(), response("5"))
    assert quick.done() and not slow.done() and not queued.done()
    grader.close()
    assert [future.result().reward for future in (slow, queued)] == [None, None]


def test_from_threads_of_a_thread_as_from_the_main_thread() -> None:
    answers = ["x^2+2x+1", "5", "9^{9^{9^9}}", "(x+1)(x+1)", r"\sqrt{2}"]
    expected = [True, False, False, True, False]
    found: list[bool] = []

    def actor() -> None:
        with Grader(processes=2, timeout_s=3.0) as grader, ThreadPoolExecutor(5) as threads:
            ask = problem("math", "(x+1)^2")
            found.extend(
                v.correct for v in threads.map(lambda a: grader.grade(ask, response(rf"\boxed{{{a}}}")), answers)
            )

    thread = threading.Thread(target=actor)
    thread.start()
    thread.join()
    assert found == expected


def test_hostile_answers_among_many_lose_nothing() -> None:
    with Grader(processes=2, timeout_s=3.0, memory_mb=256) as grader:
        grader.grade(problem("math", "x"), response(r"\boxed{y}"))
        futures = []
        for i in range(200):
            text = r"\boxed{9^{9^{9^9}}}" if i % 50 == 25 else rf"\boxed{{x+{i % 7}}}"
            futures.append(grader.submit(problem("math", "3+x"), response(text)))
        verdicts = [future.result() for future in futures]
        pids = grader._pool.pids()
    assert [i for i, verdict in enumerate(verdicts) if verdict.status is Status.timeout] == [25, 75, 125, 175]
    assert [i for i, verdict in enumerate(verdicts) if verdict.correct] == [
        i for i in range(200) if i % 7 == 3 and i % 50 != 25
    ]
    assert all(verdict.reward is not None for verdict in verdicts)
    assert pids and not any(map(alive, pids))


def test_importing_the_grader_stays_light() -> None:
    program = "import lightning_cispo.rewards.grader, sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    loaded = set(output.stdout.split())
    assert "lightning_cispo.rewards.grader" in loaded
    heavy = {"torch", "ray", "numpy", "sympy", "math_verify", "reasoning_gym", "configs", "transformers"}
    assert not loaded & heavy
