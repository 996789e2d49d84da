"""Where the answer is in a response, and plain numbers in it. Linear time, standard library: safe in any process."""

from __future__ import annotations

import re
from fractions import Fraction

from lightning_cispo.rewards.calls import SYNTAXES

MAX_NUMBER_CHARS = 60

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:/\d+(?:\.\d+)?)?", re.ASCII)


def final_text(text: str) -> str | None:
    """Return what stands after the last `</think>`, stripped; the whole text if it has no think block.

    None if that is empty or a think block is open at the end: what is only thought is no answer. A tag inside a string
    of a tool call is text.
    """
    if "<tool_calls>" in text:
        return SYNTAXES["minimax_m1"].parse(text).answer.strip() or None
    tail = text.rpartition("</think>")[2]  # the same without calls, and quick where tags abound
    return None if "<think>" in tail else tail.strip() or None


def plain_number(text: str) -> Fraction | None:
    """The exact value of `-1,234.50` or `3/4`, else None. Thousands separators must stand where they belong."""
    text = text.strip()
    if len(text) > MAX_NUMBER_CHARS or not any(c.isdigit() for c in text) or not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.replace(",", "").partition("/")
    if not any(c.isdigit() for c in numerator):
        return None
    if not denominator:
        return Fraction(numerator)
    return Fraction(numerator) / Fraction(denominator) if Fraction(denominator) else None


def same_value(answer: str, gold: str) -> bool:
    """Equal text (blanks at line ends aside), or equal plain numbers."""
    if _lines(answer) == _lines(gold):
        return True
    gold_number = plain_number(gold)
    return gold_number is not None and plain_number(answer) == gold_number


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
