"""Ctrl-C, SIGTERM and a closed terminal as a request to save and stop, or to stop at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """Raised by `StopRequest.check` out of work that a resumed run repeats, such as generation."""


class StoppedAtOnce(KeyboardInterrupt):
    """Raise where the program stands when a signal may not wait."""

    def __init__(self, number: signal.Signals):
        super().__init__(number.name)
        self.signal = number


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt among an exception, its causes and its contexts, if there is one.

    A library's clean-up may fail where the signal struck and raise its own exception.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return error
        error = error.__cause__ or error.__context__
    return None


class StopRequest:
    """Installed, it turns the first signal into `signal`, which the program looks at where it can stop.

    A second one interrupts at once; so does the first while `patient` is false, as nothing is to be saved then.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.patient = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        self.install()
        return self

    def install(self) -> None:
        """Once more after others, such as Ray, have put their own handlers there. Ignored signals stay so (nohup)."""
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                signal.signal(number, self._receive)
                self._before.setdefault(number, before)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        at_once = self.signal is not None or not self.patient
        self.signal = signal.Signals(number)
        if at_once:
            raise StoppedAtOnce(self.signal)
        _say(f"\n{self.signal.name}: saving, then stopping; once more to stop at once\n")

    def check(self) -> None:
        """Raises Stopped once a stop was asked for."""
        if self.signal is not None:
            raise Stopped(self.signal.name)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended; 0 if none came."""
        return 128 + self.signal if self.signal else 0


def _say(text: str) -> None:
    """Write past Python's buffers: the signal may have come in the middle of a `print`. A closed one is no harm."""
    try:
        os.write(1, text.encode())
    except OSError:
        pass
