"""The time that counts against a run: what its process computed or slept, not what it waited for a processor.

On a busy machine a right answer takes longer by the clock, but not by this measure. Who waits for a processor is in
Linux's scheduler statistics (`/proc/PID/schedstat`); where these can't be read, the clock decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BACKSTOP = 10.0  # times the limit, by the clock, plus
_BACKSTOP_S = 20.0
_LEAST_S = 0.005  # between two looks at a process that is late by the clock
BRIEF_S = 0.005  # waits up to this long count by the clock: looking costs more


def backstop(seconds: float) -> float:
    """Seconds by the clock after which a run with this limit is given up, whoever is to blame."""
    return BACKSTOP * seconds + _BACKSTOP_S


class Starved(Exception):
    """The run got too little of the processor to be judged."""


class Meter:
    """`seconds` of one process, given by a descriptor of it (pidfd; -1: only the clock). Time counts between `start`
    and `stop`."""

    def __init__(self, seconds: float, process: int):
        self.seconds, self._spent = seconds, 0.0
        self._pid = _pid(process)
        self._end = time.monotonic() + backstop(seconds)
        self._seen_cpu = self._seen_delay = 0.0
        self._began: tuple[float, float, float] | None = None

    def start(self) -> None:
        self._began = self._now()

    def stop(self) -> None:
        self._spent = self.spent()
        self._began = None

    @contextmanager
    def brief(self) -> Iterator[None]:
        """Count what is done here by the clock."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent += time.monotonic() - began

    def spent(self) -> float:
        """Seconds so far. CPU time may exceed the clock's where several threads compute."""
        if self._began is None:
            return self._spent
        clock, cpu, delay = (now - before for now, before in zip(self._now(), self._began))
        return self._spent + max(0.0, cpu, clock - delay)

    def left(self) -> float:
        """Seconds until the next look; 0 if there are none left. Raises Starved."""
        left = self.seconds - self.spent()
        if left <= 0:
            return 0.0
        if time.monotonic() >= self._end:
            raise Starved(f"{self._spent:.1f} of {self.seconds:g} s in {backstop(self.seconds):g} s by the clock")
        return max(_LEAST_S, left)

    def _now(self) -> tuple[float, float, float]:
        """The clock, the process's CPU time, and the time that it and this thread waited for a processor."""
        return time.monotonic(), self._cpu(), self._delay() + _waited(Path("/proc/thread-self"))

    def _cpu(self) -> float:
        if self._pid:
            try:
                self._seen_cpu = time.clock_gettime(~self._pid << 3 | 2)
            except OSError:
                pass  # it has ended: what was seen last
        return self._seen_cpu

    def _delay(self) -> float:
        """The longest wait of a thread: those that compute at the same time wait at the same time."""
        if self._pid:
            try:
                tasks = list(Path(f"/proc/{self._pid}/task").iterdir())
                self._seen_delay = max(map(_waited, tasks), default=self._seen_delay)
            except OSError:
                pass
        return self._seen_delay


def _pid(process: int) -> int:
    """The number that a pidfd's process has here; 0 if unknown."""
    if process < 0:
        return 0
    try:
        facts = Path(f"/proc/self/fdinfo/{process}").read_text().split()
        return max(0, int(facts[facts.index("Pid:") + 1]))
    except (OSError, ValueError):
        return 0


def _waited(task: Path) -> float:
    try:
        return int((task / "schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
