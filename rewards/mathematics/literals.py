"""Read numbers that are written out, exactly: integers, decimals, fractions, mixed and scientific notation, percent.

Reading is string work on short texts (at most MAX_LITERAL_CHARS), safe in any process.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd
from typing import NamedTuple

from lightning_cispo.rewards.answer import plain_number
from lightning_cispo.rewards.mathematics.spelling import squeeze
from lightning_cispo.rewards.mathematics.units import split_unit

MAX_LITERAL_CHARS = 160
MAX_EXPONENT = 2000

_FRACTION = re.compile(r"\\frac\{ ?([^{}]+?) ?\}\{ ?([^{}]+?) ?\}")
_MIXED = re.compile(r"(\d[\d,]*) ?(?:\\frac\{ ?(\d+) ?\}\{ ?(\d+) ?\}|(?<= )(\d+) ?/ ?(\d+))", re.ASCII)
_SCIENTIFIC = re.compile(
    r"(?:([^\\^{}]+?) ?(?:\\times|\\cdot|x(?= ?10)) ?)?10 ?\^ ?(?:\{ ?([+-]? ?\d+) ?\}|(\d))|([\d.]+)[eE]([+-]?\d+)",
    re.ASCII,
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\{? ?(\d+) ?\}?", re.ASCII)
_MAGNITUDE = re.compile(
    r"[ ~]*(?:\\(?:text|mbox|mathrm)\{ ?)?(hundred|thousand|million|billion|trillion)(?: ?\})?$", re.IGNORECASE
)
_ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PERCENT = re.compile(
    r"[ ~]*(?:\\?%|(?:\\(?:text|mbox|mathrm)\{ ?)?(?:percentage|percent|per cent|pct)(?: ?\})?)$", re.IGNORECASE
)
_SPACED_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?", re.ASCII)
_WRAPPED = re.compile(r"\(([^()]*)\)|\{([^{}]*)\}")


class Number(NamedTuple):
    """An exact value. `evaluated` is False where work is left, as in `2/4` or `0.\\overline{3}`.

    `unit` is what `split_unit` names it, or a percent sign.
    """

    value: Fraction
    percent: bool = False
    evaluated: bool = True
    unit: str = ""

    def matches(self, other: Number) -> bool:
        """The same number, or the same once one side's percent sign is read as a unit, or as a hundredth."""
        if self.value == other.value:
            return True
        if self.percent == other.percent:
            return False
        return self._exactly() == other._exactly()

    def _exactly(self) -> Fraction:
        return self.value / 100 if self.percent else self.value


def is_number(text: str) -> bool:
    return literal(text) is not None


def literal(text: str, gold: bool = False) -> Number | None:
    """Return the number that a text is, or None. A unit or percent sign may follow; `split_unit` explains `gold`."""
    if len(text) > MAX_LITERAL_CHARS:
        return None
    text = squeeze(text)
    percent = _PERCENT.search(text)
    if percent and percent.start():
        found, unit = _signed(text[: percent.start()]), "%"
    else:
        bare, unit = split_unit(text, gold)
        found = _signed(bare)
    if found is None:
        return None
    return Number(found[0], bool(percent and percent.start()), found[1], unit)


def _signed(text: str) -> tuple[Fraction, bool] | None:
    """Return a number's value and whether it is evaluated."""
    text = text.strip()
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped:
        return _signed(wrapped[1] or wrapped[2] or "")
    if magnitude := _MAGNITUDE.search(text):
        found = _signed(text[: magnitude.start()])
        return found and (found[0] * 10 ** _ZEROS[magnitude[1].lower()], found[1])
    if text[:1] in ("-", "+"):
        sign = -1 if text[0] == "-" else 1
        found = None if text[1:].lstrip()[:1] in ("-", "+") else _signed(text[1:])
        return found and (sign * found[0], found[1])
    return _unsigned(text)


def _unsigned(text: str) -> tuple[Fraction, bool] | None:
    if _SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    if mixed := _MIXED.fullmatch(text):
        whole, over, under = plain_number(mixed[1]), int(mixed[2] or mixed[4]), int(mixed[3] or mixed[5])
        if whole is None or not under:
            return None
        return whole + Fraction(over, under), over < under and gcd(over, under) == 1
    if fraction := _FRACTION.fullmatch(text):
        return _quotient(fraction[1], fraction[2])
    if text.count("/") == 1:
        return _quotient(*text.split("/"))
    if repeating := _REPEATING.fullmatch(text):
        return _repeated(repeating[1] or "0", repeating[2], repeating[3]), False
    if scientific := _SCIENTIFIC.fullmatch(text):
        return _scaled(scientific[1] or scientific[4] or "1", scientific[2] or scientific[3] or scientific[5])
    value = plain_number(text)
    return None if value is None else (value, True)


def _quotient(over_text: str, under_text: str) -> tuple[Fraction, bool] | None:
    sides = [_signed(side) for side in (over_text, under_text) if "/" not in side and "\\frac" not in side]
    if len(sides) != 2 or sides[0] is None or sides[1] is None or not sides[1][0]:
        return None
    over, under = sides[0][0], sides[1][0]
    whole = over.denominator == under.denominator == 1 and not {".", "^"} & set(over_text + under_text)
    reduced = whole and abs(under) != 1 and gcd(over.numerator, under.numerator) == 1
    return over / under, reduced


def _scaled(mantissa: str, exponent_text: str) -> tuple[Fraction, bool] | None:
    value, exponent = plain_number(mantissa.strip("() ").replace("- ", "-")), int(exponent_text.replace(" ", ""))
    if value is None or abs(exponent) > MAX_EXPONENT:
        return None
    return value * Fraction(10) ** exponent, "/" not in mantissa


def _repeated(whole: str, fixed: str, period: str) -> Fraction:
    scale = 10 ** len(fixed)
    return Fraction(int(whole + fixed), scale) + Fraction(int(period), scale * (10 ** len(period) - 1))
