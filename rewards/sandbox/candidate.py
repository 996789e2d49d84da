"""Judged code, inside its sandbox, as functions and classes that the tests use one operation at a time."""

from __future__ import annotations

import ast
import builtins
import importlib
import io
import json
import linecache
import random
import site
import sys
from types import ModuleType
from typing import Any

from lightning_cispo.rewards.sandbox.errors import describe
from lightning_cispo.rewards.sandbox.frames import read_frame, write_frame
from lightning_cispo.rewards.sandbox.names import given
from lightning_cispo.rewards.sandbox.peer import Peer

FILE = "<solution>"


def serve(reader: int, writer: int, errors: int) -> int:
    """The code comes first, with what the question shows, then requests, each answered before the next can be seen."""
    order = json.loads(read_frame(reader))
    source = order["source"]
    module = ModuleType("solution")
    try:
        code = compile(source, FILE, "exec")
    except BaseException as error:
        write_frame(writer, json.dumps({"compile": describe(error)}).encode())
        return 1
    site.setquit()
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    sys.modules["solution"] = module
    shown = _shown(order, module)
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        write_frame(writer, json.dumps({"raised": describe(error)}).encode())
        return 1
    write_frame(writer, b"{}")
    peer = Solution(reader, writer, module, shown)
    builtins.input = peer.input
    while True:
        try:
            body = read_frame(reader)
        except EOFError:
            return 0
        write_frame(writer, peer.serve(body[1:]))


def _shown(order: dict[str, Any], module: ModuleType) -> dict[str, Any]:
    """Put the question's helpers and imports before the answer, and return them: they are not the answer's."""
    for statement in given(order["shown"], order["entry_point"]):
        try:
            exec(compile(ast.Module([statement], []), "<question>", "exec"), module.__dict__)
        except Exception:
            continue  # what isn't inside, such as a foreign package
    return dict(module.__dict__)


_set_random = random.setstate


class Solution(Peer):
    """What the code prints while it is called, and what it asks for by `input`, is the tests' affair."""

    def __init__(self, reader: int, writer: int, module: ModuleType, shown: dict[str, Any]):
        super().__init__(reader, writer)
        self.module, self.shown = module, shown
        sys.stdout = self.printed = io.StringIO()

    def input(self, prompt: object = "", /) -> Any:
        return self.request("input", str(prompt))

    def perform(self, operation: str, operands: list[Any]) -> Any:
        """Also `names`: what the code has under each of some names, and which of the tests' classes it has too; and
        `random`: to go on from the tests' random numbers."""
        if operation == "random":
            return _set_random(operands[0])
        if operation != "names":
            try:
                return super().perform(operation, operands)
            finally:
                self._tell()
        names, shared = operands
        known = self.module.__dict__
        self.shared = {name: known[name] for name in shared if isinstance(known.get(name), type)}
        own = [name for name in names if name in known and known[name] is not self.shown.get(name, self)]
        return [{name: known[name] for name in own}, list(self.shared)]

    def _made(self, facts: Any) -> Any:
        """A module of the standard library is the one here."""
        return importlib.import_module(facts["module"]) if "module" in facts else super()._made(facts)

    def request(self, operation: str, *operands: Any) -> Any:
        self._tell()
        return super().request(operation, *operands)

    def _tell(self) -> None:
        text = self.printed.getvalue()
        if text:
            self.printed.seek(0)
            self.printed.truncate()
            super().request("print", text)
