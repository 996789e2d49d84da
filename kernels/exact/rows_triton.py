"""What the exact mode does by row between its matrix products, each in one launch and rounded alike everywhere."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.launcher import launched

MOST_SORTED = 1024  # choices that one program sorts
_ROUTED_ROWS = 16


@triton.jit
def choose(
    logits,
    kept_ptr,
    t,
    inside,
    E: tl.constexpr,
    K: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
    ROWS: tl.constexpr,
    KEPT: tl.constexpr,
):
    """Experts int32 and their shares [ROWS, CHOICES] of rows whose logits beyond E are -inf.

    No sum but that over the chosen ones, in their order: whatever the layout, the bits are the same. Where the softmax
    is NaN, the experts are different ones below E all the same, and their shares are NaN.
    """
    logits = tl.where(inside[:, None], logits, 0.0)
    p = tl.exp(logits - tl.max(logits, 1)[:, None])
    e, c = tl.arange(0, EXPERTS), tl.arange(0, CHOICES)
    broken = (p != p) & (e < E)[None, :]
    left = tl.where((e < E)[None, :], tl.where(broken, 0.0, p), -1.0)
    total = tl.where(tl.max(broken.to(tl.int32), 1) > 0, float("nan"), tl.zeros([ROWS], tl.float32))
    experts, weights = tl.zeros([ROWS, CHOICES], tl.int32), tl.zeros([ROWS, CHOICES], tl.float32)
    for k in tl.static_range(K):
        if KEPT:
            expert = tl.load(kept_ptr + t * K + k, mask=inside, other=0).to(tl.int32)
        else:
            expert = tl.argmax(left, 1)
        picked = e[None, :] == expert[:, None]
        weight = tl.sum(tl.where(picked, p, 0.0), 1)
        total += weight
        left = tl.where(picked, -1.0, left)
        experts = tl.where(c[None, :] == k, expert[:, None], experts)
        weights = tl.where(c[None, :] == k, weight[:, None], weights)
    return experts, weights / total[:, None]


@launched
@triton.jit
def _route_kernel(
    logits_ptr,
    kept_ptr,
    expert_ptr,
    weight_ptr,
    tokens,
    E: tl.constexpr,
    K: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
    ROWS: tl.constexpr,
    KEPT: tl.constexpr,
):
    t, e = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, EXPERTS)
    inside = (t < tokens)[:, None] & (e < E)[None, :]
    logits = tl.load(logits_ptr + t[:, None] * E + e[None, :], mask=inside, other=float("-inf"))
    experts, weights = choose(logits, kept_ptr, t, t < tokens, E, K, EXPERTS, CHOICES, ROWS, KEPT)
    c = tl.arange(0, CHOICES)
    at = t[:, None] * K + c[None, :]
    there = (t < tokens)[:, None] & (c < K)[None, :]
    tl.store(expert_ptr + at, experts.to(tl.int64), mask=there)
    tl.store(weight_ptr + at, weights, mask=there)


def route_triton(logits_TE: Tensor, top_k: int, kept_TK: Tensor | None) -> tuple[Tensor, Tensor]:
    """Shares [T, K] of the likeliest experts, or of those given, and which they are, int64 [T, K]."""
    tokens, experts = logits_TE.shape
    expert_TK = torch.empty(tokens, top_k, dtype=torch.int64, device=logits_TE.device)
    weight_TK = torch.empty(tokens, top_k, dtype=torch.float32, device=logits_TE.device)
    kernel: Any = _route_kernel
    if tokens:
        kernel[(triton.cdiv(tokens, _ROUTED_ROWS),)](
            logits_TE,
            kept_TK.contiguous() if kept_TK is not None else logits_TE,
            expert_TK,
            weight_TK,
            tokens,
            E=experts,
            K=top_k,
            EXPERTS=max(16, triton.next_power_of_2(experts)),
            CHOICES=triton.next_power_of_2(top_k),
            ROWS=_ROUTED_ROWS,
            KEPT=kept_TK is not None,
            num_warps=1,
        )
    return weight_TK, expert_TK


@triton.jit
def _sort_kernel(expert_ptr, source_ptr, place_ptr, ends_ptr, count, E: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    n = tl.arange(0, N)
    expert = tl.load(expert_ptr + n, mask=n < count, other=E).to(tl.int32)
    before, place = 0, tl.zeros([N], tl.int32)
    for e in range(E):
        here = (expert == e).to(tl.int32)
        place = tl.where(here > 0, before + tl.cumsum(here, 0) - 1, place)
        before += tl.sum(here, 0)
        tl.store(ends_ptr + e, before)
    tl.store(place_ptr + n, place, mask=n < count)
    tl.store(source_ptr + place, n // K, mask=n < count)


def sort_triton(expert_TK: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """For up to MOST_SORTED choices: the token of each row by expert, each choice's row, where experts' rows end."""
    count = expert_TK.numel()
    source_N, place_N = torch.empty(2, count, dtype=torch.int32, device=expert_TK.device)
    ends_E = torch.empty(experts, dtype=torch.int32, device=expert_TK.device)
    kernel: Any = _sort_kernel
    sizes = {"E": experts, "N": max(16, triton.next_power_of_2(count)), "K": expert_TK.shape[1]}
    kernel[(1,)](expert_TK, source_N, place_N, ends_E, count, **sizes, num_warps=4)
    return source_N, place_N, ends_E


@triton.jit
def _swiglu_kernel(joined_ptr, out_ptr, I: tl.constexpr, BLOCK: tl.constexpr):  # noqa: E741
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(joined_ptr + row * 2 * I + i, mask=i < I, other=0.0).to(tl.float32)
    up = tl.load(joined_ptr + row * 2 * I + I + i, mask=i < I, other=0.0)
    silu = (gate * tl.sigmoid(gate)).to(up.dtype)
    tl.store(out_ptr + row * I + i, (silu.to(tl.float32) * up.to(tl.float32)).to(up.dtype), mask=i < I)


def swiglu_triton(joined_NJ: Tensor) -> Tensor:
    """silu(gate) * up for rows [N, 2 I], gate first."""
    rows, inner = len(joined_NJ), joined_NJ.shape[1] // 2
    out = torch.empty(rows, inner, dtype=joined_NJ.dtype, device=joined_NJ.device)
    kernel: Any = _swiglu_kernel
    if rows:
        block = min(1024, triton.next_power_of_2(inner))
        kernel[(rows, triton.cdiv(inner, block))](joined_NJ, out, I=inner, BLOCK=block)
    return out


@triton.jit
def _sum_kernel(rows_ptr, place_ptr, weight_ptr, out_ptr, X: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    token, x = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(K):
        place = tl.load(place_ptr + token * K + k).to(tl.int64)
        weight = tl.load(weight_ptr + token * K + k)
        total += tl.load(rows_ptr + place * X + x, mask=x < X, other=0.0).to(tl.float32) * weight
    tl.store(out_ptr + token * X + x, total.to(out_ptr.dtype.element_ty), mask=x < X)


def weighted_sum_triton(rows_NX: Tensor, place_N: Tensor, weight_TK: Tensor) -> Tensor:
    """y_t = sum over k of weight * rows[place], in float32, rounded once."""
    tokens, top_k = weight_TK.shape
    out_TX = torch.empty(tokens, rows_NX.shape[1], dtype=rows_NX.dtype, device=rows_NX.device)
    kernel: Any = _sum_kernel
    if tokens:
        width = rows_NX.shape[1]
        block = min(1024, triton.next_power_of_2(width))
        kernel[(tokens, triton.cdiv(width, block))](
            rows_NX, place_N, weight_TK.contiguous(), out_TX, X=width, K=top_k, BLOCK=block
        )
    return out_TX
