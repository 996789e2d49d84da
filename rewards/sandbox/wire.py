"""Frames over pipes, and plain data as text: all that ever leaves a sandbox.

Values are rebuilt from exact builtin types only, so no object of the judged code, with whatever it does when it is
compared, printed or hashed, reaches the tests.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from typing import Any

MAX_FRAME_BYTES = 4 << 20
MAX_DEPTH = 60
LENGTH = struct.Struct(">I")

_CONTAINERS: dict[str, type] = {"l": list, "t": tuple, "s": set, "z": frozenset}
_TAGS = {kind: tag for tag, kind in _CONTAINERS.items()}


class NotPlain(Exception):
    """A value that is not built of None, bool, numbers, text, bytes, lists, tuples, sets and dicts, or is too big."""


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


def encode(value: Any) -> bytes:
    """Raises NotPlain. Subclasses of dict, list and tuple count as what they are made of."""
    body = json.dumps(_plain(value, 0)).encode()
    if len(body) > MAX_FRAME_BYTES - 16:
        raise NotPlain(f"a value of {len(body)} bytes")
    return body


def _plain(value: Any, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise NotPlain(f"a value nested more than {MAX_DEPTH} deep")
    kind = type(value)
    if value is None:
        return ["n"]
    if kind is bool:
        return ["b", value]
    if kind is int:
        return ["i", hex(value)]
    if kind is float:
        return ["f", value.hex()]
    if kind is complex:
        return ["c", value.real.hex(), value.imag.hex()]
    if kind is str:
        return ["u", value]
    if kind is bytes:
        return ["y", value.hex()]
    if isinstance(value, dict):
        return ["d", [[_plain(k, depth + 1), _plain(v, depth + 1)] for k, v in dict.items(value)]]
    for made_of in _TAGS:
        if kind is made_of or (made_of in (list, tuple) and isinstance(value, made_of)):
            items: Iterable[Any] = made_of.__iter__(value)
            return [_TAGS[made_of], [_plain(item, depth + 1) for item in items]]
    raise NotPlain(f"a {kind.__name__}, which is not plain data")


def decode(body: bytes) -> Any:
    """Raises NotPlain for whatever `encode` doesn't write."""
    try:
        return _value(json.loads(body), 0)
    except NotPlain:
        raise
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError, OverflowError) as error:
        raise NotPlain(f"not plain data: {type(error).__name__}") from None


def _value(node: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlain(f"a value nested more than {MAX_DEPTH} deep")
    tag = node[0]
    if tag == "n":
        return None
    if tag == "b":
        return node[1] is True
    if tag == "i":
        return int(node[1], 16)
    if tag == "f":
        return float.fromhex(node[1])
    if tag == "c":
        return complex(float.fromhex(node[1]), float.fromhex(node[2]))
    if tag == "u":
        return str(node[1])
    if tag == "y":
        return bytes.fromhex(node[1])
    if tag == "d":
        return {_value(k, depth + 1): _value(v, depth + 1) for k, v in node[1]}
    return _CONTAINERS[tag](_value(item, depth + 1) for item in node[1])
