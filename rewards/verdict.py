"""Define what goes into a verifier and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from numbers import Real
from typing import Any

MAX_ERROR_CHARS = 1000


class Status(str, Enum):
    passed = "pass"
    failed = "fail"
    timeout = "timeout"
    infra_error = "infra_error"


@dataclass(frozen=True)
class Problem:
    """A question with what is needed to judge an answer to it.

    `verifier` names the judge (a name in the registry or a dotted path); `task` the family the
    metrics are split by; `entry` is what a generator's own scorer wants besides the answer (JSON types); `row` is the
    whole row of a data set, its other columns included (JSON types), for a user's verifier.
    """

    prompt: str
    answer: str
    verifier: str
    task: str
    entry: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """A policy's finished text. `tokens` counts all sampled tokens, the stop token included."""

    text: str
    tokens: int
    stop: str  # eos, length, repetition, interrupted
    max_tokens: int


@dataclass(frozen=True)
class Verdict:
    """Hold a judgement. Everything is checked and made plain Python where a verdict is made.

    `reward` None means that the infrastructure failed: the sample is masked, never scored 0. `correct` is the raw
    correctness, whatever the reward was shaped into. `parts` are the unweighted parts of the reward by name. `error`
    is a sentence that tells a person what went wrong; empty if nothing did.
    Raises: TypeError and ValueError, in one line that names the field.
    """

    reward: float | None
    correct: bool
    status: Status
    parts: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def __post_init__(self) -> None:
        if self.reward is not None:
            object.__setattr__(self, "reward", finite(self.reward, "reward"))
        object.__setattr__(self, "correct", _truth(self.correct))
        object.__setattr__(self, "status", Status(self.status))
        if not isinstance(self.parts, dict) or not all(isinstance(name, str) for name in self.parts):
            raise TypeError(f"parts={self.parts!r:.100}: must be a dict of numbers by name")
        parts = {str(name): finite(value, f"parts[{name!r}]") for name, value in self.parts.items()}
        object.__setattr__(self, "parts", parts)
        if not isinstance(self.error, str):
            raise TypeError(f"error={self.error!r:.100}: must be text")


def masked(error: Exception) -> Verdict:
    """Return the verdict of a verification that failed by itself."""
    kind = f"{type(error).__name__}: " if type(error).__module__ == "builtins" or not str(error) else ""
    return Verdict(None, False, Status.infra_error, {}, f"the verifier failed: {kind}{error}"[:MAX_ERROR_CHARS])


def finite(value: Any, name: str) -> float:
    """Return a finite number as a float: Python's, NumPy's, or a tensor without dimensions.

    Raises: TypeError for anything else, ValueError for NaN, infinity and what no float can hold; both name `name`.
    """
    plain = _plain(value)
    if not isinstance(plain, (Real, Decimal)):
        raise TypeError(f"{name}={plain!r:.100}: must be a finite number")
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}={number}: must be a finite number")
    return number


def _truth(value: Any) -> bool:
    plain = _plain(value)
    if not isinstance(plain, int) or plain not in (0, 1):
        raise TypeError(f"correct={plain!r:.100}: must be True or False")
    return bool(plain)


def _plain(value: Any) -> Any:
    """Return the Python value of a scalar of NumPy or torch, and anything else as it is. Imports neither."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
