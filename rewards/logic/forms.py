"""Right answers in another spelling than the gold's. Every function takes linear time and reads short texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,30})(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?")
_RATIO = re.compile(r"(\d{1,30})\s*/\s*(\d{1,30})")
_ROLE = re.compile(r"(\w+) is an? (\w+)")


def _number(text: str) -> Fraction | None:
    """A number in plain, grouped or scientific notation."""
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _chance(text: str) -> Fraction | None:
    """A fraction, or a decimal that ends."""
    ratio = _RATIO.fullmatch(text)
    if ratio is None:
        return _number(text)
    return Fraction(int(ratio[1]), int(ratio[2])) if int(ratio[2]) else None


def _cells(text: str) -> list[list[str]]:
    """Rows of cells; how far apart they stand does not matter, nor do empty lines."""
    return [line.split() for line in text.splitlines() if line.strip()]


def _json(text: str) -> object | None:
    """What the text says as JSON: of a board, only 0 and 1 in equal rows are compared."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    rows = isinstance(found, list) and all(isinstance(row, list) for row in found)
    return found if rows and all(type(cell) is int for row in found for cell in row) else None


def _list(text: str) -> tuple[str, ...] | None:
    """A list of quoted numbers as Python writes it, with either quotes and any blanks."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    items = [item.strip() for item in text[1:-1].split(",")] if text[1:-1].strip() else []
    inner = [item[1:-1] for item in items if len(item) > 2 and item[0] == item[-1] and item[0] in "'\""]
    return tuple(inner) if len(inner) == len(items) and all(map(_NUMBER.fullmatch, inner)) else None


def _roles(text: str) -> frozenset[tuple[str, str]] | None:
    """`A is a knight, and B is a knave`, in any order; each name once."""
    parts = [part.strip().removeprefix("and ") for part in text.removesuffix(".").replace(" and ", ", and ").split(",")]
    found = [_ROLE.fullmatch(part) for part in parts if part]
    roles = {(match[1], match[2]) for match in found if match}
    names = {name for name, _ in roles}
    return frozenset(roles) if None not in found and len(names) == len(roles) == len(found) else None


def _span(text: str) -> str:
    return re.sub(r"\b1 days\b", "1 day", " ".join(text.split()))


FORMS: dict[str, Callable[[str], object | None]] = {
    "coin_flip": _chance,
    "futoshiki": _cells,
    "game_of_life": _json,
    "knights_knaves": _roles,
    "manipulate_matrix": _cells,
    "mini_sudoku": _cells,
    "number_filtering": _list,
    "number_format": _number,
    "number_sorting": _list,
    "rotate_matrix": _cells,
    "sudoku": _cells,
    "survo": _cells,
    "time_intervals": _span,
}


def same_form(family: str, answer: str, gold: str) -> bool:
    """Whether the answer says what the gold says, in a spelling that the family's question allows."""
    found = FORMS[family](answer.strip())
    return found is not None and found == FORMS[family](gold.strip())
