"""Reading back what W&B's service has written of a run: the history lines in its `run-<id>.wandb` files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAME_BYTES, _BLOCK_BYTES = 7, 32768
_HEADER = struct.Struct("<IHB")  # checksum, size, part
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def history(path: Path) -> list[dict[str, Any]]:
    """The logged lines of a file, `_step` among their names, up to where a killed service left it."""
    from wandb.proto import wandb_internal_pb2 as internal

    lines = []
    for data in _records(path.read_bytes()):
        record = internal.Record()  # type: ignore[attr-defined]
        try:
            record.ParseFromString(data)
        except Exception:  # protobuf has no stable class for a damaged message
            break
        if record.HasField("history"):
            items = record.history.item
            lines.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return lines


def _records(text: bytes) -> Iterator[bytes]:
    """Whole records of LevelDB's log format, after the file's own header."""
    at, record = _NAME_BYTES, b""
    while at + _HEADER.size <= len(text):
        if _BLOCK_BYTES - at % _BLOCK_BYTES < _HEADER.size:  # what is left of a block holds no header
            at += _BLOCK_BYTES - at % _BLOCK_BYTES
            continue
        _, size, part = _HEADER.unpack_from(text, at)
        at += _HEADER.size
        if part not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or at + size > len(text):
            return
        record = text[at : at + size] if part in (_WHOLE, _FIRST) else record + text[at : at + size]
        at += size
        if part in (_WHOLE, _LAST):
            yield record
