"""The schema seen as dotted keys: which there are, of which type, and which one was probably meant."""

from __future__ import annotations

import difflib
import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import RunConfig

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def hints(section: Any) -> dict[str, Any]:
    """Return the declared types of a dataclass's fields, by name. (The cache alone would have no type for mypy.)"""
    return _hints(section)


@functools.cache
def _hints(section: Any) -> dict[str, Any]:
    found = get_type_hints(section)
    return {field.name: found[field.name] for field in fields(section)}


def type_of(key: str, root: Any = RunConfig) -> Any:
    """The declared type of a dotted key of `root`; list items are numbered (`data.tasks.0.weight`).

    Raises ConfigError for an unknown key, with the nearest known one or what the section has.
    """
    kind: Any = root
    parts = key.replace("[", ".").replace("]", "").split(".")
    for position, part in enumerate(parts):
        kind = without_none(kind)
        if is_dataclass(kind):
            if part not in hints(kind):
                raise ConfigError(f"unknown key {key}{_hint(parts, position, kind)}")
            kind = hints(kind)[part]
        elif get_origin(kind) is list and part.isdigit():
            kind = get_args(kind)[0]
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif kind is not Any:
            raise ConfigError(f"unknown key {key}: {'.'.join(parts[:position])} is {wanted(kind)} and has no keys")
    return kind


def _hint(parts: list[str], position: int, section: Any) -> str:
    """A likely key in the section; else one of that name elsewhere; else the whole choice."""
    wrong, before = parts[position], ".".join(parts[:position])
    near = difflib.get_close_matches(wrong, hints(section), n=1, cutoff=0.6)
    if near:
        return f"; did you mean {'.'.join([*parts[:position], near[0], *parts[position + 1 :]])}?"
    leaves: dict[str, str] = {}
    for key in all_keys():
        leaves.setdefault(key.rsplit(".", 1)[-1], key)
    near = difflib.get_close_matches(parts[-1], leaves, n=1, cutoff=0.8)
    if near:
        return f"; did you mean {leaves[near[0]]}?"
    return f"; {before or 'there'} {'has' if before else 'are'} {', '.join(hints(section))}"


def all_keys(section: Any = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key that takes a value, in the schema's order."""
    for name, kind in hints(section).items():
        if is_dataclass(kind):
            yield from all_keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def refuse_unknown(node: Any, prefix: str = "") -> None:
    """Walk a plain container; raises ConfigError at the first key that the schema does not have."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        type_of(f"{prefix}{name}")
        refuse_unknown(value, f"{prefix}{name}.")


def wanted(kind: Any) -> str:
    """What a value of this type must be, in words."""
    if kind is not without_none(kind):
        return f"{wanted(without_none(kind))} or null"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(member.name for member in kind)}"
    if is_dataclass(kind):
        return f"a section with the keys {', '.join(hints(kind))}"
    if get_origin(kind) is list:
        return f"a list, each item {wanted(get_args(kind)[0])}"
    return "a mapping" if get_origin(kind) is dict else _WORDS.get(kind, "any value")


def without_none(kind: Any) -> Any:
    """The type itself of an Optional one."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(option for option in get_args(kind) if option is not type(None))
    return kind
