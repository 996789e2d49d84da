"""Read and write JSON as RFC 8259 has it. Python's module also takes and gives NaN and Infinity."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 100  # levels of objects and lists; writing deeper ones can exceed the interpreter's stack
_PARTS = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|\s+|([,:])')


def read(text: str) -> Any:
    """Return the value that `text` holds.

    Raises: ValueError for what is no JSON, for numbers beyond a float's range, and beyond MAX_DEPTH levels.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    _check_depth(value)
    return value


def write(value: Any) -> str:
    """Return JSON of one line. Raises ValueError for what JSON cannot hold."""
    _check_depth(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(str(error)) from None


def one_line(text: str) -> str:
    """Return valid JSON text on one line. Text of several lines is spaced as `write` does.

    Strings and numbers keep their spelling: decoding an escape could spell a special token.
    """
    if "\n" not in text and "\r" not in text:
        return text.strip()
    return _PARTS.sub(lambda part: part[1] or (f"{part[2]} " if part[2] else ""), text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is beyond the range of numbers")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [item for item in level if isinstance(item, (dict, list, tuple))]
        if not inner:
            return
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
    raise ValueError(f"nested more than {MAX_DEPTH} deep")
