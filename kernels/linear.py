"""y = x W^T."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.native.library import serves


def linear(x_TX: Tensor, weight_YX: Tensor) -> Tensor:
    """x W^T in x's dtype: [..., Y]. Native on CPUs in float32, elsewhere torch."""
    if x_TX.dim() == 2 and serves(x_TX, weight_YX):
        from lightning_cispo.kernels.native.train import Linear

        return Linear.apply(x_TX, weight_YX)
    master = x_TX.is_cuda and x_TX.dim() == 2 and x_TX.element_size() == 2 and weight_YX.dtype == torch.float32
    if master and torch.is_grad_enabled():
        return MasterLinear.apply(x_TX, weight_YX)
    return F.linear(x_TX, weight_YX.to(x_TX.dtype))


class MasterLinear(Function):
    """16-bit rows, a float32 weight: its gradient leaves the product in float32, neither rounded nor cast after it."""

    @staticmethod
    def forward(ctx, x_TX: Tensor, weight_YX: Tensor):
        narrow_YX = weight_YX.to(x_TX.dtype)
        ctx.save_for_backward(x_TX, narrow_YX)
        return F.linear(x_TX, narrow_YX)

    @staticmethod
    def backward(ctx, dy_TY: Tensor):
        x_TX, narrow_YX = ctx.saved_tensors
        dx_TX = dy_TY @ narrow_YX if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx_TX, None
        return dx_TX, torch.mm(dy_TY.T, x_TX, out_dtype=torch.float32)
