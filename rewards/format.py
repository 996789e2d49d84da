"""Score the format: think first, then answer."""

from __future__ import annotations

from lightning_cispo.rewards.calls import SYNTAXES

_OPEN, _CLOSE = "<think>", "</think>"


def format_score(text: str) -> float:
    """Return 1.0 for exactly one `<think>...</think>`, with blanks alone before it and an answer after it, else 0.0.

    A tag inside a string of a tool call is text.
    """
    reply = SYNTAXES["minimax_m1"].parse(text)
    once = text.lstrip().startswith(_OPEN) and _OPEN not in reply.thinking and _CLOSE not in reply.thinking
    return float(once and bool(reply.answer.strip()))
