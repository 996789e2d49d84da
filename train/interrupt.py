"""Ctrl-C and SIGTERM as a request to stop at the next safe point, or at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning_cispo.train.ended import RunEnded


class Stopped(Exception):
    """Raised by `StopRequest.check` out of work that a resumed run repeats, such as generation."""


class StoppedAtOnce(KeyboardInterrupt):
    """Raise where the program stands when a signal may not wait."""

    def __init__(self, number: signal.Signals):
        super().__init__(number.name)
        self.signal = number


@contextmanager
def at_once() -> Iterator[None]:
    """End the program in one line, with a shell's exit code, where a signal interrupts the block or the run ends early.

    A library's clean-up may fail where the signal struck and raise its own exception: the chain of causes counts.
    """
    try:
        yield
    except RunEnded as error:
        print(f"ended: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BaseException as error:
        interrupt = _interrupt(error)
        if interrupt is None:
            raise
        number = interrupt.signal if isinstance(interrupt, StoppedAtOnce) else signal.SIGINT
        print(f"stopped at once by {number.name}", file=sys.stderr)
        raise SystemExit(128 + number) from None


def _interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt among an exception, its causes and its contexts, if there is one."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return error
        error = error.__cause__ or error.__context__
    return None


class StopRequest:
    """Installed, it turns the first SIGINT or SIGTERM into `signal`; a second one, or the first where there is no safe
    point to wait for (`patient` false), interrupts at once."""

    def __init__(self, patient: bool = True) -> None:
        self.signal: signal.Signals | None = None
        self.patient = patient
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        self.install()
        return self

    def install(self) -> None:
        """Once more after others, such as Ray, have put their own handlers there."""
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, self._receive)
            self._before.setdefault(number, before)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None or not self.patient:
            raise StoppedAtOnce(signal.Signals(number))
        self.signal = signal.Signals(number)
        print(
            f"\n{self.signal.name}: stopping after this step with a checkpoint; once more to stop at once", flush=True
        )

    def check(self) -> None:
        """Raises Stopped once a stop was asked for."""
        if self.signal is not None:
            raise Stopped(self.signal.name)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended; 0 if none came."""
        return 128 + self.signal if self.signal else 0
