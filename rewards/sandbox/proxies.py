"""What stands on one side for an object of the other: it passes on what is done with it.

On the tests' side it passes on little. An object of the judged code must not learn what the tests compare it with, nor
say that it is equal, so it never meets their data in an operator, unless the tests are written about such objects
(`Trust`). It is no control flow either: it swallows no failed assertion and ends no loop but its own.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from lightning_cispo.rewards.sandbox.values import is_inline

UNARY: dict[str, Callable[..., Any]] = {
    "len": len, "iter": iter, "next": next, "reversed": reversed, "bool": bool, "str": str, "repr": repr, "hash": hash,
    "int": int, "float": float, "complex": complex, "index": operator.index, "abs": abs, "neg": operator.neg,
    "pos": operator.pos, "invert": operator.invert, "bytes": bytes, "round": round, "fspath": os.fspath,
    "enter": lambda v: type(v).__enter__(v),
}  # fmt: skip
DATA: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem, "format": format,
    "exit": lambda v, *about: type(v).__exit__(v, *about),
}  # fmt: skip
COMPARED: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "contains")
}
ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(operator, name)
        for name in "add sub mul matmul truediv floordiv mod pow lshift rshift xor iadd isub imul ior iand ixor".split()
    },
    "and": operator.and_, "or": operator.or_, "divmod": divmod,
}  # fmt: skip
OPERATIONS: dict[str, Callable[..., Any]] = {
    **UNARY, **DATA, **COMPARED, **ARITHMETIC, "eq": operator.eq, "isinstance": isinstance, "issubclass": issubclass
}  # fmt: skip
PROTOCOL = [
    f"__{name}__"
    for name in [
        *UNARY,
        *DATA,
        *COMPARED,
        *ARITHMETIC,
        *(f"r{name}" for name in ARITHMETIC if name[0] != "i"),
        "call",
        "eq",
    ]
]
PLAIN_METHODS = {
    name for kind in (int, float, str, bytes, list, tuple, set, dict) for name in dir(kind) if not name.startswith("_")
}


ONE_BY_ONE = 64  # items of an iterator before several are asked for at once
MAX_TAKEN, MAX_TAKEN_CHARS = 1000, 1000  # items then, and their length


class Peer(Protocol):
    def request(self, operation: str, *operands: Any) -> Any: ...

    def may_meet(self, proxy: Proxy, other: Any) -> bool:
        """Whether the object behind the proxy may be shown other data in an operator."""

    def may_ask(self, name: str) -> bool:
        """Whether an attribute of this name may be looked at."""


class Proxy:
    """`_facts` are what the other side says of the object: its class's name and what of Python's protocol that has."""

    __slots__ = ("__weakref__", "_ahead", "_facts", "_peer", "_taken")

    def __init__(self, peer: Peer, facts: dict[str, Any]):
        for name, value in (("_peer", peer), ("_facts", facts), ("_ahead", []), ("_taken", 0)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if not self._peer.may_ask(name):
            raise AttributeError(f"{type(self).__name__} object of the answer is no plain data: no {name!r}")
        return self._peer.request("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.request("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._peer.request("del", self, name)

    def __copy__(self) -> Any:
        return self._peer.request("copy", self)

    def __deepcopy__(self, _: Any) -> Any:
        return self._peer.request("deepcopy", self)

    def __eq__(self, other: object) -> Any:
        if self is other:
            return True
        if isinstance(other, Proxy) or self._peer.may_meet(self, other):
            return self._peer.request("eq", self, other) is True
        if self._facts.get("plain"):
            return self._peer.request("plain", self) == other
        return NotImplemented

    def __hash__(self) -> int:
        return id(self)


def proxy_class(facts: dict[str, Any]) -> type[Proxy]:
    """For the protocol that the object has, so that `callable`, `iter` and `len` say of it what is so."""
    methods: dict[str, Any] = {"__slots__": ()}
    for dunder in facts["protocol"]:
        name = dunder.strip("_")
        if name == "next" and facts.get("iterator"):
            methods[dunder] = _next
        elif name in UNARY or name in ("getitem", "setitem", "delitem", "format"):
            methods[dunder] = _passed(name)
        elif name in COMPARED or name in ARITHMETIC:
            methods[dunder] = _met(name)
        elif name[1:] in ARITHMETIC and name[0] == "r":
            methods[dunder] = _met(name[1:], swapped=True)
        elif name == "exit":
            methods[dunder] = _exit
        elif name == "call":
            methods[dunder] = _call
    if facts.get("class"):
        methods["__instancecheck__"] = lambda self, value: (
            isinstance(value, Proxy) and bool(self._peer.request("isinstance", value, self))
        )
        methods["__subclasscheck__"] = lambda self, value: (
            isinstance(value, Proxy) and bool(self._peer.request("issubclass", value, self))
        )
    return type(str(facts["name"])[:80], (Proxy,), methods)


def _passed(name: str) -> Callable[..., Any]:
    return lambda self, *operands: self._peer.request(name, self, *operands)


def _next(self: Proxy) -> Any:
    """One by one at first; from a long iterator several at a time, since each way to the other side costs."""
    if not self._ahead:
        object.__setattr__(self, "_taken", self._taken + 1)
        if self._taken < ONE_BY_ONE:
            return self._peer.request("next", self)
        self._ahead.extend(reversed(self._peer.request("take", self)))
    return self._ahead.pop()


def _met(name: str, swapped: bool = False) -> Callable[..., Any]:
    def meet(self: Proxy, other: Any) -> Any:
        if not isinstance(other, Proxy) and not self._peer.may_meet(self, other):
            if name == "contains":
                raise TypeError(f"{type(self).__name__} object of the answer is no plain data: no `in`")
            return NotImplemented
        return self._peer.request(name, *((other, self) if swapped else (self, other)))

    return meet


def _call(self: Proxy, /, *args: Any, **kwargs: Any) -> Any:
    return self._peer.request("call", self, args, kwargs)


def _exit(self: Proxy, kind: Any, error: Any, trace: Any) -> bool:
    swallowed = self._peer.request("exit", self, kind, error, None)
    return bool(swallowed) and not isinstance(error, AssertionError)


def take(iterator: Iterator[Any], late: dict[int, BaseException]) -> list[Any]:
    """The next items, at least one; more while they are short. What ends it behind those is kept in `late`."""
    if id(iterator) in late:
        raise late.pop(id(iterator))
    items = [next(iterator)]
    try:
        while len(items) < MAX_TAKEN and is_inline(items[-1]) and len(str(items[-1])) < MAX_TAKEN_CHARS:
            items.append(next(iterator))
    except BaseException as error:
        late[id(iterator)] = error
    return items
