"""Judged code, inside its sandbox, as functions and classes that the tests use one operation at a time."""

from __future__ import annotations

import json
import linecache
import site
import sys
from types import ModuleType
from typing import Any

from lightning_cispo.rewards.sandbox.errors import describe
from lightning_cispo.rewards.sandbox.frames import read_frame, write_frame
from lightning_cispo.rewards.sandbox.peer import Peer

FILE = "<solution>"


def serve(reader: int, writer: int, errors: int) -> int:
    """The code comes first, then requests; each is answered before the next can be seen."""
    source = read_frame(reader).decode("utf-8", "surrogatepass")
    module = ModuleType("solution")
    try:
        code = compile(source, FILE, "exec")
    except BaseException as error:
        write_frame(writer, json.dumps({"compile": describe(error)}).encode())
        return 1
    site.setquit()
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    sys.modules["solution"] = module
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        write_frame(writer, json.dumps({"raised": describe(error)}).encode())
        return 1
    write_frame(writer, b"{}")
    peer = Solution(reader, writer, module)
    while True:
        try:
            body = read_frame(reader)
        except EOFError:
            return 0
        write_frame(writer, peer.serve(body[1:]))


class Solution(Peer):
    def __init__(self, reader: int, writer: int, module: ModuleType):
        super().__init__(reader, writer)
        self.module = module

    def perform(self, operation: str, operands: list[Any]) -> Any:
        """Also `names`: what the code has under each of some names, and which of the tests' classes it has too."""
        if operation != "names":
            return super().perform(operation, operands)
        names, shared = operands
        known = self.module.__dict__
        self.shared = {name: known[name] for name in shared if isinstance(known.get(name), type)}
        return [{name: known[name] for name in names if name in known}, list(self.shared)]
