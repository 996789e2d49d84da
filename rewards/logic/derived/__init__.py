"""Golds derived from the question's text, for families of reasoning-gym whose own are not always right.

A problem counts only where the derivation finds one answer and, unless the family is in AMENDED, it is the library's.
"""

from __future__ import annotations

from collections.abc import Callable

from lightning_cispo.rewards.logic.derived import boards, numbers, statements, times
from lightning_cispo.rewards.logic.derived.errors import Unsettled

DERIVED: dict[str, Callable[[str], str]] = {
    "aiw": statements.wonderland,
    "basic_arithmetic": numbers.calculation,
    "calendar_arithmetic": times.calendar,
    "coin_flip": numbers.heads,
    "mahjong_puzzle": boards.mahjong,
    "modulo_grid": boards.modulo,
    "number_filtering": numbers.numbers_kept,
    "number_format": numbers.extreme,
    "simple_equations": numbers.equation,
    "simple_geometry": numbers.angle,
    "survo": boards.survo,
    "syllogism": statements.syllogism,
    "time_intervals": times.interval,
    "tsumego": boards.tsumego,
}

# Families whose stored answer is rounded: the derived one takes its place. What the question asks for is added to it.
AMENDED = {
    "coin_flip": " Give the probability as a reduced fraction, such as 3/8.",
    "number_format": "",
}


def settled(family: str, question: str, answer: str) -> tuple[str, str] | None:
    """The question and the gold to train on; None where the problem is not sound.

    No response can give an empty answer, and no shift of the alphabet gives letters beyond it.
    """
    if not answer.strip() or (family == "caesar_cipher" and not answer.isascii()):
        return None
    if family not in DERIVED:
        return question, answer
    try:
        derived = DERIVED[family](question)
    except Unsettled:
        return None
    if family in AMENDED:
        return question.rstrip() + AMENDED[family], derived
    return (question, answer) if derived == answer.strip() else None


__all__ = ["AMENDED", "DERIVED", "settled"]
