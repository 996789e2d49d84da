"""Arithmetic and geometry, in exact numbers."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from lightning_cispo.rewards.logic.derived.errors import Unsettled

_OPERATORS: dict[type, Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def value(expression: str) -> Fraction:
    """Evaluate +, -, *, / and signs, decimals taken exactly."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.UnaryOp):
            return _OPERATORS[type(node.op)](walk(node.operand))
        assert isinstance(node, ast.Constant)
        return Fraction(ast.get_source_segment(expression, node) or "")

    return walk(ast.parse(expression, mode="eval").body)


def decimal(number: Fraction) -> str:
    """Write a number as an integer or a terminating decimal. Raises Unsettled where it is neither."""
    for digits in range(40):
        if (number * 10**digits).denominator == 1:
            text = str(abs(int(number * 10**digits))).rjust(digits + 1, "0")
            whole, fraction = (text[:-digits], "." + text[-digits:]) if digits else (text, "")
            return f"{'-' * (number < 0)}{whole}{fraction}"
    raise Unsettled(f"{number} has no end in decimals")


def calculation(question: str) -> str:
    """basic_arithmetic: the library divides without a remainder where the question does not say so."""
    found = re.search(r"(?:Calculate|problem:|multiplication:) (.+?)(?: =|\. Give.*|\.)?$", question.strip())
    assert found
    return decimal(value(found[1]))


def angle(question: str) -> str:
    """simple_geometry: an interior angle of a convex polygon is below 180 degrees."""
    sides = re.search(r"(\d+)(?: sides|-gon)", question)
    known = [Fraction(number) for number in re.findall(r"(\d+\.\d+)°", question)]
    assert sides and len(known) == int(sides[1]) - 1
    last = 180 * (int(sides[1]) - 2) - sum(known)
    if not all(0 < angle < 180 for angle in (*known, last)):
        raise Unsettled("no convex polygon has these angles")
    return decimal(Fraction(last))


def extreme(question: str) -> str:
    """number_format: the smallest or largest of numbers in several notations, in plain decimals."""
    numbers = [Fraction(text.replace(",", "")) for text in question.rsplit(":", 1)[1].split()]
    return decimal((max if "pick the largest number" in question else min)(numbers))


def heads(question: str) -> str:
    """coin_flip: as a reduced fraction."""
    found = re.search(r"getting (exactly|at least) (\d+) heads in (\d+) fair", question)
    assert found
    least, flips = int(found[2]), int(found[3])
    most = least if found[1] == "exactly" else flips
    chance = Fraction(sum(math.comb(flips, k) for k in range(least, most + 1)), 2**flips)
    return f"{chance.numerator}/{chance.denominator}"


def equation(question: str) -> str:
    """simple_equations: of 0 = 0 every number is a solution."""
    found = re.search(r"([-\d*+ a-z]+) = (-?\d+)$", question.strip())
    assert found
    name = next(iter(re.findall(r"\b[a-z]\b", found[1].replace("*", " "))), "")
    if not name:
        raise Unsettled("the unknown has gone")

    def left(x: int) -> Fraction:
        return value(re.sub(rf"\b{name}\b", f"({x})", found[1].split(": ")[-1].strip()))

    at_0, at_1 = left(0), left(1)
    if at_0 == at_1 or left(7) != at_0 + 7 * (at_1 - at_0):
        raise Unsettled("not linear in the unknown")
    return decimal((int(found[2]) - at_0) / (at_1 - at_0))


def numbers_kept(question: str) -> str:
    """number_filtering: the library rewrites an item that equals another in a second spelling."""
    found = re.search(r"(Keep|Remove) all numbers (larger|smaller) than (\S+) in this list: (\[.*\])", question)
    assert found
    bound = Fraction(found[3])
    larger = found[2] == "larger"
    fits = {text: Fraction(text) > bound if larger else Fraction(text) < bound for text in ast.literal_eval(found[4])}
    return str([text for text in ast.literal_eval(found[4]) if fits[text] == (found[1] == "Keep")])
