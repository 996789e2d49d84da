"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Installed, it turns the first SIGINT or SIGTERM into `signal`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        print(
            f"\n{self.signal.name}: stopping after this step with a checkpoint; once more to stop at once", flush=True
        )

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended; 0 if none came."""
        return 128 + self.signal if self.signal else 0
