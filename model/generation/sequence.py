"""One sample while it is being decoded, as the host sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lightning_cispo.model.generation.cache import Saved
from lightning_cispo.model.generation.requests import AGAIN, Interruption, Request


@dataclass(eq=False)
class Sequence:
    """Its length is a function of the engine's clock, which ticks once a decoding step: nothing to count up."""

    request: Request
    sample: int
    ticket: int  # order of starting: the latest is preempted first
    born: int  # clock at which it would have been empty
    pages: list[int]
    versions: list[tuple[int, int]]  # (index of a response token, version of the weights from there on)
    slot: int = -1
    done: bool = False  # ended or cancelled
    written: list[range] = field(default_factory=list)  # response indices that interruptions write

    def length(self, clock: int) -> int:
        """Tokens in the cache: the prompt and all of the response but its last."""
        return clock - self.born

    def count(self, clock: int) -> int:
        """Response tokens sampled so far."""
        return clock - self.born - len(self.request.prompt_T) + 1

    def due(self, start: int) -> Interruption | None:
        """The interruption that has to look at the first `start` response tokens, if there is one now."""
        cut = self.request.interruption
        if cut is None or start < cut.after or (start - cut.after) % AGAIN:
            return None
        room = start + len(cut.closing_T) < self.request.max_tokens
        return cut if room and not (self.written and start < self.written[-1].stop) else None

    def versions_T(self, length: int) -> np.ndarray:
        versions_T = np.empty(length, np.int32)
        for start, version in self.versions:
            versions_T[start:] = version
        return versions_T

    def chosen_T(self, length: int) -> np.ndarray:
        chosen_T = np.ones(length, bool)
        for part in self.written:
            chosen_T[part.start : part.stop] = False
        return chosen_T

    @property
    def features(self) -> list[str]:
        """What this one asks of the sampler beyond the usual."""
        request = self.request
        asked = {
            "cut": request.top_p < 1 or request.top_k > 0,
            "stop_strings": bool(request.stop_strings),
            "min_tokens": request.min_tokens > 0,
            "watched": request.observer is not None,
            "top_logprobs": request.observer is not None and request.top_logprobs > 0,
            "interruption": request.interruption is not None,
        }
        return [name for name, wanted in asked.items() if wanted]


@dataclass(eq=False)
class Preempted:
    """A sequence that gave its slot and pages back, with all it needs to go on as if nothing had happened."""

    sequence: Sequence
    length: int  # tokens in the cache
    saved: Saved
    row: list  # of tensors, `Rows.save`
    stale: bool = False  # the weights have changed and its state is to be computed anew
