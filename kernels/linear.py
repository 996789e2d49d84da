"""y = x W^T."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.native.library import serves


def linear(x_TX: Tensor, weight_YX: Tensor) -> Tensor:
    """x W^T in x's dtype: [..., Y]. Native on CPUs in float32, elsewhere torch."""
    if x_TX.dim() == 2 and serves(x_TX, weight_YX):
        from kernels.native.train import Linear

        return Linear.apply(x_TX, weight_YX)
    return F.linear(x_TX, weight_YX.to(x_TX.dtype))
