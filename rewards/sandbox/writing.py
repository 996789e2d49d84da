"""Values taken apart into the nodes of a table (`wire`)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from lightning_cispo.rewards.sandbox import values
from lightning_cispo.rewards.sandbox.values import CLASSES, Node, NotPlain, Ref

if TYPE_CHECKING:
    from lightning_cispo.rewards.sandbox.wire import Table

MAX_DEPTH = 150


class Writer:
    """Puts a value and what it holds into the table."""

    def __init__(self, table: Table):
        self.table, self.known = table, len(table.objects)
        self.numbers = {id(value): number for number, value in enumerate(table.objects)}
        self.added: list[Node] = []
        self.depth = 0  # of tuples in tuples: what can change is filled in later
        self.unfilled: list[int] = []

    def ref(self, value: Any) -> Ref:
        first = self._ref(value)
        self._fill()
        return first

    def changed(self) -> dict[int, list[Ref]]:
        """The parts of the objects that were known before, where they are others now."""
        found = {}
        for number in range(self.known):
            if self.table.nodes[number][0] in values.FILLED:
                refs = [self._ref(part) for part in self._parts(self.table.objects[number])]
                if refs != self.table.nodes[number][2:]:
                    found[number] = refs
                self._fill()
        return found

    def _fill(self) -> None:
        while self.unfilled:
            number = self.unfilled.pop()
            self.table.nodes[number] += [self._ref(part) for part in self._parts(self.table.objects[number])]

    def _ref(self, value: Any) -> Ref:
        if not values.is_inline(value) and values.stands_for_less(value):
            value = values.exact(value)
        if values.is_inline(value):
            return value
        if id(value) in self.numbers:
            return [self.numbers[id(value)]]
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotPlain(f"a value nested more than {MAX_DEPTH} deep")
        node = self._described(value)
        self.depth -= 1
        number = self._add(value, node)
        if node[0] in values.FILLED:
            self.unfilled.append(number)
        return [number]

    def _add(self, value: Any, node: Node) -> int:
        self.numbers[id(value)] = number = len(self.table.objects)
        self.table.objects.append(value)
        self.table.nodes.append(node)
        self.added.append(node)
        return number

    def _described(self, value: Any) -> Node:
        """The node of a value, of a mutable one without its parts."""
        kind, owner = type(value), self.table.owner
        if kind is int:
            return ["i", hex(value)]
        if kind in values.BY_TYPE:
            return self._data(values.BY_TYPE[kind], value)
        if owner.shared.get(kind.__name__) is kind and not isinstance(value, BaseException):
            return ["m", kind.__name__, value.name] if isinstance(value, Enum) else ["o", kind.__name__]
        if isinstance(value, type) and value in CLASSES:
            return ["T", CLASSES[value]]
        if isinstance(value, type) and owner.shared.get(value.__name__) is value:
            return ["S", value.__name__]
        if isinstance(value, BaseException) and kind in CLASSES:
            return ["x", CLASSES[kind], *map(self._ref, value.args)]
        if values.is_named(value):
            return ["n", kind.__name__, list(kind._fields), *map(self._ref, tuple.__iter__(value))]
        if values.stands_for_less(value):
            found = values.kind_of(value)
            assert found
            return self._data(found, value)
        return owner.describe(value)

    def _data(self, kind: values.Kind, value: Any) -> Node:
        if kind.fill:
            return [kind.tag, kind.parts(value)[: kind.fixed]]
        return [kind.tag, *map(self._ref, kind.parts(value))]

    def _parts(self, value: Any) -> list[Any]:
        """What a mutable value holds."""
        kind = type(value)
        if self.table.owner.shared.get(kind.__name__) is kind:
            return _state(value)
        found = values.kind_of(value)
        assert found
        return found.parts(value)[found.fixed :]


def _state(value: Any) -> list[Any]:
    """Names and values of an object's attributes."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return [side for pair in found.items() for side in pair]
