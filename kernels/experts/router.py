"""The router's logits in float32, from rows in whatever they come in."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.kernels.linear import linear


def router_logits(x_TX: Tensor, weight_EX: Tensor) -> Tensor:
    """x weight^T, [T, E] in float32 or better: neither the weights nor the logits are rounded.

    On CUDA one Triton kernel forward and one backward, which read x as it is; elsewhere, and in float64, torch.
    """
    if x_TX.is_cuda and x_TX.dtype != torch.float64:
        from lightning_cispo.kernels.experts.router_triton import RouterLogits

        return RouterLogits.apply(x_TX, weight_EX)
    wide = torch.promote_types(x_TX.dtype, torch.float32)
    return linear(x_TX.to(wide), weight_EX)
