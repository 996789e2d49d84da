"""`--help`: groups, keys, defaults, and what the schema's comments say about them."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lightning_cispo.configs.schema import RunConfig

FOLDER = Path(__file__).parent
_COMMENT = re.compile(r"^    (\w+):[^#\n]*#\s*(.+)$", re.MULTILINE)


def groups() -> dict[str, list[str]]:
    """Configuration groups and the options of each: the folders here that hold YAML."""
    found: dict[str, list[str]] = {}
    for path in sorted(FOLDER.glob("*/*.yaml")):
        found.setdefault(path.parent.name, []).append(path.stem)
    return found


def usage(program: str) -> str:
    """The text of `--help`."""
    lines = [f"usage: {program} [group=option ...] [key=value ...]", "", "groups"]
    lines += [f"  {name}={'|'.join(options)}" for name, options in groups().items()]
    lines += [
        "",
        "keys with their defaults; a group's option or an experiment may set others, dry_run=true shows the result",
    ]
    return "\n".join(lines + _section(RunConfig()))


def settings_usage(command: str, settings: Any) -> str:
    """The text of `--help` for a command whose settings are one dataclass."""
    return "\n".join([f"usage: {command} key=value ...", "", *_section(settings)])


def _section(section: Any, prefix: str = "") -> list[str]:
    sources = [kind for kind in type(section).__mro__ if is_dataclass(kind)]
    comments = dict(pair for kind in reversed(sources) for pair in _COMMENT.findall(inspect.getsource(kind)))
    lines = []
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            lines += ["", *_section(value, f"{prefix}{field.name}.")]
            continue
        known = f"one of {', '.join(type(value).__members__)}" if isinstance(value, Enum) else ""
        note = "; ".join(filter(None, [known, comments.get(field.name, "")]))
        lines.append(f"  {f'{prefix}{field.name}={_plain(value)}':<46}{note}".rstrip())
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
