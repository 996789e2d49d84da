"""What a user said wrongly."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class ConfigError(Exception):
    """A refused configuration. The message is one line that names the key and says what would be right."""


@contextmanager
def refusals() -> Iterator[None]:
    """Ends the program with `error: ...` on stderr and exit code 2 where the block raises a ConfigError."""
    try:
        yield
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def require(command: str, *packages: str) -> None:
    """Raises ConfigError where a package of the extra `train` isn't installed."""
    for name in packages:
        try:
            found = importlib.util.find_spec(name)
        except ValueError:  # a module without a spec
            found = None
        if found is None:
            raise ConfigError(f"{command} needs the package {name}: pip install 'lightning-cispo[train]'")


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
