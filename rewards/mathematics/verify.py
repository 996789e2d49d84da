"""The calls of verifier `math`, for isolated processes only: SymPy meets the policy's text and may never return."""

from __future__ import annotations

import re
from typing import Any

from lightning_cispo.rewards.mathematics import values
from lightning_cispo.rewards.mathematics.compare import Comparison, without_base
from lightning_cispo.rewards.mathematics.literals import literal
from lightning_cispo.rewards.mathematics.shape import Shape
from lightning_cispo.rewards.mathematics.shapes import read
from lightning_cispo.rewards.mathematics.spelling import squeeze
from lightning_cispo.rewards.mathematics.units import split_unit
from lightning_cispo.rewards.mathematics.words import choice, word

_CONGRUENCE = re.compile(r"\\equiv.*\\(?:pmod|bmod|mod)(?![A-Za-z])")


def parses(gold: str) -> bool:
    """Whether a gold answer is mathematics: each of its values can be read."""
    letter, rest = choice(squeeze(gold))
    return _readable(read(rest if letter and rest else squeeze(gold)))


def equivalent(answer: str, gold: str, evaluated: bool = True) -> dict[str, Any]:
    """Return `correct`, and `error` with the reason if it is not. Raises ValueError if the gold is no mathematics.

    With `evaluated` an answer must be at least as evaluated as a gold that is a number.
    """
    if not parses(gold):
        raise ValueError(f"the gold answer {gold!r} is not a mathematical expression")
    comparison = Comparison(evaluated)
    try:
        readings = _readings(squeeze(answer), squeeze(gold))
        if any(comparison.same(read(given), read(asked)) for given, asked in readings):
            return {"correct": True, "error": ""}
    except values.FAILURES as error:  # an answer that SymPy fails on is not the gold
        comparison.reason = f"{answer!r} can't be compared: {type(error).__name__}"[:300]
    return {"correct": False, "error": comparison.reason or f"{answer!r} is not {gold!r}"[:300]}


def _readings(answer: str, gold: str) -> list[tuple[str, str]]:
    """The pairs of texts of which one must be equal: with labels of choices, and without them."""
    (given_letter, given), (wanted_letter, wanted) = choice(answer), choice(gold)
    if wanted_letter and given_letter:
        return [(given_letter, wanted_letter)]
    if given_letter and given:
        return [(answer, gold), (given, gold)]
    return [(answer, wanted)] if wanted_letter and wanted else [(answer, gold)]


def _readable(gold: Shape) -> bool:
    if gold.kind == "value":
        text, _ = split_unit(without_base("", gold.text)[1], gold=True)
        return literal(gold.text) is not None or word(gold.text) is not None or values.parse(text) is not None
    if gold.kind == "statement":
        return _CONGRUENCE.search(gold.text) is not None  # compared as text
    return all(map(_readable, gold.items))


def _warm() -> None:
    """Compare one answer of each kind, so that grammar tables and SymPy's lazy modules are loaded.

    The import of this module is outside the first answer's deadline; its first comparison would not be.
    """
    for answer, gold in _FIRST:
        equivalent(answer, gold)


_FIRST = [
    (r"\frac{\sqrt{3}}{3} + 2i", r"2i + \frac{1}{\sqrt{3}}"),
    (r"\frac{\pi}{4}e^{2}", r"0.25\pi e^2"),
    (r"\frac{x^2-1}{x-1} + \sin{x}", r"x+1+\sin x"),
    (r"x + y = \binom{5}{2}", "2x + 2y = 20"),
    (r"x_1 \ge \sqrt[3]{2} - 5!", r"[\sqrt[3]{2} - 120, \infty)"),
    (r"\log_2 \left|x\right|", r"\frac{\ln |x|}{\ln 2}"),
    (
        r"\begin{pmatrix} 2^{10} & \lfloor x \rfloor \end{pmatrix}",
        r"\begin{pmatrix} 4^{5} & \lfloor x \rfloor \end{pmatrix}",
    ),
]
_warm()
