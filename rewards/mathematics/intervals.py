"""Read inequalities in one variable as the intervals that they leave."""

from __future__ import annotations

from lightning_cispo.rewards.mathematics.literals import literal
from lightning_cispo.rewards.mathematics.shape import Shape

FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
_LOW, _HIGH = Shape("value", r"-\infty"), Shape("value", r"\infty")
REALS = Shape("tuple", "()", (_LOW, _HIGH))


def solved(name: str, place: int, sides: tuple[Shape, ...], signs: list[str]) -> Shape | None:
    """Return what is left for the variable at `place` among the sides: `1 < x \\le 3` leaves `(1,3]`."""
    if len(sides) == 2:
        return _one_sided(name, sides[1 - place], signs[0] if place == 0 else FLIPPED[signs[0]])
    if len(sides) != 3 or place != 1:
        return None
    low, high, (left, right) = sides[0], sides[2], signs
    if {left, right} <= {">", r"\ge"}:
        low, high, left, right = high, low, FLIPPED[right], FLIPPED[left]
    if not {left, right} <= {"<", r"\le"}:
        return None
    brackets = ("(" if left == "<" else "[") + (")" if right == "<" else "]")
    return Shape("tuple", brackets, (low, high), (), name)


def joined(items: list[Shape], separators: list[str]) -> Shape | None:
    """Return the union of intervals in one variable that "or" joins, or the overlap of two that "and" does."""
    name = items[0].name
    if not name or any(item.name != name or item.kind not in ("tuple", "union") for item in items):
        return None
    if set(separators) == {r"\lor"}:
        return Shape("union", items=tuple(items), name=name)
    tuples = [item for item in items if item.kind == "tuple"]
    lower = [item for item in tuples if item.items[1] == _HIGH]
    upper = [item for item in tuples if item.items[0] == _LOW]
    if r"\lor" in separators or len(items) != 2 or len(lower) != 1 or len(upper) != 1:
        return None
    return Shape("tuple", lower[0].text[0] + upper[0].text[1], (lower[0].items[0], upper[0].items[1]), (), name)


def punctured(items: tuple[Shape, ...]) -> Shape | None:
    """Return the reals without some numbers as the open intervals between them."""
    if len(items) != 2 or items[0] != REALS:
        return None
    points = items[1].items if items[1].kind == "list" else (items[1],)
    numbers = [(number.value, point) for point in points if (number := literal(point.text)) is not None]
    if not points or len(numbers) != len(points):
        return None
    ends = [_LOW, *(point for _, point in sorted(numbers)), _HIGH]
    return Shape("union", items=tuple(Shape("tuple", "()", pair) for pair in zip(ends, ends[1:])))


def _one_sided(name: str, bound: Shape, sign: str) -> Shape:
    below, above = (_LOW, bound), (bound, _HIGH)
    if sign == r"\ne":
        return Shape("union", items=(Shape("tuple", "()", below), Shape("tuple", "()", above)), name=name)
    if sign in (">", r"\ge"):
        return Shape("tuple", "()" if sign == ">" else "[)", above, (), name)
    return Shape("tuple", "()" if sign == "<" else "(]", below, (), name)
