"""Read a typed value by its key's type. Text stays as typed: `2024_05_01` is no number, and `[1_0]` holds none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lightning_cispo.configs.keys import hints, without_none

_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)
_ESCAPED = re.compile(r"(\\+)(['\"]|\Z)")
_PAIRS = {"]": "[", "}": "{"}


class Sweep(ValueError):
    """Several values where one is due."""


def value_of(text: str, kind: Any) -> Any:
    """The value of a typed text for a key of type `kind`, for OmegaConf to convert and check.

    Raises ValueError for text that reads as no value, Sweep for several values.
    """
    plain = without_none(kind)
    if plain is not kind and text.strip().lower() == "null":
        return None
    if plain is str or isinstance(plain, type) and issubclass(plain, Enum):
        return _text(text)
    bare = text.strip()
    if get_origin(plain) is list:
        (item,) = get_args(plain)
        if bare.startswith("["):
            return [value_of(part.strip(), item) for part in _parts(bare, "[", "]")]
        if without_none(item) is str and bare.lower() != "null":
            return [_text(text)]  # one text is a list of one
    if bare.startswith("{") and (is_dataclass(plain) or get_origin(plain) is dict):
        return dict(_pair(part, plain) for part in _parts(bare, "{", "}"))
    return _hydra(text)


def escaped(text: str) -> str:
    """A text for OmegaConf that means itself: `${` in it refers to nothing."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)


def _text(text: str) -> str:
    """The text itself; quotes around all of it are taken off, as Hydra does, and escapes of quotes in it."""
    if not _QUOTED.fullmatch(text):
        return text
    quote = text[0]

    def unescape(run: re.Match[str]) -> str:
        """Of backslashes before this kind of quote, or the end, each second one stays."""
        return run[1][: len(run[1]) // 2] + run[2] if run[2] in ("", quote) else run[0]

    return _ESCAPED.sub(unescape, text[1:-1])


def _pair(text: str, kind: Any) -> tuple[str, Any]:
    key, *rest = _split(text, ":")
    name = _text(key.strip())
    if not name or not rest:
        raise ValueError(f"{text}: must read key: value")
    if is_dataclass(kind):
        inner = hints(kind).get(name, Any)  # an unknown key is refused by its full name
    else:
        inner = get_args(kind)[1]
    return name, value_of(":".join(rest).strip(), inner)


def _parts(text: str, opening: str, closing: str) -> list[str]:
    if len(text) < 2 or not text.endswith(closing):
        raise ValueError(f"{opening} is not closed by {closing}")
    inner = text[1:-1]
    return list(_split(inner, ",")) if inner.strip() else []


def _split(text: str, separator: str) -> Iterator[str]:
    """Parts of a text between separators outside of quotes and brackets. Raises ValueError for unpaired brackets."""
    depth: list[str] = []
    start = position = 0
    while position < len(text):
        character = text[position]
        fresh = not text[start:position].strip() or text[:position].rstrip()[-1:] in (":", "[", "{", ",")
        if character in "'\"" and fresh and (quoted := _QUOTED.match(text, position)):
            position = quoted.end()
            continue
        if character in _PAIRS.values():
            depth.append(character)
        elif character in _PAIRS and depth:
            if depth.pop() != _PAIRS[character]:
                raise ValueError(f"{character} closes another bracket in {text}")
        elif character == separator and not depth:
            yield text[start:position]
            start = position + 1
        position += 1
    if depth:
        raise ValueError(f"{depth[-1]} is not closed in {text}")
    yield text[start:]


def _hydra(text: str) -> Any:
    """Numbers, truth values, null and what has no declared type, by Hydra's grammar."""
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        raise ValueError(f"{text}: reads as no value") from None
    if override.is_sweep_override():
        raise Sweep(text)
    return override.value()
