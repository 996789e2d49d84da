"""A dataset's tests, in a sandbox of their own: the functions they call are stubs that ask the other sandbox."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from lightning_cispo.rewards.sandbox.candidate import describe
from lightning_cispo.rewards.sandbox.wire import NotPlain, decode, encode, read_frame, write_frame


class Gone(BaseException):
    """The judged code can't be asked any more. No `except Exception` of a test swallows it."""


class Raised(Exception):
    """The judged code raised something that is no builtin exception."""


def serve(reader: int, writer: int, errors: int) -> int:
    """Reads `{setup, tests, entry_point}`; writes calls (`C`) and at last for each test what was wrong (`R`)."""
    order = json.loads(read_frame(reader))
    names: dict[str, Any] = {"__name__": "tests"}
    problems: list[str | None] = []
    try:
        unknown = missing(order["setup"], order["tests"])
        modules = unknown & _with_attributes(order["tests"]) & sys.stdlib_module_names
        names.update({name: importlib.import_module(name) for name in modules})
        stubs = {name: _stub(name, reader, writer) for name in unknown - modules}
        if order["entry_point"]:
            stubs["candidate"] = _stub(order["entry_point"], reader, writer)
        names.update(stubs)
        exec(compile(order["setup"], "<setup>", "exec"), names)
        names.update(stubs)
        codes = [compile(test, "<test>", "exec") for test in order["tests"]]
    except BaseException as error:
        write_frame(writer, b"B" + describe(error).encode("utf-8", "replace"))
        return 1
    for code, text in zip(codes, order["tests"]):
        problems.append(_test(code, text, names))
    write_frame(writer, b"R" + json.dumps(problems).encode())
    return 0


def _test(code: Any, text: str, names: dict[str, Any]) -> str | None:
    try:
        exec(code, names)
    except AssertionError as error:
        return f"{text.strip()[:200]} does not hold{': ' + str(error)[:200] if str(error) else ''}"
    except BaseException as error:
        return f"{text.strip()[:200]}: {describe(error)}"
    return None


def missing(setup: str, tests: list[str]) -> set[str]:
    """Names that setup and tests use and nobody but the judged code can define."""
    used: set[str] = set()
    bound: set[str] = set(vars(builtins)) | {"candidate"}
    for text in (setup, *tests):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                bound.add(node.name)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                bound.add(node.name)
    return used - bound


def _with_attributes(tests: list[str]) -> set[str]:
    nodes = [node for text in tests for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    return {node.value.id for node in nodes if isinstance(node.value, ast.Name)}


def _stub(name: str, reader: int, writer: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        write_frame(writer, b"C" + encode([name, args, kwargs]))
        return _outcome(name, read_frame(reader))

    return call


def _outcome(name: str, body: bytes) -> Any:
    kind, rest = body[:1], body[1:]
    if kind == b"V":
        try:
            return decode(rest)
        except NotPlain as error:
            raise Raised(f"{name} returned {error}") from None
    if kind == b"P":
        raise Raised(f"{name} returned {rest[:500].decode('utf-8', 'replace')}")
    if kind == b"E":
        kind_name, text = (str(item)[:500] for item in json.loads(rest[:4000]))
        raised = getattr(builtins, kind_name, None)
        if isinstance(raised, type) and issubclass(raised, Exception):
            raise raised(text)
        raise Raised(text)
    raise Gone(rest[:500].decode("utf-8", "replace"))
