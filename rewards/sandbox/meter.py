"""The time that counts against a run: what its process computed or slept, not what it waited for a processor.

On a busy machine a right answer takes longer by the clock, but not by this measure. Who waits for a processor is in
Linux's scheduler statistics (`/proc/PID/schedstat`); where these can't be read, the clock decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FACTOR, _MORE_S = 10.0, 60.0  # of the limit by the clock
_LEAST_S = 0.005  # between two looks at a process that is late by the clock


def backstop(seconds: float) -> float:
    """Seconds by the clock after which a run with this limit is given up, whoever is to blame."""
    return _FACTOR * seconds + _MORE_S


class Starved(Exception):
    """The run got too little of the processor to be judged."""


class Meter:
    """`seconds` of one process, given by a descriptor of it (pidfd; -1: only the clock).

    The clock runs while something is awaited of the process. Only once that is as long as the limit are the
    statistics read: what they say was waited for a processor is taken off.
    """

    def __init__(self, seconds: float, process: int):
        self.seconds = seconds
        self._pid = _pid(process)
        self._end = time.monotonic() + backstop(seconds)
        self._awaited = 0.0
        self._since: float | None = None
        self._cpu = self._delay = 0.0
        self._first = self._waited()

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Let the clock run."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._awaited, self._since = self._clock(), None

    def left(self) -> float:
        """Seconds until the next look; 0 if there are none left. Raises Starved."""
        left = self.seconds - self._clock()
        if left > 0:
            return left
        left = self.seconds - self.spent()
        if left <= 0:
            return 0.0
        if time.monotonic() >= self._end:
            raise Starved(f"{self.spent():.1f} of {self.seconds:g} s in {backstop(self.seconds):g} s by the clock")
        return max(_LEAST_S, left)

    def spent(self) -> float:
        """Seconds so far. CPU time may exceed the clock's where several threads compute."""
        return max(0.0, self._computed(), self._clock() - (self._waited() - self._first))

    def _clock(self) -> float:
        return self._awaited + (0.0 if self._since is None else time.monotonic() - self._since)

    def _computed(self) -> float:
        """The process's CPU time; of one that has ended what was seen last."""
        if self._pid:
            try:
                self._cpu = time.clock_gettime(~self._pid << 3 | 2)
            except OSError:
                pass
        return self._cpu

    def _waited(self) -> float:
        """For a processor: this thread, and the longest waiting one of the process, whose threads wait side by side."""
        if self._pid:
            try:
                tasks = list(Path(f"/proc/{self._pid}/task").iterdir())
                self._delay = max(map(_delay, tasks), default=self._delay)
            except OSError:
                pass  # it has ended
        return self._delay + _delay(Path("/proc/thread-self"))


def _pid(process: int) -> int:
    """The number that a pidfd's process has here; 0 if unknown."""
    if process < 0:
        return 0
    try:
        facts = Path(f"/proc/self/fdinfo/{process}").read_text().split()
        return max(0, int(facts[facts.index("Pid:") + 1]))
    except (OSError, ValueError):
        return 0


def _delay(task: Path) -> float:
    try:
        return int((task / "schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
