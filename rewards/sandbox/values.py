"""Python's data as JSON nodes: one table of the types that cross between sandboxes by value.

Only exact types are rebuilt, so no object of the judged code, with whatever it does when it is compared, printed or
hashed, reaches the tests as one. A subclass counts as the type that it extends.
"""

from __future__ import annotations

import builtins
import datetime
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

Node = list[Any]
Ref = Any  # how a node names a value: None, a bool, a number, a text, or a list of one index


class NotPlain(Exception):
    """A value that can't cross, or what is no value at all."""


class Owner(Protocol):
    """Who keeps the objects that don't cross: one at each side."""

    shared: dict[str, type]  # classes that both sides have, by name: their objects cross by what they hold

    def describe(self, value: Any) -> Node:
        """The node of an object that stays here, or of one that stays there."""

    def foreign(self, number: int, facts: Any) -> Any:
        """What stands here for an object that stays there. Raises NotPlain."""

    def own(self, number: int) -> Any:
        """The object that stays here. Raises NotPlain."""


class Kind(NamedTuple):
    """How a type is taken apart into values, and made from them.

    A mutable one is made of its first `fixed` parts and filled with the others later, since it may hold itself.
    """

    tag: str
    type: type
    parts: Callable[[Any], list[Any]]
    make: Callable[..., Any]
    fill: Callable[[Any, list[Any]], None] | None = None
    fixed: int = 0

    def copy(self, value: Any) -> Any:
        """Of the exact type."""
        parts = self.parts(value)
        if self.fill is None:
            return self.make(*parts)
        made = self.make(*parts[: self.fixed])
        self.fill(made, parts[self.fixed :])
        return made


def _pairs(value: Any) -> list[Any]:
    return [side for pair in dict.items(value) for side in pair]


def _two(parts: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(parts[::2], parts[1::2], strict=True))


def _refill(kind: Any, take: Callable[[list[Any]], Any] = lambda parts: parts) -> Callable[[Any, list[Any]], None]:
    def fill(value: Any, parts: list[Any]) -> None:
        kind.clear(value)
        (kind.extend if hasattr(kind, "extend") else kind.update)(value, take(parts))

    return fill


def _default(value: defaultdict[Any, Any], parts: list[Any]) -> None:
    value.default_factory = parts[0]
    _refill(dict, _two)(value, parts[1:])


def _view(tag: str, name: str, make: Callable[[list[Any]], dict[Any, Any]]) -> Kind:
    take = getattr(dict, name)
    flat = name == "items"
    return Kind(
        tag,
        type(take({})),
        lambda value: [side for pair in value for side in pair] if flat else list(value),
        lambda *parts: take(make(list(parts))),
    )


def _spell(kind: type) -> Kind:
    """Dates and times, by their ISO text."""
    return Kind(kind.__name__, kind, lambda v: [v.isoformat()], lambda text: kind.fromisoformat(str(text)))  # type: ignore[attr-defined]


IMMUTABLE = [
    Kind("t", tuple, lambda v: list(tuple.__iter__(v)), lambda *parts: tuple(parts)),
    Kind("z", frozenset, lambda v: list(frozenset.__iter__(v)), lambda *parts: frozenset(parts)),
    Kind("c", complex, lambda v: [v.real, v.imag], complex),
    Kind("y", bytes, lambda v: [bytes.hex(v)], bytes.fromhex),
    Kind("r", range, lambda v: [v.start, v.stop, v.step], range),
    Kind("sl", slice, lambda v: [v.start, v.stop, v.step], slice),
    Kind("F", Fraction, lambda v: [v.numerator, v.denominator], Fraction),
    Kind("D", Decimal, lambda v: [Decimal.__str__(v)], lambda text: Decimal(str(text))),
    Kind("dt", datetime.timedelta, lambda v: [v.days, v.seconds, v.microseconds], datetime.timedelta),
    *map(_spell, (datetime.datetime, datetime.date, datetime.time)),
    Kind("e", type(...), lambda _: [], lambda: ...),
    Kind("ni", type(NotImplemented), lambda _: [], lambda: NotImplemented),
    _view("vk", "keys", dict.fromkeys),
    _view("vv", "values", lambda parts: dict(enumerate(parts))),
    _view("vi", "items", lambda parts: dict(_two(parts))),
]
MUTABLE = [
    Kind("l", list, lambda v: list(list.__iter__(v)), list, _refill(list)),
    Kind("s", set, lambda v: list(set.__iter__(v)), set, _refill(set)),
    Kind("od", OrderedDict, _pairs, OrderedDict, _refill(OrderedDict, _two)),
    Kind("dd", defaultdict, lambda v: [v.default_factory, *_pairs(v)], defaultdict, _default),
    Kind("ct", Counter, _pairs, Counter, _refill(dict, _two)),
    Kind("d", dict, _pairs, dict, _refill(dict, _two)),
    Kind("ba", bytearray, lambda v: [bytes(v)], bytearray, _refill(bytearray, lambda parts: parts[0])),
    Kind("q", deque, lambda v: [v.maxlen, *deque.__iter__(v)], lambda most: deque((), most), _refill(deque), 1),
]
MUTABLE_TAGS = {kind.tag: kind for kind in MUTABLE}
FILLED = ("o", *MUTABLE_TAGS)  # tags of nodes whose parts may be others after a call; "o": a shared class's object
BY_TYPE = {kind.type: kind for kind in (*IMMUTABLE, *MUTABLE)}
BY_TAG = {kind.tag: kind for kind in (*IMMUTABLE, *MUTABLE)}
# Classes that cross by their name. Builtin ones include the exceptions.
CLASSES: dict[type, str] = {
    **{kind.type: kind.tag for kind in BY_TAG.values() if kind.type.__module__ != "builtins"},
    **{found: name for name, found in vars(builtins).items() if isinstance(found, type)},
}
CLASS_NAMES = {name: found for found, name in CLASSES.items()}


def kind_of(value: Any) -> Kind | None:
    """Of the value's type or of the type that it extends."""
    return next((BY_TYPE[base] for base in type(value).__mro__ if base in BY_TYPE), None)


def exact(value: Any) -> Any:
    """A number or a text without its own class; anything else as it is."""
    if isinstance(value, int):
        return value if type(value) in (int, bool) else int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return str.__str__(value) if isinstance(value, str) else value


def is_inline(value: Any) -> bool:
    """Whether JSON holds the value exactly."""
    kind = type(value)
    return value is None or kind in (bool, float, str) or (kind is int and -(2**53) < value < 2**53)


def has_own_face(kind: type) -> bool:
    """Whether a class that extends one of these types has attributes to ask for beside that type's."""
    base = next(b for b in kind.__mro__ if b in BY_TYPE or b in (int, float, str))
    own = kind.__mro__[: kind.__mro__.index(base)]
    return any(not name.startswith("_") and not hasattr(base, name) for found in own for name in vars(found))


def stands_for_less(value: Any) -> bool:
    """Whether an object of a subclass crosses as what it extends: there is nothing else to ask it for."""
    if not isinstance(value, (int, float, str, *BY_TYPE)) or isinstance(value, Enum) or is_named(value):
        return False
    return type(value) not in BY_TYPE and not has_own_face(type(value))


def is_named(value: Any) -> bool:
    """Whether it is a namedtuple's instance."""
    fields = getattr(type(value), "_fields", None)
    return isinstance(value, tuple) and type(fields) is tuple and all(type(name) is str for name in fields)
