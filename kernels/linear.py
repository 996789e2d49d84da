"""y = x W^T, on the faster of the two libraries that torch's CPU build carries."""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN keeps the kernels of up to 1,024 shapes unless told otherwise before its first: gigabytes, where packed rows
# bring a new shape with every call.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

# oneDNN generates a kernel for every new shape (a quarter of a millisecond); from about here on that is regained.
_ROWS = 512


def linear(x_TX: Tensor, weight_YX: Tensor, rows: int = _ROWS) -> Tensor:
    """x W^T without bias, [T, Y]; differentiable once.

    torch multiplies float32 matrices on a CPU with MKL, which leaves AVX-512 unused on AMD's processors. oneDNN uses
    it, and is twice as fast there; float32 inputs with at least `rows` rows go to it.
    """
    if x_TX.device.type != "cpu" or x_TX.dtype != torch.float32 or len(x_TX) < max(1, rows) or not _available():
        return F.linear(x_TX, weight_YX)
    return _OneDnnLinear.apply(x_TX, weight_YX)


def _available() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _multiply(x_TX: Tensor, weight_YX: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x_TX, weight_YX, None, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TX, weight_YX):
        ctx.save_for_backward(x_TX, weight_YX)
        return _multiply(x_TX, weight_YX)

    @staticmethod
    def backward(ctx, grad_TY):
        x_TX, weight_YX = ctx.saved_tensors
        grad_TY = grad_TY.contiguous()  # oneDNN is slow on odd strides
        grad_x = _multiply(grad_TY, weight_YX.T) if ctx.needs_input_grad[0] else None
        grad_weight = _multiply(x_TX.T, grad_TY.T).T if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight
