"""What one side says of an object that stays there, for the other to stand for it."""

from __future__ import annotations

import sys
from types import CoroutineType, ModuleType
from typing import Any

from lightning_cispo.rewards.sandbox.proxies import PROTOCOL
from lightning_cispo.rewards.sandbox.values import BY_TYPE


def facts_of(value: Any) -> dict[str, Any]:
    """Its class's name, what of Python's protocol it has, and what kind of object it is."""
    is_class = isinstance(value, type)
    kinds = [kind for kind in type(value).__mro__ if kind not in (object, type)]
    protocol = [name for name in PROTOCOL if any(vars(kind).get(name) is not None for kind in kinds)]
    facts: dict[str, Any] = {"name": (value if is_class else type(value)).__name__, "protocol": protocol}
    if is_class:
        facts |= {"class": True, "protocol": [*protocol, "__call__"]}
    elif isinstance(value, (int, float, str, *BY_TYPE)):
        facts["plain"] = True
    elif isinstance(value, ModuleType) and value.__name__.partition(".")[0] in sys.stdlib_module_names:
        facts["module"] = value.__name__
    elif isinstance(value, CoroutineType):
        facts["coroutine"] = True
    elif "__next__" in protocol and type(value).__module__ in ("builtins", "itertools"):
        facts["iterator"] = True
    return facts
