"""silu in Triton where the gradients of q, k and v come as three tensors and go back into one."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.launcher import ceil_div, launched, power_of_2


@triton.jit
def silu_gradient(x, dout):
    """dout * silu'(x), in float32."""
    share = tl.sigmoid(x)
    return dout * share * (1.0 + x * (1.0 - share))


@launched
@triton.jit
def _silu_kernel(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < count, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (x * tl.sigmoid(x)).to(out_ptr.dtype.element_ty), mask=at < count)


@launched
@triton.jit
def _silu_backward_kernel(
    x_ptr, dq_ptr, dk_ptr, dv_ptr, dx_ptr, rows, D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    """A row is a head of a token."""
    r, d = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = (r[:, None] < rows) & (d[None, :] < D)
    r = r.to(tl.int64)
    for part in tl.static_range(3):
        dout_ptr = dq_ptr if part == 0 else (dk_ptr if part == 1 else dv_ptr)
        dout = tl.load(dout_ptr + r[:, None] * D + d[None, :], mask=inside, other=0.0).to(tl.float32)
        at = r[:, None] * (3 * D) + part * D + d[None, :]
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx_ptr + at, silu_gradient(x, dout).to(dx_ptr.dtype.element_ty), mask=inside)


def silu_qkv_triton(joined_TJ: Tensor, heads: int) -> tuple[Tensor, ...]:
    """As `kernels.silu.silu_qkv`, of contiguous rows."""
    tokens, width = joined_TJ.shape
    out = torch.empty(tokens, heads, width // heads, dtype=joined_TJ.dtype, device=joined_TJ.device)
    kernel: Any = _silu_kernel
    if tokens:
        kernel[(ceil_div(out.numel(), 4096),)](joined_TJ, out, out.numel(), BLOCK=4096, num_warps=8)
    return out.split(width // (3 * heads), dim=-1)


def silu_qkv_gradient(joined_TJ: Tensor, *grads: Tensor) -> Tensor:
    """That of the joined rows, contiguous, from those of q, k and v."""
    dq, dk, dv = (grad.contiguous() for grad in grads)
    rows, dim = dq.shape[0] * dq.shape[1], dq.shape[2]
    dx_TJ = torch.empty_like(joined_TJ)
    block = power_of_2(dim)
    size = max(1, 2048 // block)
    kernel: Any = _silu_backward_kernel
    if rows:
        kernel[(ceil_div(rows, size),)](joined_TJ, dq, dk, dv, dx_TJ, rows, D=dim, BLOCK=block, ROWS=size)
    return dx_TJ


class SiluQKV(Function):
    @staticmethod
    def forward(ctx, joined_TJ: Tensor, heads: int):
        joined_TJ = joined_TJ.contiguous()
        ctx.save_for_backward(joined_TJ)
        return silu_qkv_triton(joined_TJ, heads)

    @staticmethod
    def backward(ctx, *grads):
        (joined_TJ,) = ctx.saved_tensors
        return silu_qkv_gradient(joined_TJ, *grads), None
