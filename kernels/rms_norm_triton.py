"""RMSNorm in one Triton kernel, rounded where `model.layers.RMSNorm` rounds; forward only."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm_kernel(x_ptr, weight_ptr, out_ptr, row_stride, size, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < size
    x = tl.load(x_ptr + row * row_stride + i, mask=inside, other=0.0).to(tl.float32)
    normed = x * (1.0 / tl.sqrt(tl.sum(x * x, 0) / size + eps))
    narrow = normed.to(out_ptr.dtype.element_ty)
    weight = tl.load(weight_ptr + i, mask=inside, other=0.0).to(out_ptr.dtype.element_ty)
    product = weight.to(tl.float32) * narrow.to(tl.float32)
    tl.store(out_ptr + row * size + i, product.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm_triton(x_TX: Tensor, weight_X: Tensor, eps: float) -> Tensor:
    """weight * (x / rms(x)) for rows [T, X] in bf16 or float32, the sum in float32. Returns [T, X] in x's dtype."""
    out_TX = torch.empty(x_TX.shape, dtype=x_TX.dtype, device=x_TX.device)
    size = x_TX.shape[1]
    kernel: Any = _rms_norm_kernel
    if len(x_TX):
        block = triton.next_power_of_2(size)
        warps = 4 if block <= 2048 else 8
        kernel[(len(x_TX),)](x_TX, weight_X, out_TX, x_TX.stride(0), size, eps, BLOCK=block, num_warps=warps)
    return out_TX
