"""One of two sides that use each other's objects, over a pair of pipes: the tests and the judged code.

One side is at work at a time. A request (`Q`) names an operation and its operands; while it is served there may be
requests the other way. The answer is a value (`V`), an exception (`E`), or why it can't be sent (`P`).
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from lightning_cispo.rewards.sandbox import values
from lightning_cispo.rewards.sandbox.errors import MAX_ERROR_CHARS, Gone, Raised, describe, rebuilt, spoken
from lightning_cispo.rewards.sandbox.facts import facts_of
from lightning_cispo.rewards.sandbox.frames import read_frame, write_frame
from lightning_cispo.rewards.sandbox.proxies import OPERATIONS, PROTOCOL, Proxy, proxy_class, take
from lightning_cispo.rewards.sandbox.values import Node, NotPlain
from lightning_cispo.rewards.sandbox.wire import Table


class Peer:
    """`shared`: classes that both sides have, by name."""

    def __init__(self, reader: int, writer: int, shared: dict[str, type] | None = None):
        self.reader, self.writer = reader, writer
        self.shared = shared or {}
        self.requests = 0
        self._own: list[Any] = []
        self._own_numbers: dict[int, int] = {}
        self._foreign: dict[int, Any] = {}
        self._foreign_numbers: dict[int, int] = {}
        self._errors: list[BaseException] = []  # that were raised here and went to the other side
        self._came: dict[int, int] = {}  # the other side's number of an exception that is raised here
        self._late: dict[int, BaseException] = {}  # that ended an iterator behind items that were taken
        self._kept: list[Any] = []  # so that no two of them have one id
        self._lock = threading.RLock()

    def request(self, operation: str, *operands: Any) -> Any:
        """What the other side makes of it. Raises what that raised, Raised or Gone."""
        with self._lock:
            self.requests += 1
            table, body = self.sent([operation, *operands])
            write_frame(self.writer, b"Q" + body)
            while (frame := self._frame())[:1] == b"Q":
                write_frame(self.writer, self.serve(frame[1:]))
            return self._outcome(operation, table, frame)

    def sent(self, message: list[Any]) -> tuple[Table, bytes]:
        """The request as bytes, and the table of what is in it. Raises NotPlain."""
        table = Table(self)
        return table, table.dump(message)

    def may_meet(self, proxy: Proxy, other: Any) -> bool:
        return True

    def may_ask(self, name: str) -> bool:
        return True

    def serve(self, body: bytes) -> bytes:
        """The frame that answers a request."""
        table = Table(self)
        try:
            operation, *operands = table.load(body)
            return b"V" + table.dump(self.perform(operation, operands))
        except NotPlain as error:
            return b"P" + str(error).encode("utf-8", "replace")[:MAX_ERROR_CHARS]
        except Gone:
            raise
        except BaseException as error:
            return self._failed(table, error)

    def perform(self, operation: str, operands: list[Any]) -> Any:
        if operation == "call":
            function, args, kwargs = operands
            return function(*args, **kwargs)
        if operation == "get":
            return getattr(*operands)
        if operation == "set":
            return setattr(*operands)
        if operation == "del":
            return delattr(*operands)
        if operation in ("copy", "deepcopy"):
            return getattr(copy, operation)(*operands)
        if operation == "plain":
            found = values.kind_of(operands[0])
            return found.copy(operands[0]) if found else values.exact(operands[0])
        if operation == "take":
            return take(operands[0], self._late)
        if operation == "await":
            import asyncio

            return asyncio.run(operands[0])
        return OPERATIONS[operation](*operands)

    def describe(self, value: Any) -> Node:
        number = self._foreign_numbers.get(id(value))
        if number is not None:
            return ["b", number]
        if id(value) not in self._own_numbers:
            self._own_numbers[id(value)] = len(self._own)
            self._own.append(value)
        return ["h", self._own_numbers[id(value)], self._facts(value)]

    def own(self, number: int) -> Any:
        if not 0 <= number < len(self._own):
            raise NotPlain("an object that was never sent")
        return self._own[number]

    def foreign(self, number: int, facts: Any) -> Any:
        if number not in self._foreign:
            made = self._made(facts)
            self._foreign_numbers[id(made)] = number
            self._foreign[number] = self._awaited(made) if facts.get("coroutine") else made
            self._kept.append(made)
        return self._foreign[number]

    def _facts(self, value: Any) -> dict[str, Any]:
        facts = facts_of(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            facts["bases"] = [self._base(base) for base in value.__bases__ if issubclass(base, BaseException)]
        return facts

    def _base(self, kind: type) -> Node:
        if self.shared.get(kind.__name__) is kind:
            return ["S", kind.__name__]
        return ["T", values.CLASSES[kind]] if kind in values.CLASSES else self.describe(kind)

    def _made(self, facts: Any) -> Any:
        if "bases" in facts:
            bases = tuple(self._known_base(*node) for node in facts["bases"])
            return type(str(facts["name"])[:80], bases, {"__str__": spoken, "__module__": "solution"})
        return proxy_class({**facts, "protocol": [name for name in PROTOCOL if name in facts["protocol"]]})(self, facts)

    def _known_base(self, tag: str, name: Any, facts: Any = None) -> Any:
        if tag == "h":
            return self.foreign(int(name), facts)
        return self.own(int(name)) if tag == "b" else self.shared[name] if tag == "S" else values.CLASS_NAMES[name]

    async def _awaited(self, made: Any) -> Any:
        return self.request("await", made)

    def _failed(self, table: Table, error: BaseException) -> bytes:
        self._errors.append(error)
        came = self._came.get(id(error), -1)
        facts = [type(error), list(error.args), dict(vars(error)), describe(error), len(self._errors) - 1, came]
        try:
            return b"E" + table.dump(facts)
        except BaseException:
            return b"E" + Table(self).dump([RuntimeError, [describe(error)], {}, describe(error), -1, -1])

    def _outcome(self, operation: str, table: Table, frame: bytes) -> Any:
        kind, body = frame[:1], frame[1:]
        if kind == b"P":
            raise Raised(f"it returned {body[:MAX_ERROR_CHARS].decode('utf-8', 'replace')}")
        if kind not in (b"V", b"E"):
            raise Gone(body[:MAX_ERROR_CHARS].decode("utf-8", "replace"))
        try:
            found = table.load(body)
        except NotPlain as error:
            raise Raised(f"it returned {error}") from None
        if kind == b"V":
            return found
        raise self._error(operation, found)

    def _error(self, operation: str, facts: Any) -> BaseException:
        """The exception that the other side raised. It ends no loop, no generator and no program here."""
        try:
            kind, args, attributes, text, theirs, ours = facts
            if type(ours) is int and 0 <= ours < len(self._errors):
                return self._errors[ours]
            error = rebuilt(kind, args, attributes, str(text))
        except Exception:
            return Raised("it raised what is no exception")
        flow = not isinstance(error, Exception) or isinstance(error, (StopIteration, StopAsyncIteration))
        if flow and not (operation in ("next", "take") and isinstance(error, StopIteration)):
            return Raised(str(text)[:MAX_ERROR_CHARS])
        self._came[id(error)] = theirs
        self._kept.append(error)
        return error

    def _frame(self) -> bytes:
        try:
            return read_frame(self.reader)
        except EOFError:
            raise Gone("it ended") from None
