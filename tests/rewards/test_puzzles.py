"""Our own logic families: every generated answer passes, damaged ones and sprays don't, and nothing raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cispo.rewards import logic
from lightning_cispo.rewards.judgement import Decision
from lightning_cispo.rewards.logic import MAX_DIFFICULTY, PUZZLES, Curriculum
from lightning_cispo.rewards.verdict import Problem

FAMILIES = st.sampled_from(sorted(PUZZLES))
DIFFICULTIES = st.integers(0, MAX_DIFFICULTY)
INDICES = st.integers(0, 10**6)


def right(problem: Problem, text: str) -> bool:
    decision = logic.judge(problem, text)
    assert isinstance(decision, Decision)
    return decision.correct


def test_there_are_ten() -> None:
    assert len(PUZZLES) == 10
    assert not set(PUZZLES) & (set(logic.ADMITTED) | set(logic.REJECTED))


@pytest.mark.parametrize("family", sorted(PUZZLES))
@settings(max_examples=25)
@given(difficulty=DIFFICULTIES, index=INDICES)
def test_the_gold_passes_and_damage_fails(family: str, difficulty: int, index: int) -> None:
    problem = logic.generate(family, {"difficulty": difficulty}, 0, index)
    again = logic.generate(family, {"difficulty": difficulty}, 0, index)
    assert problem == again
    travelled = Problem(**json.loads(json.dumps(vars(problem))))
    gold = problem.answer
    assert right(travelled, f"<think>hm</think>\n{gold}\n")
    words = gold.split()
    damaged = [
        "",
        gold + "\n" + gold,
        "or " + gold,
        gold + " or 1",
        gold + ",",
        f"<think>{gold}",
        f"<think>{gold}</think>",
    ]
    damaged += [gold[:-1], gold[1:]] if len(gold) > 1 else []
    damaged += [" ".join(words[1:]), " ".join([*words, words[-1]]), gold.replace("\n", " ") if "\n" in gold else "?"]
    for text in damaged:
        if text.strip().strip("()") != gold.strip("()"):
            assert not right(problem, text), text


@settings(max_examples=60)
@given(family=FAMILIES, difficulty=DIFFICULTIES, index=INDICES, place=st.integers(0, 10**6), digit=st.integers(0, 9))
def test_one_changed_cell_fails(family: str, difficulty: int, index: int, place: int, digit: int) -> None:
    """In a Latin square always; elsewhere the check itself says whether the other answer solves the problem too."""
    problem = logic.generate(family, {"difficulty": difficulty}, 1, index)
    digits = [i for i, character in enumerate(problem.answer) if character.isdigit()]
    if not digits:
        return
    at = digits[place % len(digits)]
    changed = problem.answer[:at] + str(digit) + problem.answer[at + 1 :]
    if family in ("puzzle_sudoku", "puzzle_futoshiki", "puzzle_skyscrapers"):
        assert right(problem, changed) == (changed == problem.answer)
    if family == "puzzle_game24":
        assert right(problem, changed) == (changed == problem.answer)


@settings(max_examples=100)
@given(
    family=FAMILIES,
    difficulty=DIFFICULTIES,
    text=st.text(alphabet="0123456789,=+-*/() \n\tAaZz[]{}<>_²٣none", max_size=80),
)
def test_nonsense_never_raises_and_rarely_wins(family: str, difficulty: int, text: str) -> None:
    problem = logic.generate(family, {"difficulty": difficulty}, 2, 7)
    if right(problem, text):
        assert PUZZLES[family].check(text, problem.entry["data"]) and len(problem.answer) < 12


@pytest.mark.parametrize("family", sorted(PUZZLES))
@pytest.mark.parametrize(
    "text", ["(" * 20_000, "1 " * 9_000, "9" * 19_000, "1,1 " * 5_000, "A=1," * 5_000, "x" * 50_000]
)
def test_long_nonsense_is_decided(family: str, text: str) -> None:
    assert not right(logic.generate(family, {"difficulty": 9}, 0, 0), text)


def test_expressions_are_read_not_run() -> None:
    check = PUZZLES["puzzle_game24"].check
    data = {"numbers": [2, 3, 4], "target": 24}
    assert check("2*3*4", data) and check(" ( 2 * 3 ) * 4 ", data)
    for text in (
        "2**3*4", "24", "2*3*4*1", "2*3*4=24", "(2*3*4", "2*3*4)", "2*-3*-4", "2 3*4", "__import__('os')", "4*3!",
        "2//3*4",
        "2*(3*4)/0", "()", "2*3*4 # yes", "2*3*٤", "2*3.0*4",
    ):  # fmt: skip
        assert not check(text, data), text
    assert check("8/(3-8/3)", {"numbers": [8, 3, 8, 3], "target": 24})


def test_several_solutions_are_right() -> None:
    problem = Problem("?", "A=1,B=2,C=3", "logic", "puzzle_cryptarithm", {"data": {"words": ["A", "B", "C"]}})
    assert right(problem, "A=1,B=2,C=3") and right(problem, "B=3, A=1, C=4")
    assert not right(problem, "A=1,B=1,C=2") and not right(problem, "A=0,B=1,C=1") and not right(problem, "A=1,B=2")
    field = Problem("?", "1,1", "logic", "puzzle_minesweeper", {"data": {"rows": [[-1, 1], [1, -1]], "mines": 1}})
    assert right(field, "1,1") and right(field, "2,2")
    for wrong in ("1,2", "1,1 2,2", "1,1 1,1", "3,3", "0,0", "1"):
        assert not right(field, wrong)


def test_parameters_are_checked() -> None:
    assert logic.check_params("puzzle_dyck", {"difficulty": 3}) is None
    for params in ({"difficulty": 11}, {"difficulty": -1}, {"difficulty": 1.5}, {"difficulty": True}, {"size": 3}):
        assert "difficulty" in (logic.check_params("puzzle_dyck", params) or "")
    with pytest.raises(ValueError, match="difficulty=11"):
        logic.generate("puzzle_dyck", {"difficulty": 11}, 0, 0)


@pytest.mark.parametrize("family", sorted(PUZZLES))
def test_difficulty_makes_problems_larger(family: str) -> None:
    sizes = [
        sum(len(logic.generate(family, {"difficulty": d}, 0, i).prompt) for i in range(8)) for d in (0, MAX_DIFFICULTY)
    ]
    assert sizes[0] < sizes[1]


def test_curriculum_follows_the_pass_rate() -> None:
    course = Curriculum(least=2, most=4, window=10, raise_at=0.8, lower_at=0.2)
    assert course.level == 2
    for correct in [True] * 8 + [False] * 2:
        course.record(correct, 2)
    assert course.level == 3
    for _ in range(50):
        course.record(True, 2)  # problems asked at the old level
    assert course.level == 3
    for i in range(10):
        course.record(i < 5, 3)
    assert course.level == 3
    for _ in range(30):
        course.record(True, course.level)
    assert course.level == 4
    for _ in range(60):
        course.record(False, course.level)
    assert course.level == 2
    with pytest.raises(ValueError, match="raise_at"):
        Curriculum(raise_at=0.1, lower_at=0.5)
    with pytest.raises(ValueError, match="least"):
        Curriculum(least=3, most=2)
