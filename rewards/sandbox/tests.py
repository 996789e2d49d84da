"""A dataset's tests, in a sandbox of their own: what they use of the answer is asked of the other sandbox."""

from __future__ import annotations

import ast
import importlib
import json
import site
from typing import Any

from lightning_cispo.rewards.sandbox.errors import Gone, Raised, describe
from lightning_cispo.rewards.sandbox.frames import read_frame, write_frame
from lightning_cispo.rewards.sandbox.names import Plan, plan, tree_of
from lightning_cispo.rewards.sandbox.peer import Peer
from lightning_cispo.rewards.sandbox.proxies import PLAIN_METHODS, Proxy
from lightning_cispo.rewards.sandbox.trust import Trust, trust
from lightning_cispo.rewards.sandbox.values import NotPlain
from lightning_cispo.rewards.sandbox.wire import Table

MODULE = "tests"


class Unsendable(BaseException):
    """The tests pass on what can't be sent: no answer is to blame."""


class Missing:
    """What the answer should have defined."""

    def __init__(self, name: str):
        self._name = name

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise Raised(f"the answer defines no {self._name}")

    def __getattr__(self, name: str) -> Any:
        raise Raised(f"the answer defines no {self._name}")


def serve(reader: int, writer: int, errors: int) -> int:
    """Reads the tests as `code_runner` sends them; writes requests, and at last for each test what was wrong (`R`), or
    why the tests can't be used (`B`)."""
    order = json.loads(read_frame(reader))
    site.setquit()
    run = _Run(order, reader, writer)
    try:
        run.prepare()
    except Unsendable as error:
        return _unusable(writer, error)
    except BaseException as error:
        if run.peer.requests <= 1 and not isinstance(error, (Gone, Raised)):
            return _unusable(writer, error)  # the set-up has used nothing of the answer
        write_frame(writer, b"R" + json.dumps([describe(error)] * len(order["tests"])).encode())
        return 0
    problems = []
    for text in order["tests"]:
        try:
            problems.append(run.test(text))
        except Unsendable as error:
            return _unusable(writer, error)
    if not any(problems) and not run.used:
        return _unusable(writer, ValueError("they use nothing of the answer"))
    write_frame(writer, b"R" + json.dumps(problems).encode())
    return 0


def _unusable(writer: int, error: BaseException) -> int:
    write_frame(writer, b"B" + describe(error).encode("utf-8", "replace"))
    return 1


class _Run:
    def __init__(self, order: dict[str, Any], reader: int, writer: int):
        self.order = order
        self.names: dict[str, Any] = {"__name__": MODULE}
        self.peer = _Tests(reader, writer, self.names)
        self.plan = Plan()
        self.constants: list[str] = []
        self.start = 0

    def prepare(self) -> None:
        """Raises whatever the tests' own set-up raises."""
        setup, tests, entry = self.order["setup"], self.order["tests"], self.order["entry_point"]
        self.plan = plan(setup, tests, entry, self.order["shown"])
        if self.plan.wrong:
            raise ValueError(self.plan.wrong)
        self.peer.trust = trust([setup, *tests, entry], self.plan.names, entry, self.order["prose"])
        self.names.update({name: importlib.import_module(name) for name in self.plan.modules})
        classes = [node.name for node in [*self.plan.shown, *tree_of(setup).body] if isinstance(node, ast.ClassDef)]
        known, shared = self.peer.request("names", sorted(self.plan.names), classes)
        self.peer.shared = _Shared(self.names, set(shared))
        found = {name: known.get(name, Missing(name)) for name in self.plan.names}
        self.constants = [name for name, value in found.items() if not isinstance(value, (Proxy, Missing, type))]
        self.names.update(found)
        for statement in self.plan.shown:
            _show(statement, self.names)
        self._enter(entry)
        exec(compile(setup, "<setup>", "exec"), self.names)
        self.names.update({name: found[name] for name in ast_names(entry) & found.keys()})
        self._enter(entry)
        self.start = self.peer.requests

    def _enter(self, entry: str) -> None:
        if entry:
            self.names["candidate"] = eval(entry, self.names)

    @property
    def used(self) -> bool:
        return self.peer.requests > self.start or bool(self.constants)

    def test(self, text: str) -> str | None:
        """What is wrong, or None. Raises Unsendable."""
        self.peer.failed = None
        shown = text.strip()[:200]
        try:
            if self.constants:
                self.names.update(self.peer.request("names", self.constants, list(self.peer.shared.names))[0])
            exec(compile(text, "<test>", "exec"), self.names)
        except Unsendable:
            raise
        except AssertionError as error:
            return f"{shown} does not hold{': ' + str(error)[:200] if str(error) else ''}"
        except BaseException as error:
            return f"{shown}: {describe(error)}"
        return f"{shown}: {self.peer.failed}" if self.peer.failed else None


def ast_names(text: str) -> set[str]:
    return {node.id for node in ast.walk(tree_of(text)) if isinstance(node, ast.Name)}


def _show(statement: ast.stmt, names: dict[str, Any]) -> None:
    try:
        exec(compile(ast.Module([statement], []), "<question>", "exec"), names)
    except ImportError:
        pass  # of what the tests may do without


class _Shared(dict[str, type]):
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


class _Tests(Peer):
    """The tests' side: what the answer gets to see and to do here is little."""

    def __init__(self, reader: int, writer: int, names: dict[str, Any]):
        super().__init__(reader, writer)
        self.shared: Any = _Shared(names, set())
        self.trust = Trust()
        self.failed: str | None = None

    def sent(self, table: Table, message: list[Any]) -> bytes:
        try:
            return super().sent(table, message)
        except NotPlain as error:
            raise Unsendable(f"they pass on {error}") from None

    def may_meet(self, proxy: Proxy, other: Any) -> bool:
        return type(proxy).__name__ in self.trust.operands

    def may_ask(self, name: str) -> bool:
        return name not in PLAIN_METHODS or name in self.trust.attributes

    def perform(self, operation: str, operands: list[Any]) -> Any:
        """Of the tests' objects the answer may use what it was handed, not what lies behind that. An assertion that
        fails here fails the test, whatever the answer makes of it."""
        if operation in ("get", "set", "del"):
            value, name = operands[:2]
            if type(value).__module__ != MODULE or str(name).startswith("_"):
                raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
        try:
            return super().perform(operation, operands)
        except AssertionError as error:
            self.failed = self.failed or describe(error)
            raise
