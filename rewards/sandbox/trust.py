"""How far the tests are written about objects of the answer's classes, read from their text.

`assert Money(5) * 2 == Money(10)` shows `Money` objects data in operators; `stack.pop()` asks for a method that a list
has too. Where the tests do neither, an object that the answer returns in the place of a number or a text is not shown
what it is compared with (`proxies`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from lightning_cispo.rewards.sandbox.names import tree_of
from lightning_cispo.rewards.sandbox.proxies import PLAIN_METHODS


@dataclass
class Trust:
    """`operands`: classes whose objects the tests put into operators; `attributes`: that they ask such objects for."""

    operands: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)


def trust(texts: list[str], names: Iterable[str], entry: str, prose: str) -> Trust:
    """`names` are the answer's, `entry` what `candidate` is, `prose` what the question says."""
    about = _About({*names, "candidate"}, {})
    known = -1
    while known < len(about.holds) + len(about.aliases):  # a name may be used above the line that gives it a value
        known = len(about.holds) + len(about.aliases)
        for tree in map(tree_of, texts):
            about.visit(tree)
    classes = {name for name in about.names if about.is_class(entry if name == "candidate" else name, name, prose)}
    found = Trust()
    for name in classes:
        found.attributes |= about.attributes.get(name, set())
        if name in about.operands:
            found.operands.add(entry if name == "candidate" else name)
    return found


class _About(ast.NodeVisitor):
    """What is done with objects of each name: results of calling it, and variables that hold them."""

    def __init__(self, names: set[str], holds: dict[str, str]):
        self.names, self.holds = names, holds
        self.aliases: dict[str, str] = {}  # parameters of the tests' functions that are given one of the names
        self.functions: dict[str, list[str]] = {}
        self.attributes: dict[str, set[str]] = {}
        self.operands: set[str] = set()
        self.checked: set[str] = set()  # by isinstance or except, or told to do something without a result
        self.paired: set[str] = set()  # that meet objects of their own kind

    def is_class(self, called: str, name: str, prose: str) -> bool:
        said = re.search(rf"\bclass\s+[`'\"*]*{re.escape(called)}\b|\b{re.escape(called)}[`'\"*]*\s+class\b", prose)
        capital = called[:1].isupper() and name in {*self.attributes, *self.paired}
        asked = self.attributes.get(name, set()) - PLAIN_METHODS
        return bool(said or capital or asked) or name in self.checked

    def of(self, node: ast.expr) -> str | None:
        """Whose object an expression is."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = self.aliases.get(node.func.id, node.func.id)
            return called if called in self.names else None
        if isinstance(node, ast.Name):
            return self.holds.get(node.id)
        if isinstance(node, ast.BinOp):
            return self.of(node.left) or self.of(node.right)
        if isinstance(node, ast.NamedExpr):
            return self.of(node.value)
        return self.of(node.operand) if isinstance(node, ast.UnaryOp) else None

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for inner, found in zip(target.elts, value.elts):
                self._bind(inner, found)
        elif isinstance(target, ast.Name) and (name := self.of(value)):
            self.holds[target.id] = name

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._bind(target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._bind(node.target, node.value)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            if item.optional_vars is not None:
                self._bind(item.optional_vars, item.context_expr)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self.of(node.value)
        if name is None and isinstance(node.value, ast.Name) and node.value.id in self.names:
            name = node.value.id
        if name:
            self.attributes.setdefault(name, set()).add(node.attr)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._meet(node.left, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._meet(node.target, node.value)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for operator, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators):
            if not isinstance(operator, (ast.Is, ast.IsNot)):
                self._meet(left, right)
        self.generic_visit(node)

    def _meet(self, *sides: ast.expr) -> None:
        names = [name for side in sides if (name := self.of(side))]
        self.operands.update(names)
        if len(names) == 2 and names[0] == names[1]:
            self.paired.add(names[0])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.functions[node.name] = [argument.arg for argument in node.args.args]
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            if name := self.of(node.value.func.value):
                self.checked.add(name)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            for parameter, given in zip(self.functions.get(node.func.id, ()), node.args):
                if isinstance(given, ast.Name) and given.id in self.names:
                    self.aliases[parameter] = given.id
        if isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass") and len(node.args) == 2:
            self.checked |= {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)} & self.names
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.checked |= {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} & self.names
        self.generic_visit(node)
