"""Activation checkpointing: a layer keeps its input alone and runs again when its gradient is due.

torch.utils.checkpoint does this for any function; what it does for each tensor that is kept takes the host as long as a
kernel takes the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def recomputed(layer: Callable[..., Any], x: Tensor, *rest: Any, random: bool = False) -> Any:
    """layer(x, *rest), of which the graph keeps nothing but x. The layer does the same each time it is called, drawing
    only on x's device's generator, and only if it is `random`."""
    again = _Again(
        layer, x.detach().requires_grad_(x.requires_grad), rest, _generator_state(x.device) if random else None
    )
    with saved_tensors_hooks(again.pack, again.unpack):
        return layer(x, *rest)


class _Enough(Exception):
    """All that was kept the first time has been computed again."""


class _Again:
    """What a layer saves for its gradient, by number."""

    def __init__(self, layer: Callable[..., Any], x: Tensor, rest: tuple[Any, ...], state: Tensor | None):
        self.layer, self.x, self.rest, self.state = layer, x, rest, state
        self.count = 0
        self.kept: dict[int, Tensor] = {}

    def pack(self, _: Tensor) -> int:
        self.count += 1
        return self.count - 1

    def unpack(self, number: int) -> Tensor:
        """A tensor leaves as it is fetched; a second backward pass over the same graph computes all of them anew."""
        if number not in self.kept:
            self.kept.clear()
            self._run()
        return self.kept.pop(number)

    def _run(self) -> None:
        def keep(tensor: Tensor) -> None:
            self.kept[len(self.kept)] = tensor.detach()
            if len(self.kept) == self.count:
                raise _Enough

        device = self.x.device
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=self.state is not None):
            if self.state is not None:
                _set_generator_state(device, self.state)
            try:
                with torch.enable_grad(), saved_tensors_hooks(keep, _never):
                    self.layer(self.x, *self.rest)
            except _Enough:
                return
        raise RuntimeError(f"a layer kept {self.count} tensors for its gradient, then {len(self.kept)}")


def _never(_: Any) -> Tensor:
    raise RuntimeError("the graph of a layer that ran again has no backward pass")


def _generator_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_generator_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
