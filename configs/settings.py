"""A command's settings: one flat dataclass, set by key=value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.keys import hints, wanted
from lightning_cispo.configs.words import Sweep, escaped, value_of

T = TypeVar("T")


def read_settings(kind: type[T], arguments: Sequence[str]) -> T:
    """The settings of a command line; a text stays as typed. Raises ConfigError for unknown keys and wrong types."""
    assert is_dataclass(kind)
    known = hints(kind)
    merged = OmegaConf.structured(kind)
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in known:
            wrong = "unknown key" if equals else "settings are written key=value"
            raise ConfigError(f"{argument}: {wrong}; there are {', '.join(known)}")
        try:
            value = value_of(text, known[key])
            OmegaConf.update(merged, key, escaped(value) if isinstance(value, str) else value)
        except (OmegaConfBaseException, Sweep, ValueError):
            raise ConfigError(f"{key}: {text}: must be {wanted(known[key])}") from None
    return OmegaConf.to_object(merged)  # type: ignore[return-value]
