"""`--help`: groups, keys, their values, and what the schema's comments say about them."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import RunConfig

FOLDER = Path(__file__).parent
_COMMENT = re.compile(r"^    (\w+):[^#\n]*#\s*(.+)$", re.MULTILINE)


@functools.cache
def groups() -> dict[str, list[str]]:
    """Configuration groups and the options of each: the folders here that hold YAML."""
    found: dict[str, list[str]] = {}
    for path in sorted(FOLDER.glob("*/*.yaml")):
        found.setdefault(path.parent.name, []).append(path.stem)
    return found


def usage(program: str, config: RunConfig, sections: Sequence[str] = ()) -> str:
    """The text of `--help` with the values of `config`, of all keys or of the sections named.

    Raises ConfigError for a section that there is not.
    """
    lines = [f"usage: {program} [group=option ...] [key=value ...] [--help [section ...]]", ""]
    shown = dict(_options(sections))
    if shown:
        lines += ["groups", *(f"  {name}={'|'.join(options)}" for name, options in shown.items()), ""]
    lines.append("keys with the values that this command line gives them; dry_run=true shows what they amount to")
    if not sections:
        lines.append("--help SECTION shows one section: " + ", ".join(_sections(config)))
    for section in sections or [""]:
        lines += ["", *_named(config, section)] if section else _section(config)
    return "\n".join(lines)


def settings_usage(command: str, settings: Any) -> str:
    """The text of `--help` for a command whose settings are one dataclass."""
    return "\n".join([f"usage: {command} key=value ...", "", *_section(settings)])


def _options(sections: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for name, options in groups().items():
        if not sections or name in sections:
            yield name, options


def _sections(section: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of the parts that have keys of their own."""
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            yield prefix + field.name
            yield from _sections(value, f"{prefix}{field.name}.")


def _named(config: RunConfig, name: str) -> list[str]:
    """The lines of one section, or of one key."""
    lines = [line for line in _section(config) if re.match(rf"  {re.escape(name)}[.=]", line)]
    if not lines and name not in groups():
        known = [*_sections(config), *groups()]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ConfigError(f"--help {name}: no such section; {hint}")
    return lines


def comments(section: Any) -> dict[str, str]:
    """What the schema's comments say of each key of a section."""
    sources = [kind for kind in type(section).__mro__ if is_dataclass(kind)]
    return dict(pair for kind in reversed(sources) for pair in _COMMENT.findall(inspect.getsource(kind)))


def _section(section: Any, prefix: str = "") -> list[str]:
    lines, said = [], comments(section)
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            lines += ["", *_section(value, f"{prefix}{field.name}.")]
            continue
        known = f"one of {', '.join(type(value).__members__)}" if isinstance(value, Enum) else ""
        note = "; ".join(filter(None, [known, said.get(field.name, "")]))
        lines.append(f"  {f'{prefix}{field.name}={plain(value)}':<44}  {note}".rstrip())
    return lines


def plain(value: Any) -> str:
    """A value on one line, as it may be typed."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    if is_dataclass(value):
        parts = ((field.name, getattr(value, field.name), field.default) for field in fields(value))
        return "{" + ", ".join(f"{name}: {plain(part)}" for name, part, default in parts if part != default) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return value.encode("unicode_escape").decode() if "\n" in value else value
    return "null" if value is None else str(value)
