"""What a user said wrongly."""

from __future__ import annotations

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
