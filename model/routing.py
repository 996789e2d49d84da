"""Expert choices of a pass: collected while sampling, kept to while learning (routing replay, R3: arXiv 2510.11370)."""

from __future__ import annotations

import torch
from torch import Tensor


def routing_dtype(experts: int) -> torch.dtype:
    """What choices are stored in; its last value is left for `unrecorded`."""
    return torch.uint8 if experts < 256 else torch.int16


def unrecorded(dtype: torch.dtype) -> int:
    """Stands where no choice was recorded: such a token is routed anew."""
    return torch.iinfo(dtype).max


class Routing:
    """Given `kept_TLK` [T, layers, K] (uint8 or int16), the layers keep to these experts; else they leave theirs."""

    def __init__(self, kept_TLK: Tensor | None = None):
        self.kept_TLK = kept_TLK
        self._made: dict[int, Tensor] = {}

    def settle(self, layer: int, own_TK: Tensor) -> Tensor:
        """The experts that a layer is to take: `own_TK` itself, or those given."""
        if self.kept_TLK is None:
            self._made[layer] = own_TK
            return own_TK
        return replayed(own_TK, self.kept_TLK[:, layer])

    def made_TLK(self, dtype: torch.dtype) -> Tensor:
        """What the layers chose."""
        return torch.stack([self._made[layer] for layer in sorted(self._made)], dim=1).to(dtype)


def replayed(own_TK: Tensor, kept_TK: Tensor) -> Tensor:
    """The kept choices, int64; a token's own where none were recorded."""
    return kept_TK.long().where(kept_TK != unrecorded(kept_TK.dtype), own_TK)


def changed_choices(own_NK: Tensor, kept_NK: Tensor) -> tuple[Tensor, Tensor]:
    """How many choices were recorded, and how many of these are not among a token's own; in whatever order."""
    recorded_NK = kept_NK != unrecorded(kept_NK.dtype)
    among_NK = (kept_NK[:, :, None] == own_NK[:, None]).any(-1)
    return recorded_NK.sum(), (recorded_NK & ~among_NK).sum()
