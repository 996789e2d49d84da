"""A user's own verifier, called in the isolated process: `function(problem, response) -> float | bool | Verdict`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lightning_cispo.rewards.verdict import Problem, Response, Verdict


def call(path: str, problem: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """`correct`, `parts` and `error` of what the function found; `masked` for a Verdict without a reward.

    A bool is correctness. A number is the unweighted part `correct`; the answer counts as right from 1.0 on.
    """
    found = _resolve(path)(Problem(**problem), Response(**response))
    if isinstance(found, Verdict):
        verdict = asdict(found)
        value = float(found.correct) if found.reward is None else found.reward
        return {
            "correct": found.correct,
            "parts": {**verdict["parts"], "correct": value},
            "error": found.error,
            "masked": found.reward is None,
        }
    if isinstance(found, bool):
        return {"correct": found, "parts": {"correct": float(found)}, "error": "", "masked": False}
    if isinstance(found, (int, float)) and math.isfinite(found):
        return {"correct": found >= 1.0, "parts": {"correct": float(found)}, "error": "", "masked": False}
    raise TypeError(f"{path} returned {found!r}; it must return a bool, a finite number or a Verdict")


def resolvable(path: str) -> None:
    """Raises AttributeError or TypeError if `path` names nothing that can be called."""
    _resolve(path)


def _resolve(path: str) -> Callable[[Problem, Response], Any]:
    module, _, name = path.partition(":")
    function = getattr(sys.modules[module], name)
    if not callable(function):
        raise TypeError(f"{path} is not a function")
    return function
