"""An answer must be at least as evaluated as a gold that is a number: what that refuses, and what it must not cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.judgement import Decision
from lightning_cispo.rewards.math import MathOptions, judge
from lightning_cispo.rewards.mathematics.evaluated import Work, work_left
from lightning_cispo.rewards.mathematics.spelling import squeeze
from lightning_cispo.rewards.mathematics.values import parse
from lightning_cispo.rewards.mathematics.verify import equivalent
from lightning_cispo.rewards.verdict import Problem, Response
from tests.rewards.math_cases import verdict

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "math" / "math500_test.jsonl"

# Equal to the gold, but a question's formula rather than its answer.
ECHOES = [
    ("97969", r"\left(\sqrt{97969}\right)^2"), (r"\frac{7}{2}", r"\frac{91}{26}"), ("1024", "2^{10}"),
    ("48", r"\frac{6!+7!}{5!}"), ("x = 4", "3x + 2 = 14"),
    (r"\frac{1}{2}", r"\dfrac{2}{4}"), ("11", r"88 \div 4 \div 2"), (r"\frac12", r"\log_7\sqrt7"),
    ("45", r"\binom{10}{8}"),
    (r"5\sqrt2", r"\sqrt{50}"), (r"-2i", r"i^{11} + i^{111}"), ("4\\pi", r"5\pi - \pi"),
    (r"\frac{73}{99}", r"0.\overline{73}"),
    (r"\frac{2}{25} - \frac{14}{25}i", r"\frac{2+2i}{-3+4i}"), ("(3, 4)", r"(\sqrt{9}, 2^2)"),
    ("1, 5", "3 - 2, 3 + 2"),
    (r"\{4\}", r"\{2+2\}"), ("x = 4", "x = 2 + 2"), ("[0, 4]", r"[0, \frac{8}{2}]"), (r"50\%", r"\frac{2}{4}"),
]  # fmt: skip


def rows() -> list[dict[str, str]]:
    if not DATA.exists():
        pytest.skip("needs math/math500_test.jsonl in ../shared/data")
    return [json.loads(line) for line in DATA.open()]


@pytest.mark.parametrize(("gold", "answer"), ECHOES)
def test_an_unevaluated_answer_is_wrong_unless_the_option_is_off(gold: str, answer: str) -> None:
    assert not verdict(gold, answer)
    assert verdict(gold, answer, evaluated=False)


def test_the_reason_is_told() -> None:
    assert "less evaluated" in judge("1/2", r"\boxed{2/4}").reason  # type: ignore[union-attr]
    assert "less evaluated" in equivalent(r"\sqrt{50}", r"5\sqrt{2}")["error"]


@pytest.mark.parametrize(("evaluated", "correct"), [(True, False), (False, True)])
def test_the_option_reaches_the_verifier(evaluated: bool, correct: bool) -> None:
    with Grader(timeout_s=30.0, math={"evaluated": evaluated}) as grader:
        for gold, answer in (("1024", "2^{10}"), ("1/2", "2/4")):
            found = grader.grade(Problem("?", gold, "math", "t"), Response(rf"\boxed{{{answer}}}", 1, "eos", 9))
            assert (found.correct, "less evaluated" in found.error) == (correct, not correct)


@pytest.mark.parametrize(
    ("text", "work"),
    [
        ("5", Work()), (r"\frac{91}{26}\pi", Work(terms=1)), (r"2\cdot 3\pi", Work(arithmetic=1, terms=1)),
        (r"\sqrt{2}", Work(terms=1)), (r"\sqrt{50}", Work(radicals=1, terms=1)), (r"\sqrt{49}", Work(arithmetic=1)),
        (r"\frac{1}{\sqrt2}", Work(terms=1)), (r"\frac{10}{\sqrt2}", Work(radicals=1, terms=1)),
        (r"(1+\sqrt2)^2", Work(products=1, terms=1)), (r"\pi^2", Work(terms=1)), ("i^3", Work(products=1, terms=1)),
        (r"\sin 1", Work(terms=1, functions=1)), (r"\pi+\pi", Work(terms=2)), (r"\frac{\sqrt3}{\sqrt2}", Work(terms=1)),
    ],
)  # fmt: skip
def test_the_work_left_in_a_constant(text: str, work: Work) -> None:
    value = parse(squeeze(text))
    assert value is not None
    assert work_left(value) == work


def test_every_reference_solution_passes() -> None:
    for row in rows():
        judgement = judge(row["answer"], row["solution"], MathOptions(evaluated=True))
        assert isinstance(judgement, Decision), row["answer"]  # the gold itself is in the solution's box
        assert judgement.correct, row["answer"]


def respelled(gold: str) -> set[str]:
    """A gold as others would write it."""
    found = {
        f"${gold}$", f"{gold}.", gold.replace(r"\frac", r"\dfrac"), re.sub(r"([+\-=,])", r" \1 ", gold),
        re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", gold), gold.replace(r"\pi", "π"), re.sub(r"\^\{(\d)\}", r"^\1", gold),
    }  # fmt: skip
    found.add(re.sub(r"\\frac\{(\d+)\}\{(\d+)\}$", r"\1/\2", gold) if not re.search(r"\d\\frac", gold) else gold)
    found.add(gold if "=" in gold or r"\in" in gold or r"\text" in gold else f"x = {gold}")
    return found - {gold}


def test_reasonable_spellings_of_every_gold_pass() -> None:
    golds = {row["answer"] for row in rows()}
    hard = [gold for gold in golds if not re.fullmatch(r"-?\d+", gold)]
    assert len(hard) > 150
    assert [(gold, answer) for gold in hard for answer in respelled(gold) if not verdict(gold, answer)] == []


def test_boxing_the_longest_formula_of_a_question_is_not_paid_where_the_gold_is_a_number() -> None:
    """Fifteen of these 500 questions paid for it without the rule."""
    paid = {True: 0, False: 0}
    for row in rows():
        formulas = [a or b for a, b in re.findall(r"\\\[(.+?)\\\]|\$(.+?)\$", row["problem"], re.DOTALL)]
        number = re.fullmatch(r"-?(?:\d+|\\frac\{?\d+\}?\{?\d+\}?)", row["answer"])
        if not formulas or not number:
            continue
        longest = max(formulas, key=len).strip().rstrip(".,?")
        if longest != row["answer"] and not re.search(r"[A-Za-z](?!\w*\{)", re.sub(r"\\[a-z]+", "", longest)):
            for evaluated in paid:
                paid[evaluated] += verdict(row["answer"], longest, evaluated)
    assert paid[False] >= 10
    assert paid[True] == 0


def test_a_fresh_process_is_warm_before_its_first_deadline() -> None:
    """After the import, which is outside the deadline, an answer loads no module and builds no grammar table anew."""
    code = """
import sys
from lightning_cispo.rewards.mathematics import values, verify
modules = set(sys.modules)
assert values._parse.cache_info().misses >= 10
for answer, gold in [("x^2+2x+1", "(x+1)^2"), ("y=2x", "2y=4x"), ("2^{1/2}", "sqrt(2)"), ("e^{2i}+3", "3+e^{2i}")]:
    assert verify.equivalent(answer, gold, False)["correct"], answer
loaded = {name for name in set(sys.modules) - modules if not name.startswith("encodings")}
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
