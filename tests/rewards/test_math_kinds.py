"""Kinds of answers on which graders differ, as the table math_kinds.txt has them."""

from __future__ import annotations

import pytest

from lightning_cispo.rewards.math import check_golds
from tests.rewards.math_cases import kinds, math_verify_alone, verdict

TABLE = kinds()


@pytest.mark.parametrize("kind", sorted({kind for kind, *_ in TABLE}))
def test_every_verdict_is_the_table_s(kind: str) -> None:
    rows = [row for row in TABLE if row[0] == kind]
    assert len(rows) >= 20
    assert [row[1:] for row in rows if verdict(row[1], row[2]) != row[3]] == []


def test_every_gold_of_the_table_is_mathematics() -> None:
    golds = list(dict.fromkeys(gold for _, gold, *_ in TABLE))
    assert dict(zip(golds, check_golds(golds, timeout_s=30.0))) == dict.fromkeys(golds)


def test_math_verify_alone_pays_for_wrong_answers_that_the_verifier_refuses() -> None:
    """Else the verifier's own reading of shapes would be for nothing."""
    rows = [row for row in TABLE if row[0] == "sets, tuples, lists"]
    paid = [row for row in rows if not row[3] and math_verify_alone(row[1], row[2])]
    assert len(paid) >= 5


def test_what_is_mathematics_passes_as_a_gold() -> None:
    golds = [
        r"\frac{1\pm\sqrt5}{2}",
        r"0.\overline{3}",
        r"\lg 1000",
        "x>2",
        r"\mathbb{R}",
        "17_8",
        r"\{1, 2\}",
        "f'(x)",
    ]
    golds += [r"\text{True}", r"\text{None}", "true", "n", r"\approx 8.24\text{ mph}", r"16\text{ daps}"]
    assert dict(zip(golds, check_golds(golds, timeout_s=30.0))) == dict.fromkeys(golds)


@pytest.mark.parametrize(
    "gold",
    ["None", "True", "False", "nan", "-inf", "null", "b'12'", "'12'", "{'a': 1}", "['a', 'b']", '{"a": 1}', "<NA>"],
)
def test_what_a_program_prints_for_no_answer_is_no_gold(gold: str) -> None:
    assert "not an answer" in str(check_golds([gold])[0])
