"""Mathematics answers: what is read out of a response, what equals what, and what a policy may not get away with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.judgement import Decision
from lightning_cispo.rewards.math import check_gold, check_golds, extract, judge
from lightning_cispo.rewards.verdict import Problem, Response, Status, Verdict
from tests.rewards import math_cases

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(processes=1, timeout_s=30.0) as grader:
        yield grader


def grade(grader: Grader, gold: str, text: str) -> Verdict:
    return grader.grade(Problem("?", gold, "math", "test"), Response(text, 10, "eos", 100))


def rows(path: str) -> list[dict[str, str]]:
    if not (DATA / path).exists():
        pytest.skip(f"needs {path} in ../shared/data")
    return [json.loads(line) for line in (DATA / path).open()]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"first \boxed{4}, no: \boxed{5}", "5"),
        (r"\boxed{\frac{1}{\sqrt{2}}} because", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{1, \frac{1}{2}\right\}}", r"\left\{1, \frac{1}{2}\right\}"),
        (r"<think>\boxed{4}</think> It is \boxed{5}.", "5"),
        (r"<think>a</think>\boxed{4}<think>b</think>\boxed{5}", "5"),
        ("so it is\nAnswer: 5", "5"),
        ("**The final answer is: $x^2$.**", "$x^2$"),
        ("#### 1,234", "1,234"),
        ("we get\n\n-3/4", "-3/4"),
        ("5 dollars", "5 dollars"),
        ("it is 5", None),
        ("5 or 6", None),
        ("5\nbut who knows", None),
        (r"\boxed{5", None),
        (r"\boxed{5} \boxed{", None),
        (r"\boxed{}", None),
        (r"<think>\boxed{5}", None),
        (r"<think>\boxed{5}</think>", None),
        (r"<think>\boxed{5}</think> ok, done", None),
        (r"\boxed{5} </think> <think> \boxed{6}", None),
        ("", None),
        ("</think>", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract(text) == answer


EQUAL = [
    ("5", "5"), ("5", "5.0"), ("5", "+5"), ("5", "5."), ("0.5", ".5"), (r"\frac12", "0.5"), (r"\frac12", "1/2"),
    (r"\frac{2}{4}", r"\dfrac{1}{2}"), (r"-\frac{3}{4}", "-0.75"), ("1000", "1,000"), ("1000", "1{,}000"),
    ("1000", r"1\,000"), (r"11,\! 111", "11111"), (r"\$32,\!348", r"\$32,348"), ("5", r"\$5"), ("5", r"5\text{ cm}"),
    ("5", "5 dollars"), (r"864 \mbox{ inches}^2", "864"), (r"90^\circ", "90"), ("90", r"90^{\circ}"),
    (r"50\%", "50"), ("50", r"50\%"), (r"50\%", "0.5"), (r"50\%", r"\frac{1}{2}"), ("5", "x=5"), ("x=5", "5"),
    (r"\text{Evelyn}", "evelyn"), (r"\text{(C)}", "C"), ("C", "(C)"), (r"\text{even}", r"\text{Even}"),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"), (r"1+2\sqrt{3}", r"2 \sqrt 3 + 1"), ("p - q", "-q+p"),
    ("x^2+2x+1", "(x+1)^2"), (r"1\frac{4}{5}", "1.8"), ("3, 5, 7", "7,3,5"), ("3, 5", r"5 \text{ and } 3"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"), ("(3,4]", r"\left( 3, 4 \right]"), ("(1,-2)", "(1, -2)"),
    (r"(3,\frac{\pi}{2})", r"(3, \pi/2)"), (r"\{1,2\}", r"\{2,1\}"), (r"x \in [-2,7]", "[-2,7]"),
    (r"(0,9) \cup (9,36)", r"(9,36) \cup (0,9)"), ("2^{10}", "1024"), ("1:2", "1:2"), ("y = 2x + 3", "y=3+2x"),
    (r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}", r"\begin{pmatrix} \frac12 \\ 2 \end{pmatrix}"), ("2516_8", "2516_{8}"),
    (r"\frac{1}{2004!}", r"1/2004!"), (r"6 - 5i", "-5i+6"), (r"\infty", r"\infty"), (r"7\pi", r"\pi \cdot 7"),
]  # fmt: skip

DIFFERENT = [
    ("5", "6"), ("5", "-5"), ("5", r"\frac{5}{1.0001}"), (r"\frac13", "0.333"), (r"\frac13", "0.333333333333"),
    (r"\pi", "3.14"), (r"\pi", "3.14159265358979"), (r"\sqrt2", "1.41421356237"),
    (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
    (r"50\%", "5"), ("1000", "1"), ("5", "5000"), ("5", "5 million"), (r"\text{east}", "tase"),
    (r"\text{Evelyn}", "nylevE"),
    (r"\text{(C)}", "B"), ("(3,4]", "[3,4]"), ("(3,4]", "(3,4)"), ("(1,2)", "(2,1)"), ("(1,2)", "1,2"), ("p-q", "q-p"),
    ("2516_8", "2516_7"), (r"\frac12", "1:2"), (r"\frac15", "6:30"), ("3,5,7", "3,5,8"), ("x^2", "x^3"),
    (r"\infty", r"-\infty"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"), ("1+i", "1-i"),
]  # fmt: skip

# (gold, answer): each contains the right answer, or was seen to be taken for it by a library.
CHEATS = [
    ("5", "5 or 6"), ("5", r"5 \text{ or } 6"), ("5", r"\text{5 or 6}"), ("5", "5, 6"), ("5", "4, 5, 6"), ("5", "5; 6"),
    ("5", "5 and 6"), ("5", r"\{5, 6\}"), ("5", r"\pm 5"), ("5", r"5 \lor 6"), ("5", r"5 \ne 6"), ("5", r"5 \approx 6"),
    ("5", r"5\text{ (not 6)}"), ("5", "maybe 5"), ("5", "6=5"), ("5", "6=x=5"), ("5", "2x=10"), ("5", "x<6"),
    ("11", "5 6"),
    ("56", "5 6"), ("56", r"5\quad 6"), ("56", r"5\text{ }6"), ("3, 5", "3, 4, 5"), ("3, 5", "3, 5, 5"), ("5", "nan"),
    ("5", r"\text{nan}"), ("5", "5x"), ("5", "x"), ("5", "n"), ("5", r"\text{the answer}"), ("5", r"\infty"),
    ("5", r"5/0"), ("5", r"\frac{5}{0}"), ("5", "5|6"), ("5", r"[5,6]"), ("5", r"(5,6)"),
    ("5", "5" * 501), ("5", "{" * 21 + "5" + "}" * 21),
    ("5", "True"), ("5", "What is 2+3?"), ("5", r"\text{gold}"), ("5", "５"), ("x^2", "x^2, x^3"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL + math_cases.EQUAL)
def test_equal(grader: Grader, gold: str, answer: str) -> None:
    verdict = grade(grader, gold, f"<think>hm</think>So \\boxed{{{answer}}}.")
    assert (verdict.correct, verdict.status, verdict.reward, verdict.error) == (True, Status.passed, 1.0, "")


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT + math_cases.DIFFERENT + CHEATS)
def test_different(grader: Grader, gold: str, answer: str) -> None:
    verdict = grade(grader, gold, f"\\boxed{{{answer}}}")
    assert (verdict.correct, verdict.status, verdict.reward) == (False, Status.failed, 0.0)
    assert verdict.error


def test_a_power_tower_costs_one_deadline() -> None:
    with Grader(processes=1, timeout_s=2.0) as grader:
        futures = [
            grader.submit(Problem("?", gold, "math", "t"), Response(rf"\boxed{{{answer}}}", 1, "eos", 9))
            for gold, answer in [("x+1", "9^{9^{9^9}}"), ("(x+1)^2", "x^2+2x+1"), ("5", "5")]
        ]
        verdicts = [future.result() for future in futures]
    assert [verdict.status for verdict in verdicts] == [Status.timeout, Status.passed, Status.passed]
    assert verdicts[0].reward == 0.0
    assert not verdicts[0].correct
    assert "2 s" in verdicts[0].error


def test_plain_numbers_need_no_process() -> None:
    for text in (r"\boxed{18}", r"\boxed{19}", "#### 18", "Answer: $18 dollars", "no"):
        assert isinstance(judge("18", text), Decision)


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 50_000, "{" * 200_000, "<think>" * 50_000, "answer: " * 50_000, "1," * 100_000]
)
def test_long_nonsense_is_decided_at_once(text: str) -> None:
    decision = judge("5", text)
    assert isinstance(decision, Decision)
    assert not decision.correct


def test_golds_are_checked_when_loaded() -> None:
    assert check_golds(["5", r"\frac12", "x^2+1", "x^2+1", r"\text{east}"]) == [None] * 5
    assert check_gold("  ") == "empty answer"
    found = check_golds(["x" * 501, r"\frac{", "7", r"\begin{"])
    assert found[2] is None
    assert all(found[i] for i in (0, 1, 3))


def test_an_unparseable_gold_is_not_a_wrong_answer(grader: Grader) -> None:
    verdict = grade(grader, r"\frac{", r"\boxed{x+1}")
    assert verdict.reward is None
    assert verdict.status is Status.infra_error
    assert "gold" in verdict.error


def test_gsm8k_golds_and_solutions(grader: Grader) -> None:
    problems = rows("gsm8k/test.jsonl")
    golds = [row["answer"].rpartition("####")[2].strip() for row in problems]
    assert len(golds) == 1319
    assert set(check_golds(golds)) == {None}
    assert all(grade(grader, gold, row["answer"]).correct for gold, row in zip(golds, problems))
    # A neighbour's answer is wrong unless it is the same number.
    for gold, other in zip(golds, golds[1:]):
        same = gold.replace(",", "") == other.replace(",", "")
        assert grade(grader, gold, f"\\boxed{{{other}}}").correct == same


def test_math500_golds_and_solutions(grader: Grader) -> None:
    problems = rows("math/math500_test.jsonl")
    golds = [row["answer"] for row in problems]
    assert len(golds) == 500
    assert set(check_golds(golds)) == {None}
    wrong = [row["answer"] for row in problems if not grade(grader, row["answer"], row["solution"]).correct]
    assert wrong == []


def test_math500_golds_through_the_library(grader: Grader) -> None:
    """Spelled so that no text comparison finds them equal, and against a neighbour's answer."""
    golds = [row["answer"] for row in rows("math/math500_test.jsonl") if "=" not in row["answer"]]
    golds = [gold for gold in golds if not isinstance(judge(gold, r"\boxed{y+1}"), Decision)][:120]
    assert len(golds) == 120
    futures = [
        grader.submit(Problem("?", gold, "math", "t"), Response(f"\\boxed{{{answer}}}", 1, "eos", 9))
        for gold, other in zip(golds, golds[1:])
        for answer in (f"z = {gold}", other)
    ]
    verdicts = [future.result() for future in futures]
    assert [gold for gold, verdict in zip(golds, verdicts[::2]) if not verdict.correct] == []
    assert [pair for pair, verdict in zip(zip(golds, golds[1:]), verdicts[1::2]) if verdict.correct] == []
