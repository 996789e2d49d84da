"""Waiting for several actors at once: the first that fails ends the wait, and is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

_GRACE_S = 5.0


class ActorDied(RuntimeError):
    """The process of an actor that can't be replaced has ended. Its cause is Ray's error."""


def results(references: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """The values of `references`, in their order; `names` of the actors are for errors.

    Raises ActorDied where an actor died, otherwise what the first one to fail raised. A death makes the others fail
    too, maybe before Ray knows of it: it is waited for a moment, so that it is what is reported.
    """
    pending = dict(zip(references, names, strict=True))
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        name = pending.pop(done[0])
        try:
            ray.get(done[0])
        except RayActorError as error:
            raise ActorDied(f"{name} died") from error
        except Exception:
            _raise_death(pending)
            raise
    return ray.get(list(references))


def _raise_death(pending: dict[Any, str]) -> None:
    ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=_GRACE_S) if pending else ([], [])
    for reference in ready:
        try:
            ray.get(reference)
        except RayActorError as error:
            raise ActorDied(f"{pending[reference]} died") from error
        except Exception:
            pass  # a consequence, like the first
