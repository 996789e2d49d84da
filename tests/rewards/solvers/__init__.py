"""Golds of generated problems, derived from the question's text without the library that made it."""

from __future__ import annotations

from collections.abc import Callable

from lightning_cispo.rewards.logic.derived import DERIVED
from lightning_cispo.rewards.logic.derived.numbers import calculation
from tests.rewards.solvers import arithmetic, grids, states, text

SOLVERS: dict[str, Callable[[str], str]] = {
    **DERIVED,
    "ab": states.ab,
    "base_conversion": arithmetic.base_conversion,
    "binary_alternation": states.alternation,
    "caesar_cipher": text.caesar,
    "chain_sum": calculation,
    "circuit_logic": states.circuit,
    "count_bits": arithmetic.count_bits,
    "count_primes": arithmetic.count_primes,
    "course_schedule": states.courses,
    "decimal_chain_sum": calculation,
    "dice": arithmetic.dice,
    "emoji_mystery": text.emoji,
    "futoshiki": grids.futoshiki,
    "game_of_life": grids.life,
    "gcd": arithmetic.gcd,
    "knights_knaves": text.islanders,
    "largest_island": grids.island,
    "lcm": arithmetic.lcm,
    "leg_counting": text.legs,
    "letter_counting": text.letters,
    "manipulate_matrix": states.matrix,
    "maze": grids.maze,
    "mini_sudoku": grids.sudoku,
    "number_sorting": text.numbers_sorted,
    "path_star": text.path_star,
    "products": calculation,
    "rotate_matrix": grids.rotate,
    "rotten_oranges": grids.oranges,
    "self_reference": text.liars,
    "string_manipulation": states.rewriting,
    "string_splitting": states.machines,
    "string_synthesis": states.blocks,
    "sudoku": grids.sudoku,
    "word_sequence_reversal": text.reversal,
    "word_sorting": text.sorting,
}
