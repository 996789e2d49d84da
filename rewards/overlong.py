"""DAPO's soft overlong penalty (arXiv 2503.14476, equation 13)."""

from __future__ import annotations


def overlong_penalty(tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """clip((max_tokens - tokens) / cache_tokens - 1, -1, 0): 0 until `cache_tokens` before the limit, -1 at it.

    With `cache_tokens` 0 there is no slope: -1 beyond the limit, 0 up to it.
    """
    if cache_tokens == 0:
        return -1.0 if tokens > max_tokens else 0.0
    return min(0.0, max(-1.0, (max_tokens - tokens) / cache_tokens - 1.0))
