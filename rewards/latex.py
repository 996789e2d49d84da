"""Short LaTeX answers as text: spelled one way, split into parts, read as exact numbers or words. Pure string work."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from lightning_cispo.rewards.answer import plain_number

_SPELLINGS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"^\\\((.*)\\\)$|^\\\[(.*)\\\]$|^\$+([^$]*)\$+$", re.DOTALL), lambda m: m[1] or m[2] or m[3] or ""),
    (re.compile(r",\\!\s*|\{,\}"), ","),
    (re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))", re.ASCII), ","),
    (re.compile(r"\\[,;:]"), " "),
    (re.compile(r"\\!|\\(?:left|right|displaystyle|big|Big|bigg|Bigg)(?![A-Za-z])"), ""),
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\^\{?\\circ\}?|°|\\degree(?![A-Za-z])"), ""),
    (re.compile(r"\\\$|\$"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\s+"), " "),
]
_FRACTION = re.compile(r"([+-]?)\\frac ?(?:\{ ?([\d.,]+) ?\}|(\d)) ?(?:\{ ?([\d.,]+) ?\}|(\d))", re.ASCII)
_UNIT = re.compile(
    r"(?:[ ~]*\\(?:text|mbox|mathrm|textrm)\{([^{}]*)\}| ([A-Za-z][A-Za-z. ]+))(?: ?\^ ?\{? ?\d ?\}?)?$", re.ASCII
)
# Words behind a number that change it.
_QUANTITIES = frozenset(
    "and or to pi dozen hundred thousand million billion trillion half halves third thirds quarter quarters percent "
    "squared cubed factorial plus minus times over mod base more less".split()
)
_MAGNITUDES = frozenset("dozen hundred thousand million billion trillion".split())
_JOINED = re.compile(r"\\(?:text|mbox|mathrm)\{\s*,?\s*(?:and|or)\s*\}|,?\s\b(?:and|or)\b\s|;", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
_TEXT = re.compile(r"\\(?:text|textbf|textit|mbox|mathrm|textrm)\{([^{}]*)\}")


class Number(NamedTuple):
    value: Fraction
    percent: bool

    def matches(self, other: Number) -> bool:
        """The same number, or the same once one side's percent sign is read as a unit, or as a hundredth."""
        if self.value == other.value:
            return True
        if self.percent == other.percent:
            return False
        return self.exactly() == other.exactly()

    def exactly(self) -> Fraction:
        return self.value / 100 if self.percent else self.value


def squeeze(text: str) -> str:
    """One spelling for what means the same: no sizes, no outer dollars, no degree signs, single blanks."""
    text = text.strip().rstrip(".").strip()
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return text.strip()


def same_latex(one: str, other: str) -> bool:
    return _unspaced(one) == _unspaced(other)


def _unspaced(text: str) -> str:
    # A blank between two digits separates two numbers; after a command it ends the command's name.
    return re.sub(r"(?<!\d) | (?!\d)", "", re.sub(r"(\\[A-Za-z]+) (?=[A-Za-z])", r"\1{}", squeeze(text)))


def number(text: str) -> Number | None:
    """An exact value: integer, decimal or fraction, with or without a unit or percent sign."""
    text = squeeze(text)
    unit = _UNIT.search(text)
    if unit and not _QUANTITIES & set(re.findall(r"[a-z]+", (unit[1] or unit[2]).lower())):
        text = text[: unit.start()]
    percent = text.endswith("%")
    text = text.removesuffix("%").strip()
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        sign, *sides = fraction.groups()
        over, under = (plain_number(side) for side in (sides[0] or sides[1], sides[2] or sides[3]))
        if over is None or not under:
            return None
        return Number(-over / under if sign == "-" else over / under, percent)
    value = plain_number(text.replace("- ", "-"))
    return None if value is None else Number(value, percent)


def magnitudes(text: str) -> frozenset[str]:
    """Words in it that multiply a number, whether or not it reads as one."""
    return _MAGNITUDES & set(re.findall(r"[a-z]+", text.lower()))


def word(text: str, any_length: bool = False) -> str | None:
    """The word or words that a text answer is, in lower case: inside `\\text{}`, or bare from four letters on.

    `any_length` takes bare ones of any length. A single letter in parentheses is a choice: its letter.
    """
    text = squeeze(text)
    inside = _TEXT.fullmatch(text)
    bare = (inside[1] if inside else text).strip().strip("().").strip().lower()
    if not re.fullmatch(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*", bare):
        return None
    return bare if inside or any_length or len(bare) >= 4 or re.fullmatch(r"\([A-Z]\)", text) else None


def parts(text: str) -> list[str]:
    """The answers that a text gives: split at commas, semicolons, "and", "or" outside all brackets."""
    text = _JOINED.sub(" , ", squeeze(text))
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    found, depth = [""], 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        if character == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += character
    return [part.strip() for part in found if part.strip()] or [""]
