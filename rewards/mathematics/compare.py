"""Decide whether an answer means the same as the gold: shape by shape, values by `values`.

`rewards.math` states the policy.
"""

from __future__ import annotations

import re

import sympy

from lightning_cispo.rewards.mathematics import values
from lightning_cispo.rewards.mathematics.evaluated import at_least_as_evaluated
from lightning_cispo.rewards.mathematics.intervals import FLIPPED
from lightning_cispo.rewards.mathematics.literals import literal
from lightning_cispo.rewards.mathematics.shape import Shape
from lightning_cispo.rewards.mathematics.shapes import is_quantity, is_variable
from lightning_cispo.rewards.mathematics.spelling import unspaced
from lightning_cispo.rewards.mathematics.units import contradict, split_unit
from lightning_cispo.rewards.mathematics.words import word

_BASE = re.compile(r"(?<=[\w}])_ ?\{? ?(\d+) ?\}?$", re.ASCII)


class Comparison:
    """One comparison. `reason` says what an equal answer lacked, if that was why it is wrong."""

    def __init__(self, evaluated: bool):
        self.evaluated, self.reason = evaluated, ""

    def same(self, answer: Shape, gold: Shape) -> bool:
        if gold.kind == "rounded" or _is_numeric_chain(gold):  # 2/3 \\approx 0.67 or 0.56 = 56%: either will do
            given = answer.items if (answer.kind, answer.signs) == (gold.kind, gold.signs) else (answer,)
            return all(any(self.same(one, asked) for asked in gold.items) for one in given)
        if answer.kind == "rounded":
            return len(answer.items) == 2 and _rounds(*answer.items) and self.same(answer.items[0], gold)
        answer, gold = _as_written(answer, gold), _as_written(gold, answer)
        if answer.kind == "relation" and gold.kind == "relation":
            return self._relations(answer, gold)
        if answer.kind == "relation":
            return self._stated(answer, gold)
        if gold.kind == "relation":
            return _is_assignment(gold) and self.same(answer, gold.items[-1])
        if answer.name and gold.name and answer.name != gold.name:
            return False
        if "list" in (answer.kind, gold.kind):
            return self._lists(answer, gold)
        if {answer.kind, gold.kind} <= {"value", "matrix"} and "value" in (answer.kind, gold.kind):
            return self._values(answer.text, gold.text)
        if answer.kind != gold.kind:
            return False
        if gold.kind == "matrix":
            return self._ordered(answer.items, gold.items)
        if gold.kind == "union":
            return self._unordered(answer.items, gold.items)
        if gold.kind == "statement":
            return unspaced(answer.text) == unspaced(gold.text)
        return answer.text == gold.text and self._ordered(answer.items, gold.items)

    def _stated(self, answer: Shape, gold: Shape) -> bool:
        """`x = 5`, `(x, y) = (3, 4)` or `x = 10/2 = 5`: all that a name is set equal to must be the gold."""
        left, *rest = answer.items
        if set(answer.signs) != {"="} or not _names(left):
            return False
        rough = Comparison(False)
        return all(rough.same(side, gold) for side in rest[:-1]) and self.same(rest[-1], gold)

    def _relations(self, answer: Shape, gold: Shape) -> bool:
        if len(answer.signs) != 1 or len(gold.signs) != 1:
            same_signs = answer.signs == gold.signs
            return same_signs and self._ordered(answer.items, gold.items)
        if answer.signs == gold.signs == ("=",) and self.same(answer.items[0], gold.items[0]):
            return self.same(answer.items[1], gold.items[1])
        if self.evaluated and _is_assignment(gold) and gold.items[1].kind == "value":
            value = values.parse(gold.items[1].text)
            if isinstance(value, sympy.Expr) and value.is_number:  # x = 4 is not the equation that it solves
                return False
        return _same_relation(answer, gold)

    def _lists(self, answer: Shape, gold: Shape) -> bool:
        given = answer.items if answer.kind == "list" else (answer,)
        wanted = gold.items if gold.kind == "list" else (gold,)
        if gold.kind == "tuple" and answer.kind == "list":  # x = 3, y = 4 for (3, 4)
            named = {_left(item): item.items[-1] for item in given if _is_assignment(item)}
            in_order = tuple(named[name] for name in sorted(named))
            return len(named) == len(given) and self._ordered(in_order, gold.items)
        if len({_left(item) for item in wanted if _is_assignment(item)}) == len(wanted) > 1:
            if answer.kind == "tuple":
                return self._ordered(answer.items, wanted)
            if not any(item.kind == "relation" for item in given):
                return answer.kind == "list" and self._ordered(given, wanted)
        return self._unordered(given, wanted)

    def _ordered(self, given: tuple[Shape, ...], wanted: tuple[Shape, ...]) -> bool:
        return len(given) == len(wanted) and all(map(self.same, given, wanted))

    def _unordered(self, given: tuple[Shape, ...], wanted: tuple[Shape, ...]) -> bool:
        if len(given) != len(wanted):
            return False
        left = list(wanted)
        for item in given:
            match = next((place for place, other in enumerate(left) if self.same(item, other)), None)
            if match is None:
                return False
            del left[match]
        return True

    def _values(self, answer: str, gold: str) -> bool:
        if unspaced(answer) == unspaced(gold):
            return True
        if re.fullmatch("[A-Za-z]", answer) and re.fullmatch("[A-Za-z]", gold):
            return False  # `E` and `e`, `I` and `i`: other names, whatever they stand for
        wanted_word = word(gold)
        if wanted_word is not None:
            return word(answer, any_length=True) == wanted_word
        wanted, given = literal(gold, gold=True), literal(answer)
        if wanted is not None and given is not None:
            if not given.matches(wanted) or contradict(given.unit, wanted.unit):
                return False
            return self._enough(given.evaluated or not wanted.evaluated)
        (answer, unit), (gold, gold_unit) = split_unit(answer), split_unit(gold, gold=True)
        if contradict(unit, gold_unit):
            return False
        answer, gold = without_base(answer, gold)
        given_value, wanted_value = values.parse(answer), values.parse(gold)
        if given_value is None or wanted_value is None or not values.same(given_value, wanted_value):
            return False
        if wanted is not None:
            return self._enough(not wanted.evaluated)
        constant = isinstance(wanted_value, sympy.Expr) and wanted_value.is_number
        return self._enough(not constant or at_least_as_evaluated(given_value, wanted_value))

    def _enough(self, evaluated: bool) -> bool:
        if evaluated or not self.evaluated:
            return True
        self.reason = "equal to the gold, but less evaluated"
        return False


