"""The format reward: think first, then answer."""

from __future__ import annotations

_OPEN, _CLOSE = "<think>", "</think>"


def format_score(text: str) -> float:
    """1.0 for exactly one `<think>...</think>` at the very beginning with something after it, else 0.0."""
    text = text.lstrip()
    if not text.startswith(_OPEN) or text.count(_OPEN) != 1 or text.count(_CLOSE) != 1:
        return 0.0
    return 1.0 if text.partition(_CLOSE)[2].strip() else 0.0
