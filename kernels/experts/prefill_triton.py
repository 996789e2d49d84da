"""Experts for decoding batches in few launches: routing with its sort in one kernel, SwiGLU, weighted sum."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

MOST_TOKENS = 512  # one program routes them all


@triton.jit
def _route_kernel(
    logits_ptr,
    token_ptr,
    place_ptr,
    weight_ptr,
    ends_ptr,
    tokens,
    E: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """Top-k of the softmax, renormalised; rows numbered by expert, stably, as a sort of the flat choices would.

    Where the softmax is NaN, the choices are different experts below E all the same, and their weights are NaN.
    """
    t, e = tl.arange(0, ROWS), tl.arange(0, EXPERTS)
    inside = (t[:, None] < tokens) & (e[None, :] < E)
    logits = tl.load(logits_ptr + t[:, None] * E + e[None, :], mask=inside, other=float("-inf"))
    logits = tl.where(t[:, None] < tokens, logits, 0.0)
    p = tl.exp(logits - tl.max(logits, 1)[:, None])
    p = p / tl.sum(p, 1)[:, None]
    broken = (p != p) & inside
    p = tl.where(broken, 0.0, p)
    left, chosen = tl.where(e[None, :] < E, p, -1.0), tl.zeros([ROWS, EXPERTS], tl.int32)
    total = tl.where(tl.max(broken.to(tl.int32), 1) > 0, float("nan"), tl.zeros([ROWS], tl.float32))
    for _ in tl.static_range(K):
        best = tl.argmax(left, 1)
        total += tl.max(left, 1)
        picked = e[None, :] == best[:, None]
        chosen = tl.where(picked, 1, chosen)
        left = tl.where(picked, -1.0, left)
    chosen = tl.where(t[:, None] < tokens, chosen, 0)
    counts = tl.sum(chosen, 0)
    ends = tl.cumsum(counts, 0)
    tl.store(ends_ptr + e, ends, mask=e < E)
    place = tl.cumsum(chosen, 0) - chosen + (ends - counts)[None, :]
    left = tl.where(e[None, :] < E, p, -1.0)
    for k in tl.static_range(K):
        best = tl.argmax(left, 1)
        picked = e[None, :] == best[:, None]
        where = tl.sum(tl.where(picked, place, 0), 1)
        tl.store(place_ptr + t * K + k, where, mask=t < tokens)
        tl.store(weight_ptr + t * K + k, tl.max(left, 1) / total, mask=t < tokens)
        tl.store(token_ptr + where, t, mask=t < tokens)
        left = tl.where(picked, -1.0, left)


@triton.jit
def _swiglu_kernel(joined_ptr, out_ptr, I: tl.constexpr, BLOCK: tl.constexpr):  # noqa: E741
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(joined_ptr + row * 2 * I + i, mask=i < I, other=0.0).to(tl.float32)
    up = tl.load(joined_ptr + row * 2 * I + I + i, mask=i < I, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * I + i, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=i < I)


@triton.jit
def _sum_kernel(rows_ptr, place_ptr, weight_ptr, out_ptr, X: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    token, x = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(K):
        place = tl.load(place_ptr + token * K + k).to(tl.int64)
        weight = tl.load(weight_ptr + token * K + k)
        total += tl.load(rows_ptr + place * X + x, mask=x < X, other=0.0).to(tl.float32) * weight
    tl.store(out_ptr + token * X + x, total.to(out_ptr.dtype.element_ty), mask=x < X)


def routed_experts_triton(x_TX: Tensor, logits_TE: Tensor, top_k: int, gate_up_EJX: Tensor, down_EXI: Tensor) -> Tensor:
    """Softmax, top-k and `kernels.experts.moe.moe_experts` for up to MOST_TOKENS tokens; rounded after each product,
    after SwiGLU and after the sum.

    x_TX: bf16 [T, X]; logits_TE: float32 [T, E]; gate_up_EJX: bf16 [E, 2 I, X]; down_EXI: bf16 [E, X, I].
    """
    tokens, experts = logits_TE.shape
    width, inner = down_EXI.shape[1:]
    device, count = x_TX.device, tokens * top_k
    token_N, place_N = torch.empty(2, count, dtype=torch.int32, device=device)
    weight_N = torch.empty(count, dtype=torch.float32, device=device)
    ends_E = torch.empty(experts, dtype=torch.int32, device=device)
    sizes = {"ROWS": max(16, triton.next_power_of_2(tokens)), "EXPERTS": max(16, triton.next_power_of_2(experts))}
    route: Any = _route_kernel
    route[(1,)](logits_TE, token_N, place_N, weight_N, ends_E, tokens, E=experts, K=top_k, **sizes, num_warps=8)
    rows = x_TX.index_select(0, token_N)
    joined = F.grouped_mm(rows, gate_up_EJX.transpose(1, 2), offs=ends_E)
    hidden = torch.empty(count, inner, dtype=x_TX.dtype, device=device)
    swiglu: Any = _swiglu_kernel
    swiglu[(count, triton.cdiv(inner, 1024))](joined, hidden, I=inner, BLOCK=1024)
    out = F.grouped_mm(hidden, down_EXI.transpose(1, 2), offs=ends_E)
    summed = torch.empty_like(x_TX)
    weighted_sum: Any = _sum_kernel
    weighted_sum[(tokens, triton.cdiv(width, 1024))](out, place_N, weight_N, summed, X=width, K=top_k, BLOCK=1024)
    return summed
