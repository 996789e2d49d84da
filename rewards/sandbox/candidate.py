"""Judged code, inside its sandbox, as functions that are called one at a time."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

from lightning_cispo.rewards.sandbox.wire import NotPlain, decode, encode, read_frame, write_frame

MAX_ERROR_CHARS = 500


def serve(reader: int, writer: int, errors: int) -> int:
    """The code comes first, then calls `[name, args, kwargs]`; each is answered before the next can be seen."""
    source = read_frame(reader).decode("utf-8", "surrogatepass")
    module = ModuleType("solution")
    try:
        code = compile(source, "<solution>", "exec")
    except BaseException as error:
        write_frame(writer, json.dumps({"compile": describe(error)}).encode())
        return 1
    sys.modules["solution"] = module
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        write_frame(writer, json.dumps({"raised": describe(error)}).encode())
        return 1
    write_frame(writer, b"{}")
    while True:
        try:
            body = read_frame(reader)
        except EOFError:
            return 0
        write_frame(writer, _answer(module, body))


def _answer(module: ModuleType, body: bytes) -> bytes:
    try:
        name, args, kwargs = decode(body)
        found: Any = getattr(module, name)(*args, **kwargs)
        if hasattr(type(found), "__next__"):
            found = list(found)  # generators, map, zip
        return b"V" + encode(found)
    except NotPlain as error:
        return b"P" + str(error).encode("utf-8", "replace")[:MAX_ERROR_CHARS]
    except BaseException as error:
        return b"E" + json.dumps([type(error).__name__, describe(error)]).encode()


def describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
    except BaseException:
        return type(error).__name__[:MAX_ERROR_CHARS]
