"""One program at a time in a run folder: a second one would rewrite what the first one goes on writing."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_cispo.configs.errors import ConfigError


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Raises ConfigError where another program holds the folder; a killed one does not."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another program is at work in this run folder") from None
        except OSError:
            pass  # a file system without locks
        yield
