"""torch.autograd.Function whose calls cost the host a third less: a pass through a network makes hundreds of them."""

from __future__ import annotations

from typing import Any

import torch


class Function(torch.autograd.Function):
    """Not for functorch's transforms (vmap, jvp): `apply` goes past the questions that torch asks for their sake."""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls.apply = super(torch.autograd.Function, cls).apply  # type: ignore[misc, method-assign]
