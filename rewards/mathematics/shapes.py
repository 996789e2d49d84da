"""Read what kind of thing an answer is: a value, a list, a tuple or interval, a union, a relation, a matrix, a ratio.

Only brackets, separators and relation signs are looked at. What a value means is `values`' business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

from lightning_cispo.rewards.mathematics import intervals
from lightning_cispo.rewards.mathematics.shape import Shape

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPEN = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\langle": r"\rangle"}
_OPENERS = frozenset([*_OPEN, r"\lfloor", r"\lceil", r"\begin"])
_CLOSERS = frozenset([*_OPEN.values(), r"\rfloor", r"\rceil", r"\end"])
_SEPARATORS = frozenset([",", ";", r"\land", r"\lor"])
_STATEMENTS = frozenset(
    r"\approx \equiv \sim \simeq \cong \propto \to \rightarrow \Rightarrow \implies \iff \Leftrightarrow \mapsto "
    r"\notin \subset \subseteq \cap \mid \parallel \perp \bmod \pmod \ldots \dots \cdots \neg \lnot".split()
)
_RELATIONS = frozenset(["=", "<", ">", r"\le", r"\ge", r"\ne", r"\in"])
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_SYMBOL = r"(?:\\[a-zA-Z]+|[A-Za-z])(?:_(?:\{[^{}]*\}|\w)|')*"
_VARIABLE = re.compile(rf"{_SYMBOL}(?: ?\( ?{_SYMBOL}(?: ?, ?{_SYMBOL})* ?\))?")
_LENGTH = re.compile(r"m? ?\\angle ?[A-Z]{1,3}|[A-Z]{2,3}|\| ?[A-Z]{2} ?\||\\(?:overline|text)\{[^{}]*\}")
_TUPLE_OF_NAMES = re.compile(rf"\( ?{_SYMBOL}(?: ?, ?{_SYMBOL})+ ?\)")
_CONSTANTS = frozenset(["e", "i", r"\pi", r"\infty"])
_EITHER_SIGN = re.compile(r"(\\pm|\\mp)(?![A-Za-z])")
_MOST_SIGNS = 3  # `\pm` in one answer


def read(text: str, depth: int = 0) -> Shape:
    """Return the shape of a squeezed answer."""
    text = text.strip()
    if depth > 20:
        return Shape("statement", text)
    if depth == 0:
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text) if _flat(text) else text
    parts, signs = split(text, _SEPARATORS)
    parts = [one for part in parts for one in _both_signs(part)]
    if len(parts) > 1:
        whole = all(part.strip() for part in parts)
        return _listed([read(part, depth + 1) for part in parts], signs) if whole else Shape("statement", text)
    text = parts[0]
    sides, relations = split(text, _RELATIONS)
    if relations:
        return _related([side.strip() for side in sides], relations, depth)
    if split(text, _STATEMENTS)[1]:
        return _approximated(text, depth)
    for sign, kind in ((r"\cup", "union"), (r"\setminus", "difference"), (r"\backslash", "difference"), (":", "ratio")):
        sides, found = split(text, frozenset([sign]))
        if found:
            items = tuple(read(side, depth + 1) for side in sides)
            if kind == "difference":
                return intervals.punctured(items) or Shape("statement", text)
            return Shape(kind, items=items)
    return _enclosed(text, depth)


def split(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """Split at separators outside all brackets; return the parts and the separators."""
    parts, found, depth = [""], [], 0
    for token in _TOKEN.findall(text):
        depth += (token in _OPENERS) - (token in _CLOSERS)
        if token in separators and depth == 0:
            found.append(token)
            parts.append("")
        else:
            parts[-1] += token
    return parts, found


def is_variable(text: str) -> bool:
    """Whether a side of an equation is a name for the other: `x`, `f(x)`, `(x, y)`, `a_1`."""
    text = text.strip()
    return text not in _CONSTANTS and any(form.fullmatch(text) for form in (_VARIABLE, _LENGTH, _TUPLE_OF_NAMES))


def is_quantity(text: str) -> bool:
    """Whether a side of an equation names a quantity by letters: `a+b`, `AB`, `x^2+y^2`, `f(2)`, `\\text{Area}`.

    With other numbers than exponents, subscripts and arguments it is an equation to solve, such as `2x+y`.
    """
    bare = re.sub(r"\\(?:frac|sqrt|cdot|times|pi|sin|cos|tan|log|ln|exp|binom)(?![A-Za-z])", "", text)
    named = re.search(r"(?<![A-Za-z])(?!(?:e|i)(?![A-Za-z]))[A-Za-z]", bare)
    numbers = re.sub(r"[\^_] ?(?:\{[^{}]*\}|\d)|(?<=[A-Za-z]) ?\([^()]*\)|\\text\{[^{}]*\}", "", text)
    return bool(named and not re.search(r"\d|\\l(?:floor|ceil)", numbers))


def _flat(text: str) -> bool:
    return not set(text) & set("([{")


def _both_signs(text: str) -> Iterator[str]:
    """Spell `\\pm` out. Several are independent, unless a `\\mp` ties them."""
    pieces = _EITHER_SIGN.split(text)
    found = pieces[1::2]
    if not found or len(found) > _MOST_SIGNS or r"\{" in text:  # a set's elements each have their own
        yield text
        return
    free = product("+-", repeat=len(found))
    tied = [["+-"[flipped ^ (sign == r"\mp")] for sign in found] for flipped in (False, True)]
    for signs in tied if r"\mp" in found else free:
        yield "".join(one for pair in zip(pieces[::2], [*signs, ""]) for one in pair)


def _listed(items: list[Shape], signs: list[str]) -> Shape:
    """Return a list, or the interval that inequalities in one variable leave."""
    flat = [one for item in items for one in (item.items if item.kind == "list" else [item])]
    return intervals.joined(items, signs) or Shape("list", items=tuple(flat))


def _related(sides: list[str], signs: list[str], depth: int) -> Shape:
    whole = " ".join(side + " " + sign for side, sign in zip(sides, [*signs, ""])).strip()
    if not all(sides) or split(whole, _STATEMENTS)[1]:
        return Shape("statement", whole)
    if r"\in" in signs:
        return read(sides[1], depth + 1) if signs == [r"\in"] and is_variable(sides[0]) else Shape("statement", whole)
    relation = Shape("relation", whole, tuple(read(side, depth + 1) for side in sides), tuple(signs))
    if "=" in signs:
        return relation if set(signs) == {"="} else Shape("statement", whole)
    place = [is_variable(side) for side in sides]
    if sum(place) != 1:
        return relation
    left = intervals.solved(sides[place.index(True)], place.index(True), relation.items, signs)
    return left._replace(written=relation) if left else relation


def _approximated(text: str, depth: int) -> Shape:
    """`2/3 \\approx 0.67` is a value with a rounding of it; a rounding alone is `\\approx 0.67`."""
    sides, signs = split(text, _STATEMENTS)
    if signs != [r"\approx"] or split(text, _RELATIONS)[1]:
        return Shape("statement", text)
    return Shape("rounded", items=tuple(read(side, depth + 1) for side in sides if side.strip()))


def _enclosed(text: str, depth: int) -> Shape:
    if text == r"\mathbb{R}":
        return intervals.REALS
    if text == r"\emptyset":
        return Shape("list")
    if matrix := _MATRIX.fullmatch(text):
        return _matrix(matrix[2], text, depth)
    inside = _inside(text)
    if inside is None:
        return Shape("value", text)
    opening, content, closing = inside
    if opening == "{" and closing == "}":
        return read(content, depth + 1)
    if opening == r"\{" and closing == r"\}":
        return _braces(content, depth)
    parts, _ = split(content, frozenset([",", ";"]))
    if len(parts) > 1 and all(part.strip() for part in parts) and opening in ("(", "[", r"\langle"):
        brackets = "()" if opening == r"\langle" else opening + closing
        return Shape("tuple", brackets, tuple(read(part, depth + 1) for part in parts))
    if opening + closing == "()" or (opening + closing == "[]" and _MATRIX.fullmatch(content)):
        return read(content, depth + 1)
    return Shape("statement", text)


def _braces(content: str, depth: int) -> Shape:
    for sign in ("|", r"\mid", ":"):
        sides, found = split(content, frozenset([sign]))
        if len(found) == 1:
            name, _ = split(sides[0], frozenset([r"\in"]))
            return read(sides[1], depth + 1) if is_variable(name[0]) else Shape("statement", content)
    inner = read(content, depth + 1)
    return inner if inner.kind == "list" else Shape("list", items=(inner,))


def _matrix(body: str, text: str, depth: int) -> Shape:
    rows = [split(row, frozenset(["&"]))[0] for row in split(body, frozenset([r"\\"]))[0] if row.strip()]
    if not rows or len({len(row) for row in rows}) != 1 or not all(cell.strip() for row in rows for cell in row):
        return Shape("statement", text)
    cells = (Shape("row", items=tuple(read(cell, depth + 1) for cell in row)) for row in rows)
    return Shape("matrix", text, tuple(cells))


def _inside(text: str) -> tuple[str, str, str] | None:
    """Return a bracketed text's opening bracket, content and closing bracket, if one pair holds all of it."""
    tokens = _TOKEN.findall(text)
    if len(tokens) < 2 or tokens[0] not in _OPEN or tokens[-1] not in _OPEN.values():
        return None
    depth = 0
    for place, token in enumerate(tokens):
        depth += (token in _OPENERS) - (token in _CLOSERS)
        if depth == 0 and place < len(tokens) - 1:
            return None
    return (tokens[0], "".join(tokens[1:-1]).strip(), tokens[-1]) if depth == 0 else None
