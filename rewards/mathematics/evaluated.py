"""Count the work that is left in a constant, so that an answer can be held to what its gold has done.

A question's own formula is equal to its answer: without this rule copying it would be rewarded.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import sympy


class Work(NamedTuple):
    """What is left to do in an unevaluated constant."""

    arithmetic: int = 0  # operations between rational numbers: 2 + 3, 4 * 9, 2^10, sqrt(49)
    radicals: int = 0  # roots with a factor to take out or to cancel: sqrt(50), 10 / sqrt(2)
    products: int = 0  # powers, products of sums, sums below a fraction's line
    terms: int = 0  # irrational terms: pi/2 - pi/4 has two
    functions: int = 0  # 1 if a function such as sin, log or ! is left


def at_least_as_evaluated(answer: sympy.Expr, gold: sympy.Expr) -> bool:
    """Whether a constant leaves no more to do than the gold. As many terms are allowed as the gold has expanded."""
    allowed = work_left(gold)
    expanded = [work_left(form(gold)).terms for form in (sympy.expand, sympy.radsimp)]
    allowed = allowed._replace(terms=max(allowed.terms, *expanded))
    return all(mine <= theirs for mine, theirs in zip(work_left(answer), allowed))


def work_left(value: sympy.Basic) -> Work:
    """Return the work left in an unevaluated constant."""
    if value.is_Rational:
        return Work()
    if isinstance(value, sympy.Add):
        return _sum(_flat(value, sympy.Add))
    if isinstance(value, sympy.Mul):
        return _product(_flat(value, sympy.Mul))
    if isinstance(value, sympy.Pow):
        return _power(value.base, value.exp)
    if not value.args:
        return Work(terms=1)
    if isinstance(value, sympy.exp):
        return work_left(value.args[0])._replace(terms=1)
    arguments = value.args[:1] if isinstance(value, sympy.log) else value.args
    return _total(list(map(work_left, arguments)))._replace(terms=1, functions=1)


def _sum(terms: list[sympy.Basic]) -> Work:
    rational = sum(term.is_Rational is True for term in terms)
    return _total([*map(work_left, terms), Work(arithmetic=max(0, rational - 1))])


def _product(factors: list[sympy.Basic]) -> Work:
    over = [factor for factor in factors if not _is_inverse(factor)]
    under = [factor.args[0] for factor in factors if _is_inverse(factor)]
    works = [work_left(factor) for factor in over + under]
    numbers = [sum(factor.is_Rational and abs(factor) != 1 for factor in side) for side in (over, under)]
    sums = sum(isinstance(factor, sympy.Add) for factor in over)
    products = max(0, sums - 1) + sum(isinstance(factor, sympy.Add) for factor in under)
    radicals = sum(_shares_a_factor(over, root) for root in under if isinstance(root, sympy.Pow))
    whole = _total([*works, Work(sum(max(0, count - 1) for count in numbers), radicals, products)])
    return whole._replace(terms=max(work.terms for work in works))  # sqrt(3) / sqrt(2) is one term


def _shares_a_factor(over: list[sympy.Basic], root: sympy.Pow) -> bool:
    """Whether a root below the line cancels against an integer above it, as in 10 / sqrt(2)."""
    integers = [factor for factor in over if factor.is_Integer]
    return bool(root.base.is_Integer) and any(math.gcd(int(n), int(root.base)) > 1 for n in integers)


def _power(base: sympy.Basic, exponent: sympy.Basic) -> Work:
    if base.is_Rational and exponent.is_Rational:
        if exponent.is_integer:
            return Work(arithmetic=int(exponent != -1))
        parts = [sympy.Pow(abs(part), exponent) for part in (base.p, base.q) if part not in (1, -1)]
        if any(part.is_Rational for part in parts):
            irrational = base.is_negative or not all(part.is_Rational for part in parts)
            return Work(arithmetic=1, terms=int(irrational))
        return Work(radicals=int(any(part.is_Mul and part.args[0].is_Rational for part in parts)), terms=1)
    inner = _total([work_left(base), work_left(exponent)])
    if not exponent.is_integer:
        return _total([inner, Work(terms=int(isinstance(base, sympy.Add)))])
    whole = exponent == -1 or isinstance(base, sympy.Function) or (not base.args and base != sympy.I)
    return inner if whole else _total([inner, Work(products=1)])


def _is_inverse(factor: sympy.Basic) -> bool:
    return isinstance(factor, sympy.Pow) and factor.exp == -1


def _flat(value: sympy.Basic, kind: type) -> list[sympy.Basic]:
    found: list[sympy.Basic] = []
    for part in value.args:
        found += _flat(part, kind) if isinstance(part, kind) else [part]
    return found


def _total(works: list[Work]) -> Work:
    sums = Work(*map(sum, zip(*works)))
    return sums._replace(functions=min(1, sums.functions))
