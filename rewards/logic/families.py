"""Which families of reasoning-gym 0.1.25 a policy may be trained on, how each is judged, and why the others not.

Every family of the library stands in exactly one of the two tables. A family is admitted when a problem is
a function of its index alone, an answer is stored, nothing runs the answer as code, no text but a right answer scores
1.0, and the gold follows from the question. The last was tried by deriving the golds of all `exact` and `form` families
independently (`tests/rewards/test_golds.py`); where the library is wrong at times, `derived/` leaves the problem out.
"""

from __future__ import annotations

from enum import Enum


class Judge(Enum):
    exact = "exact"  # the answer's text, or its value as a plain number, decided without the library
    form = "form"  # the gold in any spelling that the question allows, read by our own function
    library = "library"  # several answers are right, or right in several spellings: the family's own scorer


_EXACT = """
ab aiw base_conversion basic_arithmetic binary_alternation caesar_cipher calendar_arithmetic chain_sum circuit_logic
count_bits count_primes course_schedule decimal_chain_sum dice emoji_mystery gcd largest_island lcm leg_counting
letter_counting mahjong_puzzle maze modulo_grid path_star products rotten_oranges self_reference simple_equations
simple_geometry string_manipulation string_splitting string_synthesis syllogism tsumego word_sequence_reversal
word_sorting
"""

_FORM = """
coin_flip futoshiki game_of_life knights_knaves manipulate_matrix mini_sudoku number_filtering number_format
number_sorting rotate_matrix sudoku survo time_intervals
"""

_LIBRARY = """
bitwise_arithmetic color_cube_rotation cryptarithm family_relationships group_anagrams jugs needle_haystack
palindrome_generation palindrome_partitioning prime_factorization shortest_path tower_of_hanoi zebra_puzzles
"""

ADMITTED: dict[str, Judge] = {
    **{family: Judge.exact for family in _EXACT.split()},
    **{family: Judge.form for family in _FORM.split()},
    **{family: Judge.library for family in _LIBRARY.split()},
}

_RUNS = "its scorer runs text of the answer as Python"
_NO_GOLD = "it stores no answer"
_BY_HASH = "its problems depend on the process's string hashing, so a seed doesn't reproduce them"
_WHOLE_LIST = "it builds all its problems at once, so a problem isn't a function of its index"
_INDUCED = "its rule is to be guessed from examples: several rules fit, and no gold can be derived from the question"
_LENIENT = "its scorer accepts wrong answers within a tolerance that the question doesn't state"

REJECTED: dict[str, str] = {
    "acre": _WHOLE_LIST,
    "advanced_geometry": _LENIENT,
    "arc_1d": _INDUCED,
    "arc_agi": "its problems are a public evaluation set",
    "bf": "its generator writes to the terminal",
    "binary_matrix": _RUNS,
    "boxnet": _NO_GOLD,
    "codeio": "generation runs stored programs, and its problems depend on what ran before",
    "complex_arithmetic": "its scorer pays for 'nan'",
    "composite": "a mixture of other families, not a family",
    "countdown": f"{_RUNS}; a power tower hangs it",
    "decimal_arithmetic": _LENIENT,
    "figlet_font": "its scorer pays for garbage",
    "fraction_simplification": "its scorer reads a prefix: a second guess behind the answer is free",
    "game_of_life_halting": "its scorer pays for any text when the answer is True",
    "graph_color": _NO_GOLD,
    "gsm_symbolic": _WHOLE_LIST,
    "intermediate_integration": _RUNS,
    "isomorphic_strings": _BY_HASH,
    "kakurasu": "its scorer reads cells out of the digits of any prose",
    "knight_swap": _BY_HASH,
    "letter_jumble": "several words can fit, one is accepted",
    "list_functions": _WHOLE_LIST,
    "n_queens": _RUNS,
    "number_sequence": _INDUCED,
    "polynomial_equations": "its scorer pays for garbage when there is no real root",
    "polynomial_multiplication": f"{_RUNS}; {_BY_HASH}",
    "pool_matrix": _LENIENT,
    "power_function": "the stored answer isn't in the format that the question demands",
    "propositional_logic": f"{_NO_GOLD}; its scorer pays for garbage",
    "puzzle24": f"{_RUNS}; a power tower hangs it",
    "quantum_lock": "its scorer reads moves out of the letters of any prose",
    "ransom_note": _BY_HASH,
    "rearc": _INDUCED,
    "rectangle_count": "a quarter of its pictures can be read as several numbers of rectangles",
    "rubiks_cube": _NO_GOLD,
    "rush_hour": _NO_GOLD,
    "sentence_reordering": "several orders can be right, one is accepted",
    "simple_integration": f"{_RUNS}; a power tower hangs it",
    "sokoban": "its scorer reads moves out of the letters of any prose",
    "spell_backward": "its scorer pays for garbage",
    "spiral_matrix": _RUNS,
    "string_insertion": _RUNS,
    "word_ladder": _WHOLE_LIST,
}
