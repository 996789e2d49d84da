"""Frames over pipes: a length, then that many bytes."""

from __future__ import annotations

import os
import struct

MAX_FRAME_BYTES = 4 << 20  # of what the judged code writes
MAX_TESTS_FRAME_BYTES = 48 << 20  # of the tests': what they were given in several frames may go back in one
LENGTH = struct.Struct(">I")


def write_frame(descriptor: int, body: bytes) -> None:
    left = memoryview(LENGTH.pack(len(body)) + body)
    while left:
        left = left[os.write(descriptor, left) :]


def read_frame(descriptor: int) -> bytes:
    """Reads not a byte more. Raises EOFError."""
    (length,) = LENGTH.unpack(_exactly(descriptor, LENGTH.size))
    return _exactly(descriptor, length)


def _exactly(descriptor: int, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        part = os.read(descriptor, min(length - len(found), 1 << 16))
        if not part:
            raise EOFError
        found += part
    return bytes(found)
