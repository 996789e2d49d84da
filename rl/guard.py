"""Metrics computed so that none of them can end a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)


def guarded(compute: Callable[..., Mapping[str, float]], *arguments: object) -> dict[str, float]:
    """Return `compute(*arguments)`, or no metrics where it raises; the exception is logged with its traceback."""
    try:
        return dict(compute(*arguments))
    except Exception:  # of any kind: a number to look at is worth less than the run
        _log.exception("%s failed: its metrics are left out", getattr(compute, "__qualname__", compute))
        return {}
