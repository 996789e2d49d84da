"""A sandbox from outside: started once, it runs one child after another. For one thread of an isolated process."""

from __future__ import annotations

import fcntl
import json
import math
import os
import select
import socket
import subprocess

from lightning_cispo.rewards.sandbox.inside import STOP
from lightning_cispo.rewards.sandbox.levels import Isolation, at_least, command
from lightning_cispo.rewards.sandbox.meter import BRIEF_S, Meter, Starved
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
        for proc in (True, False) if level is Isolation.bwrap else (True,):
            words = command(level, proc)
            if words is None:
                raise SandboxError(f"no {level.value} on the PATH")
            self._start(words)
            if self._packet(START_S) == b"r":
                return
            wrong = self._last_words()
        raise SandboxError(wrong)

    def _start(self, words: list[str]) -> None:
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

    def run(self, kind: str, memory_mb: int, seconds: float, given: bytes | None = None) -> Run:
        """Starts a child: "candidate", "tests" or "program", the last with `given` as its standard input.

        `seconds` are the child's own, by `Meter`.
        """
        order = {"run": kind, "memory_mb": memory_mb, "cpu_s": math.ceil(seconds) + 1}
        (their_in, ours_in), (ours_out, their_out), (ours_errors, their_errors) = (os.pipe() for _ in range(3))
        theirs = [their_in, their_out, their_errors]
        try:
            if given is not None:
                theirs.append(_file(given))
            socket.send_fds(self._control, [json.dumps(order).encode()], theirs)
            meter = self._meter(seconds)
        except OSError as error:
            for descriptor in (ours_in, ours_out, ours_errors):
                os.close(descriptor)
            raise SandboxError(f"the sandbox is gone: {error}") from None
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return Run(self, ours_in, ours_out, ours_errors, meter)

    def _meter(self, seconds: float) -> Meter:
        """Of the child, once there is one. Raises OSError."""
        self._control.settimeout(START_S)
        message, descriptors, _, _ = socket.recv_fds(self._control, 64, 1)
        if not descriptors:
            raise OSError(message.decode() or self._last_words())
        try:
            return Meter(seconds, descriptors[0])
        finally:
            os.close(descriptors[0])

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

    def receive(self) -> bytes:
        """One frame. Raises Ended or Late."""
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        if length > MAX_FRAME_BYTES:
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
        self.meter.start()
        try:
            while self.code is None:
                self.code = self.box.exit_code(self._seconds())
        finally:
            self.meter.stop()
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
        with self.meter.brief():
            if poller.poll(BRIEF_S * 1000):
                return
        self.meter.start()
        try:
            while not poller.poll(self._seconds() * 1000):
                pass
        finally:
            self.meter.stop()

    def _seconds(self) -> float:
        """Until the next look at the meter. Raises Late, or SandboxError where the machine is too busy to judge."""
        try:
            left = self.meter.left()
        except Starved as error:
            raise SandboxError(f"the machine is too busy: {error}") from None
        if not left:
            raise Late
        return left


def _file(text: bytes) -> int:
    """A descriptor of a file in memory that nobody can change."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
