"""Call a user's own verifier in the isolated process: `function(problem, response) -> float | bool | Verdict`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from lightning_cispo.rewards.verdict import MAX_ERROR_CHARS, Problem, Response, Status, Verdict, finite


def call(path: str, problem: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """Call a user's function. Returns what `Grader` makes a verdict of, in JSON types.

    A bool is correctness. A number is the unweighted part `correct`; the answer counts as right from 1.0 on. A Verdict
    without a reward, or with the status infra_error, is `masked`.
    Raises: TypeError and ValueError for anything else, and what the function raises.
    """
    found = _resolve(path)(Problem(**problem), Response(**response))
    if isinstance(found, Verdict):
        return {
            "correct": found.correct,
            "parts": {**found.parts, "correct": float(found.correct) if found.reward is None else found.reward},
            "error": found.error[:MAX_ERROR_CHARS],
            "timeout": found.status is Status.timeout,
            "masked": found.reward is None or found.status is Status.infra_error,
        }
    try:
        number = finite(found, "it")
    except TypeError:
        returned = f"{path} returned {found!r:.100}"
        raise TypeError(f"{returned}; it must return a bool, a finite number or a Verdict") from None
    except ValueError:
        raise ValueError(f"{path} returned {found!r:.100}; it must be finite") from None
    return {"correct": number >= 1.0, "parts": {"correct": number}}


def resolvable(path: str) -> None:
    """Raises AttributeError or TypeError if `path` names nothing that can be called."""
    _resolve(path)


def _resolve(path: str) -> Callable[[Problem, Response], Any]:
    module, _, name = path.partition(":")
    function = getattr(sys.modules[module], name)
    if not callable(function):
        raise TypeError(f"{path} is not a function")
    return function
