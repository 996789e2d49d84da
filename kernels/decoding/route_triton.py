"""From attention to the experts in one Triton launch, a program a row: residual, norm, router, top-k.

Router logits are float32 sums of the norm before it is rounded. Rows at position 0 are idle: they choose no expert.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.experts_triton import Roster, enlist
from lightning_cispo.kernels.decoding.linear_triton import begin, launch
from lightning_cispo.kernels.decoding.rows_triton import Stream, leave


@triton.jit
def _router(router_ptr, first, i, E: tl.constexpr, X: tl.constexpr, AT_ONCE: tl.constexpr):
    some = first + tl.arange(0, AT_ONCE)
    inside = (some < E)[:, None] & (i < X)[None, :]
    return tl.load(router_ptr + some[:, None] * X + i[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["rows", "width"])
def _route_kernel(
    parts_ptr,
    squares_ptr,
    position_ptr,
    norm_ptr,
    router_ptr,
    residual_ptr,
    x_ptr,
    choice_ptr,
    share_ptr,
    count_ptr,
    list_ptr,
    width,
    alpha,
    beta,
    eps,
    inner_eps,
    rows,
    X: tl.constexpr,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    PARTS: tl.constexpr,
    SQUARES: tl.constexpr,
    WIDTH: tl.constexpr,
    POSTNORM: tl.constexpr,
    BLOCK: tl.constexpr,
    SQUARES_PADDED: tl.constexpr,
    EXPERTS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Attention's output (in parts, over the root mean square of what went into it) and residual; norm, router, top-k.

    SQUARES: sums of squares a row of WIDTH numbers; 0: the output is as it is.
    """
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    if AT_ONCE == EXPERTS:
        router = _router(router_ptr, 0, i, E, X, EXPERTS)
    begin(PDL)
    update = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        update += tl.load(parts_ptr + (part * rows + row).to(tl.int64) * X + i, mask=i < X, other=0.0)
    if SQUARES > 0:
        j = tl.arange(0, SQUARES_PADDED)
        squares = tl.load(squares_ptr + row * SQUARES + j, mask=j < SQUARES, other=0.0)
        update *= 1.0 / tl.sqrt(tl.sum(squares, 0) / WIDTH + inner_eps)
    h = alpha * tl.load(residual_ptr + row * X + i, mask=i < X, other=0.0) + beta * update
    # The router's sums don't wait for the norm's: what they share is a factor.
    weighted = h * tl.load(norm_ptr + i, mask=i < X, other=0.0).to(tl.float32)
    e, logits = tl.arange(0, EXPERTS), tl.zeros([EXPERTS], tl.float32)
    if AT_ONCE == EXPERTS:
        logits = tl.sum(router * weighted[None, :], 1)
    else:
        for first in tl.static_range(0, E, AT_ONCE):
            found = tl.sum(_router(router_ptr, first, i, E, X, AT_ONCE) * weighted[None, :], 1)
            some = first + tl.arange(0, AT_ONCE)
            logits += tl.sum(tl.where(some[:, None] == e[None, :], found[:, None], 0.0), 0)
    logits *= leave(h, weighted, residual_ptr, x_ptr, row, i, X, eps, POSTNORM)
    logits = tl.where(e < E, logits, float("-inf"))
    p = tl.exp(logits - tl.max(logits, 0))
    # Without a NaN the choices are different ones below E; the shares are NaN all the same.
    broken = (p != p) & (e < E)
    p = tl.where(e < E, tl.where(broken, 0.0, p), -1.0)
    left, total = p, tl.where(tl.max(broken.to(tl.int32), 0) > 0, float("nan"), 0.0)
    for _ in tl.static_range(TOP_K):
        total += tl.max(left, 0)
        left = tl.where(e == tl.argmax(left, 0), -1.0, left)
    runs = tl.load(position_ptr + row) > 0
    for k in tl.static_range(TOP_K):
        best = tl.argmax(p, 0)
        enlist(count_ptr, list_ptr, width, best, row * TOP_K + k, runs)
        tl.store(choice_ptr + row * TOP_K + k, tl.where(runs, best, -1))
        tl.store(share_ptr + row * TOP_K + k, tl.max(p, 0) / total)
        p = tl.where(e == best, -1.0, p)


def decode_route(
    parts_SBX: Tensor,
    squares_BP: Tensor | None,
    width: int,
    inner_eps: float,
    position_B: Tensor,
    router_EX: Tensor,
    stream: Stream,
    choice_BK: Tensor,
    share_BK: Tensor,
    roster: Roster,
    pdl: bool = False,
) -> None:
    """Update a stream with attention's output, and choose each row's experts with their weights.

    Args:
        parts_SBX: float32, the output in S parts; squares_BP: with it the output is divided by
            sqrt(sum of a row / width + inner_eps).
        position_B: int64; rows at 0 choose expert -1.
        choice_BK: int32, share_BK: float32, written; roster: gets the choices, its counts being 0.
    """
    experts, (rows, hidden) = len(router_EX), stream.x_BX.shape
    block, squares = triton.next_power_of_2(hidden), 0 if squares_BP is None else squares_BP.shape[1]
    kernel: Any = _route_kernel
    kernel[(rows,)](
        parts_SBX,
        parts_SBX if squares_BP is None else squares_BP,
        position_B,
        stream.norm_X,
        router_EX,
        stream.residual_BX,
        stream.x_BX,
        choice_BK,
        share_BK,
        roster.count_E,
        roster.list_EB,
        roster.list_EB.shape[1],
        stream.alpha,
        stream.beta,
        stream.eps,
        inner_eps,
        rows,
        X=hidden,
        E=experts,
        TOP_K=choice_BK.shape[1],
        PARTS=len(parts_SBX),
        SQUARES=squares,
        WIDTH=width,
        POSTNORM=stream.postnorm,
        BLOCK=block,
        SQUARES_PADDED=triton.next_power_of_2(max(1, squares)),
        EXPERTS=triton.next_power_of_2(experts),
        AT_ONCE=max(1, min(triton.next_power_of_2(experts), 16384 // block)),
        PDL=pdl,
        num_warps=8,
        **launch(pdl),
    )
