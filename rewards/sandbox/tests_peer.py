"""The tests' side of the two: what the answer gets to see and to do here is little."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType, ModuleType, TracebackType
from typing import Any

from lightning_cispo.rewards.sandbox.errors import describe
from lightning_cispo.rewards.sandbox.frames import MAX_TESTS_FRAME_BYTES
from lightning_cispo.rewards.sandbox.peer import Peer
from lightning_cispo.rewards.sandbox.proxies import PLAIN_METHODS, Proxy
from lightning_cispo.rewards.sandbox.trust import Trust
from lightning_cispo.rewards.sandbox.values import NotPlain
from lightning_cispo.rewards.sandbox.wire import Table

# What leads from these to the tests' own variables has no underscore.
CLOSED = (GeneratorType, CoroutineType, AsyncGeneratorType, FrameType, TracebackType, ModuleType)
MODULE = "tests"  # where the tests' own classes say that they are from


class Unsendable(BaseException):
    """The tests pass on what can't be sent: no answer is to blame."""


class Shared(dict[str, type]):
    """The tests' classes that the answer has too; those of the set-up come to be while it runs."""

    def __init__(self, known: dict[str, Any], names: set[str]):
        super().__init__()
        self.known, self.names = known, names

    def get(self, name: str, default: Any = None) -> Any:
        found = self.known.get(name) if name in self.names else None
        return found if isinstance(found, type) and found.__module__ == MODULE else default

    def __getitem__(self, name: str) -> type:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found  # type: ignore[no-any-return]


class TestsPeer(Peer):
    def __init__(self, reader: int, writer: int, names: dict[str, Any]):
        super().__init__(reader, writer)
        self.shared: Any = Shared(names, set())
        self.trust = Trust()
        self._seeded = False
        for name in ("seed", "setstate"):
            setattr(random, name, self._noted(getattr(random, name)))
        self.failed: str | None = None

    def _noted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def seed(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)
            self._seeded = True

        return seed

    def request(self, operation: str, *operands: Any) -> Any:
        """From the tests' seed on the answer's random numbers are the tests'."""
        if self._seeded:
            self._seeded = False
            super().request("random", random.getstate())
        return super().request(operation, *operands)

    def sent(self, message: list[Any]) -> tuple[Table, bytes]:
        table = Table(self, MAX_TESTS_FRAME_BYTES)
        try:
            return table, table.dump(message)
        except NotPlain as error:
            raise Unsendable(f"they pass on {error}") from None

    def may_meet(self, proxy: Proxy, other: Any) -> bool:
        return type(proxy).__name__ in self.trust.operands

    def may_ask(self, name: str) -> bool:
        return name not in PLAIN_METHODS or name in self.trust.attributes

    def perform(self, operation: str, operands: list[Any]) -> Any:
        """Of the tests' objects the answer may use what it was handed, not what lies behind that. An assertion that
        fails here fails the test, whatever the answer makes of it."""
        if operation == "print":
            return sys.stdout.write(str(operands[0]))
        if operation == "input":
            return input(*operands)
        if operation in ("get", "set", "del"):
            value, name = operands[:2]
            if isinstance(value, CLOSED) or str(name).startswith("_"):
                raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
        try:
            return super().perform(operation, operands)
        except AssertionError as error:
            self.failed = self.failed or describe(error)
            raise
