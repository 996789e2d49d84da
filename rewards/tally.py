"""Count what a grader does, from any thread."""

from __future__ import annotations

import logging
import threading
from typing import Any

from lightning_cispo.rewards.verdict import Status, Verdict

_log = logging.getLogger(__name__)
_MAX_VERIFIERS = 100  # names kept of those that failed


class Tally:
    """Counts since the start or the last reset."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._counts = {"graded": 0, "library_calls": 0, "timeouts": 0, "infra_errors": 0}
        self._latency_total = self._latency_max = 0.0
        self._deepest = 0
        self._failures: dict[str, tuple[int, str]] = {}

    def add(self, verifier: str, verdict: Verdict, latency_s: float | None = None) -> None:
        """Count a verdict; `latency_s` is that of an isolated call or a judge's, waiting included.

        The first failure of a verifier since the last reset is logged: nothing else would say why samples are masked.
        """
        masked = verdict.status is Status.infra_error
        with self._lock:
            self._counts["graded"] += 1
            self._counts["timeouts"] += verdict.status is Status.timeout
            self._counts["infra_errors"] += masked
            if latency_s is not None:
                self._counts["library_calls"] += 1
                self._latency_total += latency_s
                self._latency_max = max(self._latency_max, latency_s)
            count = self._failures.get(verifier, (0, ""))[0]
            if masked and (count or len(self._failures) < _MAX_VERIFIERS):
                self._failures[verifier] = (count + 1, verdict.error)
        if masked and not count:
            _log.warning("verifier %r failed, its samples are masked: %s", verifier, verdict.error)

    def waited(self, depth: int) -> None:
        """Note how many calls wait."""
        with self._lock:
            self._deepest = max(self._deepest, depth)

    def stats(self, reset: bool) -> dict[str, Any]:
        with self._lock:
            calls = self._counts["library_calls"]
            found: dict[str, Any] = {
                **self._counts,
                "latency_mean_s": self._latency_total / calls if calls else 0.0,
                "latency_max_s": self._latency_max,
                "queue_depth_max": self._deepest,
                "failures": dict(self._failures),
            }
            if reset:
                self._reset()
            return found
