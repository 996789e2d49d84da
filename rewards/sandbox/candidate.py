"""Judged code, inside its sandbox: as functions that are called one at a time, or as a program."""

from __future__ import annotations

import json
import os
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


def run_program(reader: int, writer: int, errors: int) -> int:
    """The code is the first frame; what follows is its standard input, `writer` its standard output."""
    source = read_frame(reader).decode("utf-8", "surrogatepass")
    os.dup2(reader, 0)
    os.dup2(writer, 1)
    for descriptor in (reader, writer):
        os.close(descriptor)
    code = 0
    try:
        program = compile(source, "<solution>", "exec")
    except BaseException as error:
        os.write(errors, b"C" + describe(error).encode("utf-8", "replace"))
        return 1
    # The interpreter that was forked has its streams on /dev/null: these are the run's own.
    sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", encoding="utf-8")
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        exec(program, main.__dict__)
    except SystemExit as error:
        code = error.code if type(error.code) is int else int(error.code is not None)
    except BaseException as error:
        os.write(errors, b"E" + describe(error).encode("utf-8", "replace"))
        code = 1
    sys.stdout.flush()
    return code & 255


def describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
    except BaseException:
        return type(error).__name__[:MAX_ERROR_CHARS]
