"""Why a run ends before its last step, where no part of the program is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_cispo.model.intact import NonFiniteWeights


class RunEnded(Exception):
    """The run can't go on: its numbers, its data or its surroundings are at fault. The message is one line."""


class VerifiersDown(RunEnded):
    """Too many of a step's responses stayed without a verdict for longer than the run waits."""


@contextmanager
def finite_or_ended() -> Iterator[None]:
    """Raises RunEnded where the block finds weights that are not finite, on whatever rank."""
    try:
        yield
    except NonFiniteWeights as error:
        said = getattr(error, "cause", error)  # of Ray's error: what the rank raised
        raise RunEnded(f"the weights are no longer finite: {said}; no checkpoint of them is kept") from None
