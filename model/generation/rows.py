"""Per-slot bookkeeping of the running sequences."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Rows:
    """Per-slot bookkeeping on the device; rows [0, running) are in use."""

    token: Tensor
    position: Tensor  # of `token`
    key: Tensor
    count: Tensor  # response tokens so far
    limit: Tensor
    temperature: Tensor
    confident: Tensor  # consecutive tokens above the repetition probability
    tokens: Tensor  # [slots, capacity]
    logprobs: Tensor
    versions: Tensor
    owner: list[tuple[int, int]] = field(default_factory=list)  # (request id, sample)

    @classmethod
    def empty(cls, slots: int, device: torch.device) -> Rows:
        def long() -> Tensor:
            return torch.zeros(slots, dtype=torch.int64, device=device)

        def table(dtype: torch.dtype) -> Tensor:
            return torch.zeros(slots, 0, dtype=dtype, device=device)

        temperature = torch.ones(slots, device=device)
        tables = table(torch.int32), table(torch.float32), table(torch.int32)
        return cls(long(), long(), long(), long(), long(), temperature, long(), *tables)

    def tensors(self) -> list[Tensor]:
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def reserve(self, length: int) -> None:
        for name in ("tokens", "logprobs", "versions"):
            old = getattr(self, name)
            if length > old.shape[1]:
                setattr(self, name, torch.cat([old, old.new_zeros(len(old), length - old.shape[1])], dim=1))

    def move(self, sources: list[int], targets: list[int]) -> None:
        for tensor in self.tensors():
            tensor[targets] = tensor[sources]
        for source, target in zip(sources, targets, strict=True):
            self.owner[target] = self.owner[source]
