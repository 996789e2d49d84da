"""Golds of the families that are judged by them follow from the question, and are taken in several spellings."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from lightning_cispo.rewards import logic
from lightning_cispo.rewards.judgement import Decision
from lightning_cispo.rewards.logic.derived import DERIVED, settled
from lightning_cispo.rewards.logic.derived.errors import Unsettled
from lightning_cispo.rewards.logic.generation import dataset
from lightning_cispo.rewards.verdict import Problem
from tests.rewards.solvers import SOLVERS

BY_GOLD = sorted(family for family, judge in logic.ADMITTED.items() if judge is not logic.Judge.library)


def right(problem: Problem, answer: str) -> bool:
    found = logic.judge(problem, answer)
    assert isinstance(found, Decision)
    return found.correct


def wrong_golds(family: str, count: int) -> list[str]:
    problems = (logic.generate(family, {}, 11, index) for index in range(count))
    return [problem.prompt for problem in problems if not right(problem, SOLVERS[family](problem.prompt))]


def test_every_family_judged_by_its_gold_has_a_solver():
    assert sorted(SOLVERS) == BY_GOLD


@pytest.mark.parametrize("family", BY_GOLD)
def test_golds_follow_from_their_questions(family):
    assert wrong_golds(family, 4 if family in ("futoshiki", "sudoku") else 20) == []


@pytest.mark.soak
@pytest.mark.parametrize("family", BY_GOLD)
def test_thousands_of_golds_follow_from_their_questions(family):
    assert wrong_golds(family, 200 if family in ("futoshiki", "sudoku") else 3000) == []


@pytest.mark.parametrize(
    ("family", "question", "answer"),
    [
        ("aiw", "Susan has 5 sisters and she also has 1 brothers. How many sisters does Joseph's brother have?", "6"),
        ("basic_arithmetic", "Calculate ( 241 / -( ( 232 + 768 ) + 1001 ) ) + 447.", "446"),
        (
            "calendar_arithmetic",
            "Given that January 1 fell on a Thursday, which weekday occurs on March 30? ",
            "Monday",
        ),
        ("ab", "A# #A", ""),
        ("caesar_cipher", "Decrypt this Caesar cipher text: BJSJBM. Provide", "AËRIAL"),
        (
            "number_filtering",
            "Keep all numbers smaller than -16 in this list: ['-85', '-85.0']\nReturn the new list in the same format.",
            "['-85', '-85']",
        ),
        ("simple_equations", "Determine the value of c that satisfies: 0 = 0", "34"),
        (
            "simple_geometry",
            "A convex polygon has 4 sides. The measures of the first 3 interior angles are: 10.0°, 20.0°, 30.0°. ",
            "300",
        ),
        (
            "syllogism",
            "1. All artists are humans\n2. Some humans are not tigers\n\nDoes it logically follow that:\n"
            "Some artists are not tigers?\n(Answer Yes or No)",
            "Yes",
        ),
        (
            "time_intervals",
            "A flight departed at 10:38:02.150 and arrived at 20:27:57.083. How long was the flight? "
            "Answer in HH:MM:SS.mmm.",
            "09:49:54.932",
        ),
    ],
)
def test_problems_whose_gold_does_not_follow_are_left_out(family, question, answer):
    assert settled(family, question, answer) is None


@pytest.mark.parametrize(
    ("premises", "conclusion", "follows"),
    [
        ("All a are b 2. All b are c", "All a are c", "Yes"),
        ("All a are b 2. All b are c", "Some c are not a", "No"),
        ("No a are b 2. Some c are b", "Some c are not a", "Yes"),
        ("Some a are b 2. Some b are c", "Some a are c", "No"),
        ("No a are b 2. All b are c", "No b are a", "Yes"),
        ("All a are b 2. All a are c", "Some b are c", None),  # only if there is an a
    ],
)
def test_syllogisms(premises, conclusion, follows):
    question = f"1. {premises}\nDoes it logically follow that:\n{conclusion}?"
    if follows is None:
        with pytest.raises(Unsettled):
            DERIVED["syllogism"](question)
    else:
        assert DERIVED["syllogism"](question) == follows


def test_the_librarys_own_golds_are_wrong_at_times():
    """Why problems are left out: of 300 syllogisms, those with another gold than every reading gives."""
    found = Counter()
    for index in range(300):
        made = dataset("syllogism", "{}")[index]
        try:
            found[DERIVED["syllogism"](made["question"]) == made["answer"]] += 1
        except Unsettled:
            found[None] += 1
    assert found[False] > 10 and found[None] > 10 and found[True] > 150


def test_a_number_copied_from_the_question_is_right():
    for index in range(200):
        problem = logic.generate("number_format", {}, 3, index)
        candidates = problem.prompt.rsplit(":", 1)[1].split()
        taken = [text for text in candidates if right(problem, text)]
        assert len(taken) == 1 and float(taken[0].replace(",", "")) == float(problem.answer)


@pytest.mark.parametrize(
    ("family", "gold", "same", "other"),
    [
        ("coin_flip", "3/8", ["3/8", "6/16", "0.375", " 3 / 8 "], ["0.38", "3/0", "37.5%", "3", "3/8/1"]),
        (
            "game_of_life",
            "[[0,1],[1,0]]",
            ["[[0, 1], [1, 0]]", "[[0,1],\n [1,0]]"],
            ["[[0,1],[1,1]]", "[[0,true],[1,0]]"],
        ),
        (
            "knights_knaves",
            "Zoey is a hero, and Leo is a villain.",
            [
                "Zoey is a hero, and Leo is a villain",
                "Leo is a villain, and Zoey is an hero.",
                "Zoey is a hero and Leo is a villain",
            ],
            [
                "Zoey is a hero",
                "Zoey is a hero, Zoey is a villain, and Leo is a villain",
                "Zoey is a villain, Leo is a hero",
            ],
        ),
        (
            "number_filtering",
            "['3', '-2.50']",
            ['["3", "-2.50"]', "['3','-2.50']"],
            ["['3', '-2.5']", "['3']", "3, -2.50"],
        ),
        (
            "number_format",
            "669825881.717",
            ["669825881.717000", "669,825,881.717", "6.69825881717e+08"],
            ["66,98", "nan"],
        ),
        ("rotate_matrix", "1 2\n3 4", ["1  2 \n\n3 4"], ["1 2 3 4", "12\n34"]),
        ("time_intervals", "1 days, 02:03", ["1 day, 02:03", "1 days, 02:03"], ["2 days, 02:03", "26:03"]),
    ],
)
def test_spellings_of_a_right_answer(family, gold, same, other):
    problem = Problem("?", gold, "logic", family, json.loads("{}"))
    assert [text for text in same if not right(problem, text)] == []
    assert [text for text in other if right(problem, text)] == []


def test_params_that_give_no_sound_problem_are_refused(monkeypatch):
    def never(question):
        raise Unsettled("planted")

    monkeypatch.setitem(DERIVED, "simple_geometry", never)
    with pytest.raises(ValueError, match="simple_geometry: none of 200 problems in a row has one answer"):
        logic.generate("simple_geometry", {}, 0, 0)


def test_a_problem_that_the_library_gives_up_on_is_left_out(monkeypatch):
    class GivesUp:
        def __init__(self):
            self.asked = 0

        def __getitem__(self, position):
            self.asked += 1
            if self.asked == 1:
                raise RuntimeError("Could not find suitable path cell after 1000 attempts")
            return dataset("gcd", "{}")[position]

    monkeypatch.setattr("lightning_cispo.rewards.logic.generation.dataset", lambda *_: GivesUp())
    assert logic.generate("gcd", {}, 0, 0).answer
