"""One child of a sandbox, from outside: what it is sent, what it writes, and for how long."""

from __future__ import annotations

import os
import select
from typing import Protocol

from lightning_cispo.rewards.sandbox.frames import LENGTH, MAX_FRAME_BYTES
from lightning_cispo.rewards.sandbox.meter import Meter, Starved


class SandboxError(Exception):
    """The sandbox itself doesn't work: nobody's answer is to blame."""


class Ended(Exception):
    """The child closed its pipe, or wrote what is no frame."""


class Late(Exception):
    """The run's deadline passed."""


class Box(Protocol):
    """The sandbox that the child is in."""

    def stop(self) -> None: ...

    def exit_code(self, seconds: float = ...) -> int | None: ...


class Run:
    """One child under way. What it writes is read up to a limit, and only as long as its meter allows.

    The meter counts while something is awaited of the child.
    """

    def __init__(self, box: Box, into: int, out: int, errors: int, meter: Meter):
        self.box, self.into, self.out, self.errors, self.meter = box, into, out, errors, meter
        self.code: int | None = None
        for descriptor in (into, out, errors):
            os.set_blocking(descriptor, False)

    def send(self, body: bytes) -> None:
        """One frame. Raises Ended or Late."""
        left = memoryview(LENGTH.pack(len(body)) + body)
        while left:
            self._wait(self.into, select.POLLOUT)
            try:
                left = left[os.write(self.into, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise Ended("it doesn't listen any more") from None

    def receive(self, most: int = MAX_FRAME_BYTES) -> bytes:
        """One frame. Raises Ended or Late."""
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        if length > most:
            raise Ended(f"it announced {length} bytes")
        return self._exactly(length)

    def output(self, most: int) -> bytes:
        """All that it writes, to the end. Raises Late, or Ended if more than `most` bytes come."""
        found = bytearray()
        while len(found) <= most:
            self._wait(self.out, select.POLLIN)
            part = os.read(self.out, 1 << 16)
            if not part:
                return bytes(found)
            found += part
        raise Ended(f"more than {most} bytes of output")

    def wait(self) -> int:
        """The exit code, once it has ended by itself. Raises Late."""
        with self.meter.awaiting():
            while self.code is None:
                self.code = self.box.exit_code(self._seconds())
        return self.code

    def finish(self) -> int:
        """The exit code; a child that hasn't ended is killed. Afterwards nothing of it is left."""
        if self.code is None:
            self.box.stop()
            code = self.box.exit_code()
            if code is None:
                raise SandboxError("the sandbox doesn't answer")
            self.code = code
        return self.code

    def complaint(self) -> str:
        """What the child said of the exception that ended it."""
        try:
            return os.read(self.errors, 2000).decode("utf-8", "replace")
        except BlockingIOError:
            return ""

    def close(self) -> None:
        for descriptor in (self.into, self.out, self.errors):
            if descriptor >= 0:
                os.close(descriptor)
        self.into = self.out = self.errors = -1

    def _exactly(self, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            self._wait(self.out, select.POLLIN)
            part = os.read(self.out, min(length - len(found), 1 << 16))
            if not part:
                raise Ended("it ended")
            found += part
        return bytes(found)

    def _wait(self, descriptor: int, event: int) -> None:
        poller = select.poll()
        poller.register(descriptor, event)
        with self.meter.awaiting():
            while not poller.poll(self._seconds() * 1000):
                pass

    def _seconds(self) -> float:
        """Until the next look at the meter. Raises Late, or SandboxError where the machine is too busy to judge."""
        try:
            left = self.meter.left()
        except Starved as error:
            raise SandboxError(f"the machine is too busy: {error}") from None
        if not left:
            raise Late
        return left
