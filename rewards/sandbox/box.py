"""A sandbox from outside: started once, it runs one child after another. For one thread of an isolated process."""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import subprocess

from lightning_cispo.rewards.sandbox.inside import STOP
from lightning_cispo.rewards.sandbox.levels import Isolation, at_least, command
from lightning_cispo.rewards.sandbox.meter import Meter
from lightning_cispo.rewards.sandbox.run import Run, SandboxError

START_S = 20.0
_GRACE_S = 5.0  # for the sandbox's own bookkeeping, on a busy machine


class NoIsolation(SandboxError):
    """No level that was allowed can be had here."""


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


def _file(text: bytes) -> int:
    """A descriptor of a file in memory that nobody can change."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
