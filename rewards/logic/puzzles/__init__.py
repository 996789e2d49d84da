"""Ten families of our own: a generator with a difficulty from 0 to 10, and a check of any answer that needs no gold.

Where several answers solve a problem, each of them is right. Checks take linear time and read numbers and letters only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lightning_cispo.rewards.logic.puzzles import arithmetic, grids, squares, statements

MAX_DIFFICULTY = 10


class Made(NamedTuple):
    question: str
    answer: str
    data: dict[str, Any]  # JSON: what the check wants


@dataclass(frozen=True)
class Puzzle:
    make: Callable[[random.Random, int], tuple[str, str, dict[str, Any]]]
    check: Callable[[str, dict[str, Any]], bool]

    def generate(self, seed: str, difficulty: int) -> Made:
        """A function of both. Raises ValueError for a difficulty outside 0 to 10."""
        if not 0 <= difficulty <= MAX_DIFFICULTY:
            raise ValueError(f"difficulty={difficulty}: must be from 0 to {MAX_DIFFICULTY}")
        return Made(*self.make(random.Random(seed), difficulty))


PUZZLES: dict[str, Puzzle] = {
    "puzzle_boolean": Puzzle(statements.make_boolean, statements.check_names),
    "puzzle_cryptarithm": Puzzle(arithmetic.make_cryptarithm, arithmetic.check_cryptarithm),
    "puzzle_dyck": Puzzle(statements.make_dyck, statements.check_text),
    "puzzle_futoshiki": Puzzle(squares.make_futoshiki, squares.check_futoshiki),
    "puzzle_game24": Puzzle(arithmetic.make_game, arithmetic.check_game),
    "puzzle_minesweeper": Puzzle(grids.make_minesweeper, grids.check_minesweeper),
    "puzzle_skyscrapers": Puzzle(squares.make_skyscrapers, squares.check_skyscrapers),
    "puzzle_sudoku": Puzzle(squares.make_sudoku, squares.check_sudoku),
    "puzzle_web_of_lies": Puzzle(statements.make_web, statements.check_names),
    "puzzle_word_order": Puzzle(statements.make_words, statements.check_words),
}
