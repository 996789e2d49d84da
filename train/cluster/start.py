"""Start Ray on this machine, once more where its processes did not come up in time."""

from __future__ import annotations

import re
from typing import Any

import psutil

from lightning_cispo.configs.errors import ConfigError, first_line

_LATE = re.compile(r"time[d -]*out|did not start|failed to (start|connect|register)|overloaded", re.IGNORECASE)


def start_ray(**options: Any) -> None:
    """Call `ray.init` on a busy machine as well.

    Raises: ConfigError where Ray does not come up at the second attempt either.
    """
    import ray

    for last in (False, True):
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray's own kinds and plain ones, by what went wrong first
            ray.shutdown()
            for process in set(psutil.Process().children(recursive=True)) - before:
                _kill(process)
            if not _LATE.search(str(error)):
                raise
            if last:
                raise ConfigError(
                    f"Ray did not start here, twice: {first_line(error)}; is this machine busy or short of memory?"
                ) from error


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
        process.wait(timeout=10)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        pass
