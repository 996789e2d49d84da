"""Parse and compare single values with latex2sympy and SymPy: exactly, never by rounding.

For isolated processes only: the parser meets the policy's text, may never return, and weighs 50 MB.
math-verify's own comparison is not used: it takes tuples for sets and 2(3) for 5.
"""

from __future__ import annotations

import random
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

_DIGITS = 50  # that a difference is looked at before any simplification
_POINTS = 6  # random values of the variables at which two expressions are compared
_CONFIG = ConversionConfig(lowercase_symbols=False)
Value = Any  # sympy.Expr or sympy.MatrixBase, which mypy knows nothing of
FAILURES = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError)
# The parser adds an integer to what stands behind it: `2(3)`, `(2)3` and `2\\binom42` would be mixed numbers.
_PRODUCTS = [
    (re.compile(r"(\\binom\{[^{}]*\}\{[^{}]*\})"), r"(\1)"),
    (re.compile(r"(?<![\d.\^_])(\d[\d.]*) ?(?=\()"), r"\1\\cdot "),
    (re.compile(r"\) ?(?=[\d(]|\\frac|\\binom)"), r")\\cdot "),
    (re.compile(r"(\\frac\{\d+\}\{\d+\}) ?(?=\\frac|[\d(])"), r"\1\\cdot "),
]
_MIXED = re.compile(r"(?<![\d.\^_{}A-Za-z])(\d+) ?\\frac\{(\d+)\}\{(\d+)\}")
# Two numbers side by side, a number with a base, words, signs that are no LaTeX: nothing that has one value.
_UNREADABLE = re.compile(r"\\text ?\{|\d\s+\d|(?<![\d_^\]])\d+ ?\{ ?\d|\d ?_|[^\x00-\x7f]")


def parse(text: str) -> Value | None:
    """Return the expression or matrix that a squeezed text is, unevaluated, or None."""
    return _parse(text)


@lru_cache(maxsize=64)
def _parse(text: str) -> Value | None:
    if not text or _UNREADABLE.search(text):
        return None
    text = _MIXED.sub(lambda m: rf"\frac{{{int(m[1]) * int(m[3]) + int(m[2])}}}{{{m[3]}}}", text)
    for pattern, spelling in _PRODUCTS:
        text = pattern.sub(spelling, text)
    text = re.sub(r"('+)", lambda m: rf"_{{{'p' * len(m[1])}}}", text)
    try:
        found = latex2sympy(text, is_real=True, normalization_config=None, conversion_config=_CONFIG)
    except Exception:  # the parser's own errors are plain Exceptions
        return None
    if not isinstance(found, (sympy.Expr, sympy.MatrixBase)) or found.has(sympy.nan, sympy.zoo):
        return None
    return _with_constants(found)


def _with_constants(found: Any) -> Any:
    """Read `i` and `E` as constants, unless `i` counts a sum, and decimals as the fractions they are."""
    known = {"E": sympy.E}
    if not found.has(sympy.Sum, sympy.Product):
        known["i"] = sympy.I
    table: dict[sympy.Basic, sympy.Basic] = {s: known[s.name] for s in found.free_symbols if s.name in known}
    table.update({number: sympy.Rational(str(number)) for number in found.atoms(sympy.Float)})
    return _replaced(found, table) if table else found


def _replaced(found: Any, table: dict[sympy.Basic, sympy.Basic]) -> Any:
    """`xreplace` that evaluates nothing on its way."""
    if isinstance(found, sympy.MatrixBase):
        return found.applyfunc(lambda entry: _replaced(entry, table))
    if found in table:
        return table[found]
    if not found.args:
        return found
    arguments = [_replaced(argument, table) for argument in found.args]
    if arguments == list(found.args):
        return found
    if isinstance(found, (sympy.Add, sympy.Mul, sympy.Pow)):
        return found.func(*arguments, evaluate=False)
    return found.func(*arguments)


def same(one: Value, other: Value) -> bool:
    """Whether two expressions are equal wherever both are real, or equal constants, or matrices of such."""
    try:
        if one == other:
            return True
        one, other = one.doit(), other.doit()
        if _is_matrix(one) or _is_matrix(other):
            return _is_matrix(one) and _is_matrix(other) and _same_matrix(one, other)
        if one == other:
            return True
        if one.is_number and other.is_number:
            return _same_constant(one, other)
        return _same_function(one, other)
    except FAILURES:
        return False


def _is_matrix(value: Any) -> bool:
    return isinstance(value, (sympy.MatrixBase, sympy.MatrixExpr))


def _same_matrix(one: Any, other: Any) -> bool:
    entries = [list(side if isinstance(side, sympy.MatrixBase) else side.as_explicit()) for side in (one, other)]
    return one.shape == other.shape and all(map(same, *entries))


def proportional(one: sympy.Expr, other: sympy.Expr, positive: bool = False) -> bool:
    """Whether `one` is a constant times `other`, not zero: then they vanish at the same places."""
    try:
        one, other = one.doit(), other.doit()
        if sympy.expand(other) == 0 or one.free_symbols != other.free_symbols:
            return False
        ratio = sympy.simplify(one / other)
        return bool(ratio.is_number and ratio.is_finite and (ratio.is_positive if positive else ratio != 0))
    except FAILURES:
        return False


def close(exact: sympy.Expr, rounded: Fraction) -> bool:
    """Whether a constant is within a hundredth of a rounding of it."""
    try:
        value = exact.evalf(_DIGITS)
        return bool(value.is_real and abs(value - rounded) <= abs(value) / 100)
    except FAILURES:
        return False


def _same_constant(one: sympy.Expr, other: sympy.Expr) -> bool:
    if one.is_Rational and other.is_Rational or not (one.is_finite and other.is_finite):
        return False
    difference = one - other
    scale = abs(other.evalf(_DIGITS))
    if abs(difference.evalf(_DIGITS)) > scale * sympy.Float(10) ** (10 - _DIGITS):
        return False
    return bool(sympy.simplify(difference) == 0 or difference.equals(0))


def _same_function(one: sympy.Expr, other: sympy.Expr) -> bool:
    difference = one - other
    symbols = sorted(difference.free_symbols, key=str)
    if not symbols or any(
        isinstance(part, sympy.Function) and not _known(part) for part in difference.atoms(sympy.Function)
    ):
        return bool(sympy.simplify(difference) == 0)
    draw = random.Random(0)
    agreed = 0
    for sign in (1, -1) * (2 * _POINTS):
        point = {symbol: sign * sympy.Rational(draw.randrange(1, 4000), 1009) for symbol in symbols}
        found = [side.xreplace(point).doit().evalf(_DIGITS) for side in (one, other)]
        if not all(value.is_number and value.is_finite for value in found):
            continue  # outside the domain of one side
        real = [bool(value.is_real) for value in found]
        if not all(real) and not one.has(sympy.I):
            if any(real) and len(symbols) == 1:
                return False  # ln x is not ln |x|; of several variables, such as in ln(xy), some are taken as positive
            continue
        if abs(found[0] - found[1]) > (1 + abs(found[1])) * sympy.Float(10) ** (12 - _DIGITS):
            return False
        agreed += 1
        if agreed == _POINTS:
            break
    if agreed < _POINTS:
        return bool(sympy.simplify(difference) == 0)
    expanded = sympy.expand(sympy.together(difference))
    # A polynomial that is not zero can still be tiny at all points; other functions are taken at their values.
    return bool(expanded == 0 or not expanded.is_polynomial(*symbols) or sympy.simplify(expanded) == 0)


def _known(function: sympy.Function) -> bool:
    return not isinstance(function, sympy.core.function.AppliedUndef)
