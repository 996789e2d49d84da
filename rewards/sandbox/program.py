"""Judged code as a program: run as `python3 solution.py < input` is, inside its sandbox."""

from __future__ import annotations

import builtins
import linecache
import os
import site
import sys
from io import TextIOWrapper
from types import ModuleType

from lightning_cispo.rewards.sandbox.errors import describe
from lightning_cispo.rewards.sandbox.frames import read_frame

FILE = "/solution.py"


def run(reader: int, writer: int, errors: int, given: int) -> int:
    """The code is the only frame, `given` its standard input, `writer` its standard output. Returns the exit code.

    What it leaves to the interpreter's end (threads, `atexit`, what streams hold back, destructors) happens there: the
    caller must let the interpreter end by itself.
    """
    source = read_frame(reader).decode("utf-8", "surrogatepass")
    for descriptor, standard in ((given, 0), (writer, 1)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.close(reader)
    try:
        program = compile(source, FILE, "exec")
    except BaseException as error:
        os.write(errors, b"C" + describe(error).encode("utf-8", "replace"))
        return 1
    _prepare(source)
    main = ModuleType("__main__")
    main.__dict__.update(__file__=FILE, __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = main
    try:
        exec(program, main.__dict__)
    except SystemExit as error:
        return _exit_code(error.code)
    except BaseException as error:
        os.write(errors, b"E" + describe(error).encode("utf-8", "replace"))
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except BaseException:
            pass  # the program's own hook
        return 1
    return 0


def _prepare(source: str) -> None:
    """What an interpreter has that was started for one file."""
    site.setquit()
    site.setcopyright()
    site.sethelper()
    sys.argv = [FILE]
    sys.path.insert(0, os.path.dirname(FILE))
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = _stream(number, mode, f"<{name}>")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _stream(descriptor: int, mode: str, name: str) -> TextIOWrapper:
    """One of the three that stand open at an interpreter's start."""
    binary = open(descriptor, mode + "b", closefd=False)
    stream = TextIOWrapper(binary, encoding="utf-8", line_buffering=descriptor == 2)
    stream.buffer.raw.name = name  # type: ignore[attr-defined]
    stream.mode = mode  # type: ignore[misc]
    return stream


def _exit_code(code: object) -> int:
    return code & 255 if isinstance(code, int) else int(code is not None)
