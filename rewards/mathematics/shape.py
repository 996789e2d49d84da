"""What an answer is, before anything is known of its values."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """`kind` is value, list (unordered, a set too), tuple (an interval too), union, relation, matrix, row, ratio,
    rounded or statement (anything else).

    `text` holds a value, a tuple's brackets, or a statement; `signs` what stands between a relation's sides;
    `name` the variable that an interval was written for, as in `1 < x`, and `written` that inequality. A matrix
    has its text too.
    """

    kind: str
    text: str = ""
    items: tuple[Shape, ...] = ()
    signs: tuple[str, ...] = ()
    name: str = ""
    written: Shape | None = None
