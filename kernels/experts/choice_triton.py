"""The choice of experts in one Triton kernel, and its gradient in another.

The top K of the softmax, renormalised, are the softmax of the K largest logits. Where the softmax is NaN, the experts
are different ones below E all the same, and their weights are NaN.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.launcher import ceil_div, launched, power_of_2

LEAST: tl.constexpr = tl.constexpr(-3.4028234663852886e38)  # the lowest finite float32


@launched
@triton.jit
def _choose_kernel(
    logits_ptr,
    weight_ptr,
    expert_ptr,
    rows,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
):
    r, e = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, EXPERTS)
    inside = (r[:, None] < rows) & (e[None, :] < E)
    at = r.to(tl.int64)[:, None] * E + e[None, :]
    left = tl.load(logits_ptr + at, mask=inside, other=float("-inf"))
    left = tl.where(r[:, None] < rows, left, 0.0)
    broken = tl.max(((left != left) & inside).to(tl.int32), 1) > 0
    # No candidate may be NaN, or as low as padding and what was picked: the choices stay below E, each a different one.
    left = tl.where(inside & ~(left >= LEAST), LEAST, left)
    largest = tl.max(left, 1)
    total = tl.where(broken | (largest == LEAST), float("nan"), tl.zeros([ROWS], tl.float32))
    rest = left
    for _ in tl.static_range(K):
        total += tl.exp(tl.max(rest, 1) - largest)
        rest = tl.where(e[None, :] == tl.argmax(rest, 1)[:, None], float("-inf"), rest)
    for k in tl.static_range(K):
        best = tl.argmax(left, 1)
        tl.store(weight_ptr + r * K + k, tl.exp(tl.max(left, 1) - largest) / total, mask=r < rows)
        tl.store(expert_ptr + r * K + k, best.to(tl.int64), mask=r < rows)
        left = tl.where(e[None, :] == best[:, None], float("-inf"), left)


@launched
@triton.jit
def _choose_backward_kernel(
    weight_ptr,
    expert_ptr,
    dweight_ptr,
    dlogits_ptr,
    rows,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
):
    r, e = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, EXPERTS)
    mean = tl.zeros([ROWS], tl.float32)
    for k in tl.static_range(K):
        weight = tl.load(weight_ptr + r * K + k, mask=r < rows, other=0.0)
        mean += weight * tl.load(dweight_ptr + r * K + k, mask=r < rows, other=0.0)
    dlogits = tl.zeros([ROWS, EXPERTS], tl.float32)
    for k in tl.static_range(K):
        weight = tl.load(weight_ptr + r * K + k, mask=r < rows, other=0.0)
        dweight = tl.load(dweight_ptr + r * K + k, mask=r < rows, other=0.0)
        expert = tl.load(expert_ptr + r * K + k, mask=r < rows, other=0).to(tl.int32)
        dlogits = tl.where(e[None, :] == expert[:, None], (weight * (dweight - mean))[:, None], dlogits)
    at = r.to(tl.int64)[:, None] * E + e[None, :]
    tl.store(dlogits_ptr + at, dlogits, mask=(r[:, None] < rows) & (e[None, :] < E))


class ChooseExperts(Function):
    """logits: float32 [T, E]. Returns weights float32 [T, K], that sum to 1, and experts int64 [T, K]."""

    @staticmethod
    def forward(ctx, logits_TE: Tensor, top_k: int):
        rows, experts = logits_TE.shape
        weight_TK = torch.empty(rows, top_k, dtype=torch.float32, device=logits_TE.device)
        expert_TK = torch.empty(rows, top_k, dtype=torch.int64, device=logits_TE.device)
        kernel: Any = _choose_kernel
        grid, sizes = _launch(rows, experts, top_k)
        if rows:
            kernel[grid](logits_TE.contiguous(), weight_TK, expert_TK, rows, **sizes)
        ctx.mark_non_differentiable(expert_TK)
        ctx.save_for_backward(weight_TK, expert_TK)
        ctx.experts = experts
        return weight_TK, expert_TK

    @staticmethod
    def backward(ctx, dweight_TK: Tensor, _):
        weight_TK, expert_TK = ctx.saved_tensors
        rows, top_k = weight_TK.shape
        dlogits_TE = torch.empty(rows, ctx.experts, dtype=torch.float32, device=weight_TK.device)
        kernel: Any = _choose_backward_kernel
        grid, sizes = _launch(rows, ctx.experts, top_k)
        if rows:
            kernel[grid](weight_TK, expert_TK, dweight_TK.contiguous(), dlogits_TE, rows, **sizes)
        return dlogits_TE, None


def _launch(rows: int, experts: int, top_k: int) -> tuple[tuple[int], dict[str, int]]:
    wide = max(2, power_of_2(experts))
    size = max(1, 2048 // wide)
    return (ceil_div(rows, size),), {"E": experts, "EXPERTS": wide, "K": top_k, "ROWS": size}
