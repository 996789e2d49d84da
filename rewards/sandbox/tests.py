"""A dataset's tests, in a sandbox of their own: what they use of the answer is asked of the other sandbox."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import site
from typing import Any

from lightning_cispo.rewards.sandbox.errors import Gone, Raised, describe
from lightning_cispo.rewards.sandbox.frames import read_frame, write_frame
from lightning_cispo.rewards.sandbox.names import Plan, plan, tree_of
from lightning_cispo.rewards.sandbox.proxies import Proxy
from lightning_cispo.rewards.sandbox.tests_peer import MODULE, Shared, TestsPeer, Unsendable
from lightning_cispo.rewards.sandbox.trust import trust


class Blamed(Exception):
    """The set-up fails by what the answer defines or doesn't."""


def serve(reader: int, writer: int, errors: int) -> int:
    """Reads the tests as `code_runner` sends them; writes requests, and at last for each test what was wrong (`R`), or
    why the tests can't be used (`B`)."""
    order = json.loads(read_frame(reader))
    site.setquit()
    run = _Run(order, reader, writer)
    try:
        run.prepare()
    except (Blamed, Gone, Raised) as error:
        write_frame(writer, b"R" + json.dumps([describe(error)] * len(order["tests"])).encode())
        return 0
    except BaseException as error:
        return _unusable(writer, error)
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
        self.peer = TestsPeer(reader, writer, self.names)
        self.plan = Plan()
        self.found: dict[str, Any] = {}
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
        self._ask(classes)
        for statement in self.plan.shown:
            _show(statement, self.names)
        self.start = self.peer.requests
        try:
            self._enter(entry)
            exec(compile(setup, "<setup>", "exec"), self.names)
            self.names.update({name: self.found[name] for name in ast_names(entry) & self.found.keys()})
            self._enter(entry)
        except (Gone, Unsendable):
            raise
        except BaseException as error:
            if self.used or (isinstance(error, NameError) and error.name in self.plan.names):
                raise Blamed(describe(error)) from None
            raise

    def _ask(self, classes: list[str]) -> None:
        """What the answer has under its names, and which of the tests' classes it has too."""
        facts = self.peer.request("names", sorted(self.plan.names), classes)
        try:
            known, shared = facts
            self.found = {name: known[name] for name in self.plan.names if name in known}
            self.peer.shared = Shared(self.names, {str(name) for name in shared})
        except Exception:
            raise Raised("it wrote into its pipe") from None
        hidden = self.plan.names - self.found.keys()  # no builtin stands in for what is missing
        self.names["__builtins__"] = {name: value for name, value in vars(builtins).items() if name not in hidden}
        self.constants = [name for name, value in self.found.items() if not isinstance(value, (Proxy, type))]
        self.names.update(self.found)

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
                self.names.update(self._again())
            exec(compile(text, "<test>", "exec"), self.names)
        except Unsendable:
            raise
        except AssertionError as error:
            return f"{shown} does not hold{': ' + str(error)[:200] if str(error) else ''}"
        except BaseException as error:
            return f"{shown}: {describe(error)}"
        return f"{shown}: {self.peer.failed}" if self.peer.failed else None

    def _again(self) -> dict[str, Any]:
        """The constants as they are now."""
        facts = self.peer.request("names", self.constants, sorted(self.peer.shared.names))
        try:
            return {name: facts[0][name] for name in self.constants}
        except (LookupError, TypeError):
            raise Raised("it wrote into its pipe") from None


def ast_names(text: str) -> set[str]:
    return {node.id for node in ast.walk(tree_of(text)) if isinstance(node, ast.Name)}


def _show(statement: ast.stmt, names: dict[str, Any]) -> None:
    try:
        exec(compile(ast.Module([statement], []), "<question>", "exec"), names)
    except ImportError:
        pass  # of what the tests may do without
