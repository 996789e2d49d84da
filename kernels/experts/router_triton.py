"""Router logits in Triton: rows in 16 or 32 bits against float32 weights, without a float32 copy of the rows.

Products are float32 ones, not those of tensor cores, whose sums are rounded towards zero. Backward a fixed
number of programs walk over the rows and each leaves its part of the weight's gradient, summed in order afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.launcher import ceil_div, launched, power_of_2

_WALKERS = 64  # programs of the backward pass under each block of columns


@launched
@triton.jit
def _logits_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    rows,
    X: tl.constexpr,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    r, e = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, EXPERTS)
    out = tl.zeros([ROWS, EXPERTS], tl.float32)
    for first in range(0, X, BLOCK):
        i = first + tl.arange(0, BLOCK)
        at = r.to(tl.int64)[:, None] * X + i[None, :]
        x = tl.load(x_ptr + at, mask=(r[:, None] < rows) & (i[None, :] < X), other=0.0).to(tl.float32)
        inside = (e[None, :] < E) & (i[:, None] < X)
        weight = tl.load(weight_ptr + e[None, :] * X + i[:, None], mask=inside, other=0.0).to(tl.float32)
        # Not one chain of sums over all columns: the additions of parts must not become part of the product.
        part = tl.dot(x, weight, input_precision="ieee")
        out = tl.fma(part, tl.full([ROWS, EXPERTS], 1.0, tl.float32), out)
    at = r.to(tl.int64)[:, None] * E + e[None, :]
    tl.store(out_ptr + at, out, mask=(r[:, None] < rows) & (e[None, :] < E))


@launched
@triton.jit
def _logits_backward_kernel(
    dout_ptr,
    x_ptr,
    weight_ptr,
    dx_ptr,
    dweight_ptr,
    rows,
    X: tl.constexpr,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx for a block of columns; `dweight_ptr`: float32 [walkers, E, X]."""
    i, e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, EXPERTS)
    inside = (e[:, None] < E) & (i[None, :] < X)
    weight = tl.load(weight_ptr + e[:, None] * X + i[None, :], mask=inside, other=0.0).to(tl.float32)
    dweight = tl.zeros([EXPERTS, BLOCK], tl.float32)
    for first in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        r = first + tl.arange(0, ROWS)
        at = r.to(tl.int64)[:, None] * E + e[None, :]
        dout = tl.load(dout_ptr + at, mask=(r[:, None] < rows) & (e[None, :] < E), other=0.0)
        at = r.to(tl.int64)[:, None] * X + i[None, :]
        there = (r[:, None] < rows) & (i[None, :] < X)
        x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
        dx = tl.dot(dout, weight, input_precision="ieee")
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=there)
        dweight = tl.dot(tl.trans(dout), x, dweight, input_precision="ieee")
    at = (tl.program_id(1) * E + e)[:, None] * X + i[None, :]
    tl.store(dweight_ptr + at, dweight, mask=inside)


class RouterLogits(Function):
    """x: bf16, float16 or float32 [T, X]; weight: [E, X]. Returns float32 [T, E]."""

    @staticmethod
    def forward(ctx, x_TX: Tensor, weight_EX: Tensor):
        x_TX, weight_EX = x_TX.contiguous(), weight_EX.contiguous()
        (rows, width), experts = x_TX.shape, len(weight_EX)
        out_TE = torch.empty(rows, experts, dtype=torch.float32, device=x_TX.device)
        kernel: Any = _logits_kernel
        sizes = {"X": width, "E": experts, "EXPERTS": max(16, power_of_2(experts))}
        if rows:
            # From 32 experts on a part and the sum of parts would take all registers of four warps.
            warps = 4 if sizes["EXPERTS"] < 32 else 8
            kernel[(ceil_div(rows, 64),)](x_TX, weight_EX, out_TE, rows, **sizes, ROWS=64, BLOCK=64, num_warps=warps)
        ctx.save_for_backward(x_TX, weight_EX)
        return out_TE

    @staticmethod
    def backward(ctx, dout_TE: Tensor):
        x_TX, weight_EX = ctx.saved_tensors
        (rows, width), experts = x_TX.shape, len(weight_EX)
        dx_TX = torch.empty_like(x_TX)
        walkers = min(_WALKERS, max(1, ceil_div(rows, 64)))
        parts = torch.empty(walkers, experts, width, dtype=torch.float32, device=x_TX.device)
        kernel: Any = _logits_backward_kernel
        sizes = {"X": width, "E": experts, "EXPERTS": max(16, power_of_2(experts))}
        given = dout_TE.contiguous(), x_TX, weight_EX, dx_TX, parts, rows
        kernel[(ceil_div(width, 64), walkers)](*given, **sizes, ROWS=32, BLOCK=64)
        return dx_TX, parts.sum(0).to(weight_EX.dtype)
