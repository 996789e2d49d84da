"""Which names of the tests are the answer's, decided from the entry point, the tests and what the question shows.

A name is the answer's if it is in the entry point, if nobody else defines it, or if the question leaves its body open.
Functions that the question shows whole are the question's, as long as that leaves the answer something to do: else it
is to mend them. Runs in the tests' sandbox, and over a data file's tests when they are loaded.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

_BUILTINS = frozenset(vars(builtins)) | {"__name__", "__file__", "__builtins__", "__doc__"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Plan:
    """`names` are the answer's; `shown` is the question's code that the tests need, in order; `modules` are the
    standard library's that the tests use without importing them."""

    names: set[str] = field(default_factory=set)
    shown: list[ast.stmt] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    wrong: str = ""


def plan(setup: str, tests: list[str], entry_point: str, shown: Iterable[str]) -> Plan:
    """`wrong` says why no answer could be told from these tests."""
    entry = _used(entry_point)
    used = set[str]().union(*map(_used, (setup, *tests)))
    bound = set[str]().union(*map(_bound, (setup, *tests))) | {"candidate"}
    whole, open_names = _definitions(shown)
    free = used - bound - _BUILTINS
    modules = {
        name for name in free & sys.stdlib_module_names if name not in whole and _has_attributes(name, tests, setup)
    }
    free -= modules
    shown_whole = {name: found for name, found in whole.items() if name not in entry}
    needed, statements = _needed(used | free, shown_whole)
    asked = entry | ((needed - bound) & open_names)
    if not asked | (free - whole.keys()):  # the question shows all: the answer is to mend it
        needed, statements = _needed(used | free, {n: s for n, s in shown_whole.items() if n not in free})
    names = (asked | free) - set(_names_of(statements))
    if not names:
        called = _called_builtins(tests)
        if not called:
            return Plan(wrong="the tests call nothing of an answer's: name it in 'entry_point'")
        if len(called) > 1:
            return Plan(
                wrong=f"the tests call only several builtins ({', '.join(sorted(called))}): name one in 'entry_point'"
            )
        names = called
    return Plan(names, statements, modules)


@lru_cache(maxsize=64)
def tree_of(text: str) -> ast.Module:
    return ast.parse(text)


@lru_cache(maxsize=64)
def _scope(text: str) -> symtable.SymbolTable:
    return symtable.symtable(text, "<tests>", "exec")


def _used(text: str) -> set[str]:
    """Names that are looked up outside functions' own."""
    return set(_symbols(_scope(text)))


def _symbols(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _symbols(child)


def _bound(text: str) -> set[str]:
    """Names that a piece of code defines for itself and those after it."""
    return {s.get_name() for s in _scope(text).get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}


def parsed(text: str) -> ast.Module | None:
    """A question's code, which may stand behind a text. A function at its end may lack its body."""
    start = re.search(r"^(?:(?:import|from|def|async def|class)\b|@)", text, re.MULTILINE)
    for piece in (text, text[start.start() :] if start else ""):
        for ending in ("", "\n    pass", "\n        pass"):
            try:
                return ast.parse(piece + ending)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
    return None


def given(shown: Iterable[str], entry_point: str) -> list[ast.stmt]:
    """What the question's code gives an answer to build on: imports, whole definitions and plain constants."""
    whole, _ = _definitions(shown)
    found = {id(s): s for name, s in whole.items() if name not in _used(entry_point)}
    return [s for s in found.values() if not (isinstance(s, ast.Assign) and _calls(s))]


def _calls(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Call) for node in ast.walk(statement))


def _definitions(shown: Iterable[str]) -> tuple[dict[str, ast.stmt], set[str]]:
    """Statements by the names that they define, and the names of those that are left open."""
    whole: dict[str, ast.stmt] = {}
    open_names: set[str] = set()
    for text in shown:
        for statement in getattr(parsed(text), "body", ()):
            if isinstance(statement, Definition):
                if _is_open(statement):
                    open_names.add(statement.name)
                else:
                    whole.setdefault(statement.name, statement)
            elif isinstance(statement, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)):
                for name in _names_of([statement]):
                    whole.setdefault(name, statement)
    return {name: found for name, found in whole.items() if name not in open_names}, open_names


def _names_of(statements: Iterable[ast.stmt]) -> Iterator[str]:
    for statement in statements:
        if isinstance(statement, Definition):
            yield statement.name
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
        else:
            yield from (n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _is_open(definition: Definition) -> bool:
    """Whether there is no body, but for a docstring and what stands for one; in a class, any method's."""
    if isinstance(definition, ast.ClassDef):
        inner = [node for node in definition.body if isinstance(node, Definition)]
        rest = [node for node in definition.body if not isinstance(node, Definition) and not _is_nothing(node)]
        return any(map(_is_open, inner)) or not (inner or rest or definition.bases)
    return all(map(_is_nothing, definition.body))


def _is_nothing(node: ast.stmt) -> bool:
    if isinstance(node, ast.Raise):
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _needed(names: set[str], whole: dict[str, ast.stmt]) -> tuple[set[str], list[ast.stmt]]:
    """The statements that define these names and what they use themselves, and all names used."""
    seen, left = set[str](), set(names)
    while left:
        name = left.pop()
        seen.add(name)
        if name in whole:
            left |= {n.id for n in ast.walk(whole[name]) if isinstance(n, ast.Name)} - seen
    chosen = {id(whole[name]) for name in seen if name in whole}
    order = {id(statement): statement for statement in whole.values()}
    return seen, [statement for number, statement in order.items() if number in chosen]


def foreign_modules(texts: Iterable[str]) -> set[str]:
    """What pieces of code import from outside the standard library."""
    found: set[str] = set()
    for node in (node for text in texts for node in ast.walk(tree_of(text))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else (node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names


def _has_attributes(name: str, tests: list[str], setup: str) -> bool:
    nodes = (node for text in (setup, *tests) for node in ast.walk(tree_of(text)) if isinstance(node, ast.Attribute))
    return any(isinstance(node.value, ast.Name) and node.value.id == name for node in nodes)


def _called_builtins(tests: list[str]) -> set[str]:
    """Builtins that every test calls."""
    called = [
        {n.func.id for n in ast.walk(tree_of(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        for text in tests
    ]
    return set.intersection(*called) & _BUILTINS
