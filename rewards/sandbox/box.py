"""A sandbox from outside: started once, it runs one child after another. For one thread of an isolated process."""

from __future__ import annotations

import json
import math
import os
import select
import socket
import subprocess
import time

from lightning_cispo.rewards.sandbox.inside import STOP
from lightning_cispo.rewards.sandbox.levels import Isolation, at_least, command
from lightning_cispo.rewards.sandbox.wire import LENGTH, MAX_FRAME_BYTES

START_S = 20.0
_GRACE_S = 5.0  # for the sandbox's own bookkeeping, on a busy machine


class SandboxError(Exception):
    """The sandbox itself doesn't work: nobody's answer is to blame."""


class NoIsolation(SandboxError):
    """No level that was allowed can be had here."""


class Ended(Exception):
    """The child closed its pipe, or wrote what is no frame."""


class Late(Exception):
    """The run's deadline passed."""


def open_box(minimum: Isolation) -> Box:
    """At the strictest level that works. Raises NoIsolation with the reason for each that doesn't."""
    reasons = []
    for level in at_least(minimum):
        try:
            return Box(level)
        except SandboxError as error:
            reasons.append(f"{level.value}: {error}")
    raise NoIsolation(f"no sandbox of level {minimum.value} or stricter on this machine ({'; '.join(reasons)})")


class Box:
    """Raises SandboxError if the level can't be had."""

    def __init__(self, level: Isolation):
        self.level = level
        words = command(level)
        if words is None:
            raise SandboxError(f"no {level.value} on the PATH")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                words,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
                cwd="/",
            )
        if self._packet(START_S) != b"r":
            raise SandboxError(self._last_words())

    def run(self, kind: str, memory_mb: int, deadline: float) -> Run:
        """Starts a child: "candidate", "tests" or "program". `deadline` is by the monotonic clock."""
        seconds = max(1, math.ceil(deadline - time.monotonic()) + 1)
        order = {"run": kind, "memory_mb": memory_mb, "cpu_s": seconds}
        (their_in, ours_in), (ours_out, their_out), (ours_errors, their_errors) = (os.pipe() for _ in range(3))
        try:
            theirs = [their_in, their_out, their_errors]
            socket.send_fds(self._control, [json.dumps(order).encode()], theirs)
        except OSError as error:
            for descriptor in (ours_in, ours_out, ours_errors):
                os.close(descriptor)
            raise SandboxError(f"the sandbox is gone: {error}") from None
        finally:
            for descriptor in (their_in, their_out, their_errors):
                os.close(descriptor)
        return Run(self, ours_in, ours_out, ours_errors, deadline)

    def stop(self) -> None:
        """Ends the run under way."""
        try:
            self._control.send(STOP)
        except OSError as error:
            raise SandboxError(f"the sandbox is gone: {error}") from None

    def exit_code(self, seconds: float = _GRACE_S) -> int | None:
        """Of the run under way, once it has ended; None if that takes longer."""
        packet = self._packet(seconds)
        if packet == b"":
            raise SandboxError(self._last_words())
        return None if packet is None else int(packet)

    def close(self) -> None:
        self._control.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stderr
        self._process.stderr.close()

    def _packet(self, seconds: float) -> bytes | None:
        self._control.settimeout(max(0.001, seconds))
        try:
            return self._control.recv(64)
        except TimeoutError:
            return None
        except OSError:
            return b""

    def _last_words(self) -> str:
        self._process.kill()
        assert self._process.stderr
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        self.close()
        return lines[-1][:300] if lines else "ended without a word"


class Run:
    """One child under way. What it writes is read up to a limit, and only as long as the deadline allows."""

    def __init__(self, box: Box, into: int, out: int, errors: int, deadline: float):
        self.box, self.into, self.out, self.errors, self.deadline = box, into, out, errors, deadline
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

    def receive(self) -> bytes:
        """One frame. Raises Ended or Late."""
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise Ended(f"it announced {length} bytes")
        return self._exactly(length)

    def converse(self, text: bytes, most: int) -> bytes:
        """Writes `text`, closes, reads to the end. Raises Late, or Ended if more than `most` bytes come."""
        found, left = bytearray(), memoryview(text)
        poller = select.poll()
        poller.register(self.out, select.POLLIN)
        poller.register(self.into, select.POLLOUT)
        while True:
            events = dict(poller.poll(self._left_ms()))
            if not events:
                raise Late
            if self.into in events:
                try:
                    left = left[os.write(self.into, left[: 1 << 16]) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    left = left[:0]
                if not left:
                    poller.unregister(self.into)
                    os.close(self.into)
                    self.into = -1
            if self.out in events:
                part = os.read(self.out, 1 << 16)
                if not part:
                    return bytes(found)
                found += part
                if len(found) > most:
                    raise Ended(f"more than {most} bytes of output")

    def finish(self, patience_s: float = 0.0) -> int:
        """The exit code; after `patience_s` seconds the child is killed. Afterwards nothing of it is left."""
        if self.code is None:
            code = self.box.exit_code(patience_s) if patience_s else None
            if code is None:
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
        if not poller.poll(self._left_ms()):
            raise Late

    def _left_ms(self) -> float:
        return max(0.0, self.deadline - time.monotonic()) * 1000
