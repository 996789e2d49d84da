"""math-verify, exactly. For isolated processes only: it meets the policy's text, may never return, and weighs 50 MB.

Its own timeouts are switched off: they need the main thread's alarm, and the pool keeps a deadline anyway.
"""

from __future__ import annotations

import logging
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

logging.disable(logging.CRITICAL)

# Digits that a difference of two constants is looked at before any simplification.
_DIGITS = 50


def parses(text: str) -> bool:
    return _parse(text) is not None


def equivalent(answer: str, gold: str) -> bool:
    """Whether the answer means the same as the gold. Raises ValueError if the gold is no mathematics."""
    wanted = _parse(gold)
    if wanted is None:
        raise ValueError(f"the gold answer {gold!r} is not a mathematical expression")
    try:
        given = _parse(answer)
        if given is None:
            return False
        if _constant(given) and _constant(wanted):
            return _same_constant(_exact(given), _exact(wanted))
        # Roundings far below any answer's digits: the library's default takes 1/2004! for 1/2006!.
        return bool(verify(wanted, given, float_rounding=30, numeric_precision=40, timeout_seconds=None))
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError):
        return False


def _parse(text: str) -> Any:
    config = [LatexExtractionConfig()]
    found = parse(f"${text}$", config, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None)
    return found[0] if found else None


def _constant(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and bool(value.is_number)


def _exact(value: sympy.Expr) -> sympy.Expr:
    return value.xreplace({number: sympy.Rational(str(number)) for number in value.atoms(sympy.Float)}).doit()


def _same_constant(given: sympy.Expr, wanted: sympy.Expr) -> bool:
    if given == wanted:
        return True
    if given.is_Rational and wanted.is_Rational:
        return False
    if not (given.is_finite and wanted.is_finite):
        return False
    difference = given - wanted
    scale = abs(wanted.evalf(_DIGITS))
    if abs(difference.evalf(_DIGITS)) > scale * sympy.Float(10) ** (10 - _DIGITS):
        return False
    return bool(sympy.simplify(difference) == 0 or difference.equals(0))
