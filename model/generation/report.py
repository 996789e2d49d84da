"""What one sampling step says to the host: which sequences ended and why, and the tokens somebody watches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_cispo.model.generation.requests import Token
from lightning_cispo.model.generation.sequence import Sequence

# By code; 0 goes on. The earlier one is the reason where several hold.
STOPS = ("", "eos", "stop", "repetition", "length")


class Watched(NamedTuple):
    """Tokens of a step with their log-probabilities, and the likeliest [B, N] if anybody asked."""

    id_B: Tensor
    logprob_B: Tensor
    top_id_BN: Tensor
    top_logprob_BN: Tensor


class Report(NamedTuple):
    """Copies on their way to the host, and an event that says when they are there."""

    sequences: list[Sequence]
    clock: int
    code_B: Tensor
    watched: Watched | None
    there: torch.cuda.Event | None

    @classmethod
    def of(cls, sequences: list[Sequence], clock: int, code_B: Tensor, watched: Watched | None) -> Report:
        there = None
        if code_B.is_cuda:
            code_B = _to_host(code_B)
            watched = Watched(*map(_to_host, watched)) if watched else None
            there = torch.cuda.Event()
            there.record()
        return cls(sequences, clock, code_B, watched, there)

    def ended(self) -> list[tuple[Sequence, str]]:
        """Sequences that ended in this step. Observers are called here."""
        if self.there:
            self.there.synchronize()
        if self.watched:
            self._tell_observers()
        codes = zip(self.sequences, self.code_B.tolist(), strict=True)
        return [(sequence, STOPS[code]) for sequence, code in codes if code and not sequence.done]

    def _tell_observers(self) -> None:
        assert self.watched is not None
        ids, logprobs, top_ids, top_logprobs = (column.tolist() for column in self.watched)
        for index, sequence in enumerate(self.sequences):
            request = sequence.request
            if request.observer is None or sequence.done:
                continue
            pairs = zip(top_ids[index], top_logprobs[index], strict=True)
            top = list(pairs)[: request.top_logprobs]
            request.observer(Token(sequence.sample, ids[index], logprobs[index], top))


def _to_host(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