def without_base(answer: str, gold: str) -> tuple[str, str]:
    """Drop the base of a gold's digits from both, `17_8`, if the answer has the same one or none."""
    given, wanted = _BASE.search(answer), _BASE.search(gold)
    digits = re.sub(r"\\text\{ ?(\w+) ?\}", r"\1", gold[: wanted.start()]) if wanted else ""
    if wanted and digits.removeprefix("-").isalnum() and (given is None or given[1] == wanted[1]):
        given_digits = answer[: given.start()] if given else answer
        return re.sub(r"\\text\{ ?(\w+) ?\}", r"\1", given_digits), digits
    return answer, gold


def _as_written(shape: Shape, other: Shape) -> Shape:
    """An interval as the inequality that it was written as, if the other is one that is not solved: `-x > -1`."""
    return shape.written if shape.written and other.kind == "relation" and "=" not in other.signs else shape


def _is_assignment(shape: Shape) -> bool:
    return shape.kind == "relation" and set(shape.signs) == {"="} and is_variable(_left(shape))


def _is_numeric_chain(shape: Shape) -> bool:
    return shape.kind == "relation" and set(shape.signs) == {"="} and not re.search(r"[A-Za-z]", shape.text)


def _left(shape: Shape) -> str:
    return shape.text.partition("=")[0].strip()


def _rounds(value: Shape, rounded: Shape) -> bool:
    exact, close = values.parse(split_unit(value.text)[0]), literal(rounded.text)
    return isinstance(exact, sympy.Expr) and close is not None and values.close(exact, close.value)


def _names(left: Shape) -> bool:
    if left.kind == "tuple":
        return all(item.kind == "value" and is_variable(item.text) for item in left.items)
    return left.kind == "value" and is_quantity(left.text)


def _same_relation(answer: Shape, gold: Shape) -> bool:
    """Whether two equations or inequalities say the same: their differences are proportional."""
    sides = [item.text for shape in (answer, gold) for item in shape.items if item.kind == "value"]
    parsed = [side for side in map(values.parse, sides) if isinstance(side, sympy.Expr)]
    if len(parsed) != 4:
        return False
    given, wanted = parsed[0] - parsed[1], parsed[2] - parsed[3]
    if answer.signs == gold.signs:
        return values.proportional(given, wanted, positive=gold.signs[0] not in ("=", r"\ne"))
    return FLIPPED.get(answer.signs[0]) == gold.signs[0] and values.proportional(-given, wanted, positive=True)
