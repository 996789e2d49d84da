"""Ray actors that are sure to run before anything is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

_ATTEMPTS = 3


def running(actors: Sequence[Any], spawn: Callable[[int], Any]) -> list[Any]:
    """The actors once their constructors have returned; `spawn(index)` makes another for one that never ran.

    On a loaded host Ray can lose an actor before it starts, as if nobody held it any longer. Raises RayActorError for
    one that is lost each time, and at once what a constructor raised.
    """
    found = list(actors)
    for index in range(len(found)):
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                ray.get(found[index].__ray_ready__.remote())
                break
            except RayActorError as error:
                if error.actor_init_failed or attempt == _ATTEMPTS:
                    raise
                found[index] = spawn(index)
    return found
