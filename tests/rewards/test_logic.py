"""Generated problems: every admitted family gives marks for its gold answer and for nothing else we can think of."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_cispo.rewards import logic
from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.verdict import Problem, Response, Status

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 3


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(processes=1, timeout_s=30.0) as grader:
        yield grader


def correct(grader: Grader, problem: Problem, text: str) -> bool:
    verdict = grader.grade(problem, Response(text, 1, "eos", 9))
    assert verdict.status in (Status.passed, Status.failed), verdict
    assert verdict.reward == float(verdict.correct)
    return verdict.correct


def test_every_family_of_the_library_is_decided_on() -> None:
    from reasoning_gym.factory import DATASETS

    assert set(logic.ADMITTED) | set(logic.REJECTED) == set(DATASETS)
    assert not set(logic.ADMITTED) & set(logic.REJECTED)
    assert len(logic.ADMITTED) >= 60
    assert all(logic.REJECTED.values())
    assert set(logic.COMPACT) <= set(logic.ADMITTED)


@pytest.mark.parametrize("family", sorted(logic.ADMITTED))
def test_gold_scores_and_nothing_else(grader: Grader, family: str) -> None:
    for index in range(SAMPLES):
        problem = logic.generate(family, {}, 7, index)
        assert (problem.verifier, problem.task) == ("logic", family)
        assert problem.prompt and problem.answer
        # What travels between processes is what is scored.
        problem = Problem(**json.loads(json.dumps(vars(problem))))
        gold = problem.answer
        assert correct(grader, problem, gold)
        assert correct(grader, problem, f"<think>{'hm ' * 5}</think>\n {gold}\n")
        hostile = [
            "", " ", "garbage", "0.5.5", "None", "nan", "NaN", "[NaN]", "inf", "[]", "{}", "[[]]", '""', "×", ",",
            "1e999", "9**9**9**9", "__import__('os')._exit(0)", "x" * 50_000, "[" * 5000,
            "\x00", problem.prompt,
            f"<think>{gold}", f"<think>{gold}</think>", f"<think>{gold}</think> I don't know",
            f"{gold} or {gold}x", f"not {gold}", f"{gold}\n{gold}x7", f"{gold} </think>",
        ]  # fmt: skip
        assert [text for text in hostile if correct(grader, problem, text)] == []


@pytest.mark.parametrize("family", sorted(f for f, judge in logic.ADMITTED.items() if judge is logic.Judge.library))
def test_the_librarys_scorer_also_takes_its_gold(grader: Grader, family: str) -> None:
    from lightning_cispo.rewards.logic.library import score

    for index in range(SAMPLES):
        problem = logic.generate(family, {}, 7, index)
        assert score(family, {}, problem.answer, problem.answer, problem.entry["metadata"])
        other = logic.generate(family, {}, 7, index + 100)
        if other.answer.lower() != problem.answer.lower():
            assert not correct(grader, problem, other.answer)


def test_answers_in_another_spelling(grader: Grader) -> None:
    def problem(family: str, answer: str) -> Problem:
        found = (logic.generate(family, {}, 1, i) for i in range(10_000))
        return next(p for p in found if p.answer == answer)

    total = logic.generate("chain_sum", {"min_digits": 4}, 0, 1)
    number = int(total.answer)
    assert correct(grader, total, f"{number:+,}.00")
    assert correct(grader, total, f"0{number}") == (number >= 0)
    assert not correct(grader, total, str(number + 1))
    assert not correct(grader, total, f"{number} {number}")
    assert correct(grader, problem("gcd", "12"), "12.0")
    assert not correct(grader, problem("syllogism", "Yes"), "Yes or No")
    factors = problem("prime_factorization", "2 × 2 × 3")
    assert correct(grader, factors, "3×2 ×2")
    assert not correct(grader, factors, "4 × 3")
    numbers = logic.generate("number_sorting", {}, 3, 3)
    assert not correct(
        grader, numbers, "[" + ", ".join(["NaN"] * len(json.loads(numbers.answer.replace("'", '"')))) + "]"
    )


def test_compact_forms() -> None:
    made = {family: logic.generate(family, {}, 0, 3) for family in logic.COMPACT}
    assert all(logic.compact(problem).endswith("=") for problem in made.values())
    short = logic.generate("chain_sum", {"min_terms": 3, "max_terms": 3, "max_digits": 1}, 0, 0)
    expression = logic.compact(short)
    assert len(expression) == 6
    assert eval(expression[:-1]) == int(short.answer)
    product = made["products"]
    assert eval(logic.compact(product)[:-1]) == int(product.answer)
    unknown, solved = logic.compact(made["simple_equations"]).split(";")
    letter = solved[0]
    left, right = unknown.split("=")
    assert eval(left, {letter: int(made["simple_equations"].answer)}) == int(right)
    with pytest.raises(ValueError, match="syllogism: has no compact form"):
        logic.compact(logic.generate("syllogism", {}, 0, 0))


def test_seed_and_index_name_a_problem() -> None:
    params = {"min_terms": 3, "max_terms": 3, "min_digits": 4}
    first = [logic.generate("chain_sum", params, 1, i) for i in range(200)]
    assert first == [logic.generate("chain_sum", params, 1, i) for i in reversed(range(200))][::-1]
    # The library's own numbering would give seed 2 all but one of seed 1's problems.
    second = {logic.generate("chain_sum", params, 2, i).prompt for i in range(200)}
    assert len({problem.prompt for problem in first}) == 200
    assert not second & {problem.prompt for problem in first}


def digest() -> str:
    """Of a few problems of every admitted family; also called in another process."""
    found = hashlib.sha256()
    for family in sorted(logic.ADMITTED):
        for index in range(2):
            found.update(json.dumps(vars(logic.generate(family, {}, 5, index)), sort_keys=True).encode())
    return found.hexdigest()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_generation_does_not_depend_on_the_process(hash_seed: str) -> None:
    program = "from tests.rewards.test_logic import digest; print(digest())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    assert output.stdout.decode().split()[-1] == digest()


@pytest.mark.parametrize(
    ("family", "params", "says"),
    [
        ("chain_sum", {"min_terms": 3, "max_terms": 3}, None),
        ("basic_arithmetic", {"operators": ["+", "-"]}, None),
        ("chain_sum", {"terms": 3}, "no parameter 'terms'; it has: allow_negation, max_digits"),
        ("chain_sum", {"seed": 3}, "no parameter 'seed'"),
        ("chain_sum", {"max_digits": "2"}, "max_digits='2' must be int"),
        ("chain_sum", {"max_digits": True}, "max_digits=True must be int"),
        ("chain_sum", {"allow_negation": 1}, "allow_negation=1 must be bool"),
        ("chain_sum", {"min_terms": 5, "max_terms": 3}, "max_terms must be >= min_terms"),
        ("basic_arithmetic", {"operators": "+"}, "must be"),
        ("basic_arithmetic", {"operators": ["^"]}, "unsupported operator"),
        ("countdown", {}, "not admitted: its scorer runs text"),
        ("sums", {}, "unknown family 'sums'; one of: ab, "),
    ],
)
def test_params_are_checked(family: str, params: dict[str, object], says: str | None) -> None:
    found = logic.check_params(family, params)
    if says is None:
        assert found is None
        assert logic.generate(family, params, 0, 0).answer
        return
    assert found is not None and says in found and "\n" not in found


def test_generation_refuses_what_has_no_problems() -> None:
    for family, params in [("countdown", {}), ("sums", {}), ("chain_sum", {"min_terms": 5, "max_terms": 3})]:
        with pytest.raises(ValueError, match=family):
            logic.generate(family, params, 0, 0)
