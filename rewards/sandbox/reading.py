"""Values made from the nodes of a table (`wire`), which another sandbox wrote."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from lightning_cispo.rewards.sandbox.values import BY_TAG, CLASS_NAMES, FILLED, MUTABLE_TAGS, Node, NotPlain, Ref

if TYPE_CHECKING:
    from lightning_cispo.rewards.sandbox.wire import Table

MAX_FIELDS = 100
MAX_DEPTH = 100  # of tuples in tuples, below what can be written: what was read can be passed on


class Reader:
    """Makes the objects of a message's nodes. Raises NotPlain, or what Python raises on a message that is none."""

    def __init__(self, table: Table, nodes: list[Node]):
        self.table, self.start = table, len(table.objects)
        self.nodes = nodes
        self.ready = [True] * self.start + [False] * len(nodes)
        self.depths = [0] * len(self.ready)
        table.objects += [None] * len(nodes)
        table.nodes += nodes

    def read(self, root: Ref, changed: dict[str, list[Ref]]) -> Any:
        immutable = []
        for number, node in enumerate(self.nodes, self.start):
            if node[0] in BY_TAG and node[0] not in MUTABLE_TAGS or node[0] in ("n", "x"):
                immutable.append(number)
            else:
                self._put(number, self._made(node))
        for number in immutable:  # the writer numbers what they hold before them
            tag, *rest = self.table.nodes[number]
            self._deepen(number, rest)
            if tag == "n":
                self._put(number, _named(rest[0], rest[1], [self._value(ref) for ref in rest[2:]]))
            elif tag == "x":
                self._put(number, _exception(rest[0], [self._value(ref) for ref in rest[1:]]))
            else:
                self._put(number, BY_TAG[tag].make(*map(self._value, rest)))
        parts = {number: node[2:] for number, node in enumerate(self.nodes, self.start)}
        parts |= {int(number): refs for number, refs in changed.items() if 0 <= int(number) < self.start}
        # Objects first, then lists: what is hashed has its contents by then.
        order = {"o": 0, "l": 1, "q": 1, "ba": 1}
        filled = [number for number in parts if self.table.nodes[number][0] in FILLED]
        for number in sorted(filled, key=lambda n: order.get(self.table.nodes[n][0], 2)):
            self._fill(number, [self._value(ref) for ref in parts[number]])
        return self._value(root)

    def _deepen(self, number: int, refs: list[Ref]) -> None:
        inner = [ref[0] for ref in refs if type(ref) is list and len(ref) == 1 and type(ref[0]) is int]
        self.depths[number] = 1 + max((self.depths[n] for n in inner if 0 <= n < len(self.depths)), default=0)
        if self.depths[number] > MAX_DEPTH:
            raise NotPlain(f"a value nested more than {MAX_DEPTH} deep")

    def _made(self, node: Node) -> Any:
        tag, *rest = node
        if tag == "i":
            return int(rest[0], 16)
        if tag in MUTABLE_TAGS:
            return MUTABLE_TAGS[tag].make(*map(self._value, rest[0]))
        if tag == "o":
            kind: Any = self.table.owner.shared[rest[0]]
            return kind.__new__(kind)
        if tag == "m":
            return self.table.owner.shared[rest[0]].__members__[rest[1]]  # type: ignore[attr-defined]
        if tag == "S":
            return self.table.owner.shared[rest[0]]
        if tag == "T":
            return CLASS_NAMES[rest[0]]
        if tag == "h":
            return self.table.owner.foreign(int(rest[0]), rest[1])
        if tag == "b":
            return self.table.owner.own(int(rest[0]))
        raise NotPlain(f"a node of kind {str(tag)[:20]}")

    def _fill(self, number: int, parts: list[Any]) -> None:
        tag, value = self.table.nodes[number][0], self.table.objects[number]
        if tag == "o":
            _set_state(value, parts)
            return
        fill = MUTABLE_TAGS[tag].fill
        assert fill
        fill(value, parts)

    def _put(self, number: int, value: Any) -> None:
        self.table.objects[number] = value
        self.ready[number] = True

    def _value(self, ref: Ref) -> Any:
        if type(ref) is not list:
            if type(ref) is dict:
                raise NotPlain("a node that is none")
            return ref
        (number,) = ref
        if type(number) is not int or not 0 <= number < len(self.ready) or not self.ready[number]:
            raise NotPlain("a value before what it holds")
        return self.table.objects[number]


def _set_state(value: Any, parts: list[Any]) -> None:
    own = getattr(value, "__dict__", None)
    if own is not None:
        own.clear()
    for name, part in zip(parts[::2], parts[1::2], strict=True):
        if type(name) is not str:
            raise NotPlain("an attribute without a name")
        known = getattr(type(value), name, None)
        if callable(known):
            continue  # a class's method stays the class's
        if own is not None and not hasattr(known, "__set__"):
            own[name] = part
        else:
            object.__setattr__(value, name, part)


def _named(name: Any, fields: Any, parts: list[Any]) -> Any:
    if len(fields) > MAX_FIELDS or any(hasattr(tuple, str(field)) for field in fields):
        raise NotPlain("a tuple with such names")
    return namedtuple(str(name), [str(field) for field in fields])(*parts)  # type: ignore[misc]


def _exception(name: str, args: list[Any]) -> BaseException:
    kind = CLASS_NAMES[name]
    if not issubclass(kind, BaseException):
        raise NotPlain(f"{name}, which is no exception")
    return kind(*args)
