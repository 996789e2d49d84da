"""Define what a verifier returns at once: a decision, or the call in an isolated process that will decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """Hold a correctness. `reason` tells a person why the answer is wrong; empty when it is right."""

    correct: bool
    reason: str = ""


@dataclass(frozen=True)
class Call:
    """Describe a call: `function` ("module:name") on JSON `args`.

    It returns whether the answer is right, or what `Grader` documents for a user's verifier.
    """

    function: str
    args: tuple[Any, ...]
    preload: tuple[str, ...] = ()
    timeout_s: float | None = None  # instead of the pool's
