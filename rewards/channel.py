"""Length-prefixed JSON over a pair of pipes, with deadlines: neither side's silence or flood can hold the other."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

_LENGTH = struct.Struct(">I")
MAX_MESSAGE_BYTES = 64 << 20


class ChannelClosed(Exception):
    """The other side is gone, or sent something that is no message."""


class DeadlinePassed(Exception):
    """The other side didn't read or write in time."""


class Channel:
    """One end. `reader` and `writer` are file descriptors, which stay the caller's to close."""

    def __init__(self, reader: int, writer: int):
        self.reader, self.writer = reader, writer
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)

    def send(self, message: Any, seconds: float | None = None) -> None:
        """Raises DeadlinePassed when the other side doesn't read within `seconds`, ChannelClosed when it is gone."""
        body = json.dumps(message).encode()
        if len(body) > MAX_MESSAGE_BYTES:
            raise ValueError(f"message of {len(body)} bytes; at most {MAX_MESSAGE_BYTES}")
        left = memoryview(_LENGTH.pack(len(body)) + body)
        deadline = _deadline(seconds)
        while left:
            _wait(self.writer, select.POLLOUT, deadline)
            try:
                left = left[os.write(self.writer, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise ChannelClosed("the reader is gone") from error

    def ready(self, seconds: float) -> bool:
        """Whether something comes to be read, or the other side goes, within `seconds`."""
        try:
            _wait(self.reader, select.POLLIN, _deadline(seconds))
        except DeadlinePassed:
            return False
        return True

    def receive(self, seconds: float | None = None) -> Any:
        """The next message. Raises DeadlinePassed or ChannelClosed."""
        deadline = _deadline(seconds)
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > MAX_MESSAGE_BYTES:
            raise ChannelClosed(f"announced a message of {length} bytes")
        try:
            return json.loads(self._read(length, deadline))
        except ValueError as error:
            raise ChannelClosed("sent something that is not JSON") from error

    def _read(self, length: int, deadline: float | None) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            _wait(self.reader, select.POLLIN, deadline)
            try:
                part = os.read(self.reader, min(length - len(parts), 1 << 16))
            except BlockingIOError:
                continue
            if not part:
                raise ChannelClosed("the writer is gone")
            parts += part
        return bytes(parts)


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _wait(descriptor: int, event: int, deadline: float | None) -> None:
    # poll, not select: a rollout worker can hold more than 1024 descriptors.
    poller = select.poll()
    poller.register(descriptor, event)
    left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    if not poller.poll(left_ms):
        raise DeadlinePassed("no sign of life in time")
