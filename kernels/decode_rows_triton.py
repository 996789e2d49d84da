"""What a decoding step does to single rows, in Triton, a program a row: residuals, norms, routing.

The residual stream stays in float32; only what a matrix product reads is rounded. Rows at position 0 are idle: they
choose no expert.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.decode_linear_triton import begin, launch


@triton.jit
def _leave(h, weighted, residual_ptr, x_ptr, row, i, X: tl.constexpr, eps, POSTNORM: tl.constexpr):
    """The row's norm for the next product, and what the next residual adds. Returns one over the root mean square."""
    scale = 1.0 / tl.sqrt(tl.sum(h * h, 0) / X + eps)
    at = row * X + i
    tl.store(residual_ptr + at, weighted * scale if POSTNORM else h, mask=i < X)
    tl.store(x_ptr + at, (weighted * scale).to(x_ptr.dtype.element_ty), mask=i < X)
    return scale


@triton.jit
def _router(router_ptr, first, i, E: tl.constexpr, X: tl.constexpr, AT_ONCE: tl.constexpr):
    some = first + tl.arange(0, AT_ONCE)
    inside = (some < E)[:, None] & (i < X)[None, :]
    return tl.load(router_ptr + some[:, None] * X + i[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _enter_kernel(
    token_ptr,
    embedding_ptr,
    norm_ptr,
    residual_ptr,
    x_ptr,
    eps,
    X: tl.constexpr,
    POSTNORM: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    begin(PDL)
    token = tl.load(token_ptr + row).to(tl.int64)
    h = tl.load(embedding_ptr + token * X + i, mask=i < X, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
    weighted = h * tl.load(norm_ptr + i, mask=i < X, other=0.0).to(tl.float32)
    _leave(h, weighted, residual_ptr, x_ptr, row, i, X, eps, POSTNORM)


@triton.jit(do_not_specialize=["rows"])
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
    logits *= _leave(h, weighted, residual_ptr, x_ptr, row, i, X, eps, POSTNORM)
    logits = tl.where(e < E, logits, float("-inf"))
    p = tl.where(e < E, tl.exp(logits - tl.max(logits, 0)), -1.0)
    left, total = p, 0.0
    for _ in tl.static_range(TOP_K):
        total += tl.max(left, 0)
        left = tl.where(e == tl.argmax(left, 0), -1.0, left)
    runs = tl.load(position_ptr + row) > 0
    for k in tl.static_range(TOP_K):
        best = tl.argmax(p, 0)
        tl.store(choice_ptr + row * TOP_K + k, tl.where(runs, best, -1))
        tl.store(share_ptr + row * TOP_K + k, tl.max(p, 0) / total)
        p = tl.where(e == best, -1.0, p)


@triton.jit
def _combine_kernel(
    parts_ptr,
    choice_ptr,
    share_ptr,
    norm_ptr,
    residual_ptr,
    x_ptr,
    alpha,
    beta,
    eps,
    X: tl.constexpr,
    TOP_K: tl.constexpr,
    POSTNORM: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """The experts' weighted sum and the residual, then the next norm."""
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    begin(PDL)
    update = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(TOP_K):
        number = row * TOP_K + k
        there = (i < X) & (tl.load(choice_ptr + number) >= 0)
        part = tl.load(parts_ptr + number.to(tl.int64) * X + i, mask=there, other=0.0)
        update += part * tl.load(share_ptr + number)
    h = alpha * tl.load(residual_ptr + row * X + i, mask=i < X, other=0.0) + beta * update
    weighted = h * tl.load(norm_ptr + i, mask=i < X, other=0.0).to(tl.float32)
    _leave(h, weighted, residual_ptr, x_ptr, row, i, X, eps, POSTNORM)


def _shape(x_BX: Tensor) -> dict[str, int]:
    block = triton.next_power_of_2(x_BX.shape[1])
    return {"BLOCK": block, "num_warps": 4 if block <= 2048 else 8}


def decode_enter(
    token_B: Tensor,
    embedding_VX: Tensor,
    norm_X: Tensor,
    eps: float,
    postnorm: bool,
    residual_BX: Tensor,
    x_BX: Tensor,
    pdl: bool = False,
) -> None:
    """Embeddings of tokens [B], normed: `residual_BX` (float32) and `x_BX` are written.

    The first of a chain: it never begins early, so that what the others read before they wait has been written.
    """
    kernel: Any = _enter_kernel
    kernel[(len(x_BX),)](
        token_B,
        embedding_VX,
        norm_X,
        residual_BX,
        x_BX,
        eps,
        X=x_BX.shape[1],
        POSTNORM=postnorm,
        PDL=pdl,
        **_shape(x_BX),
    )


def decode_route(
    parts_SBX: Tensor,
    squares_BP: Tensor | None,
    width: int,
    inner_eps: float,
    position_B: Tensor,
    router_EX: Tensor,
    norm_X: Tensor,
    eps: float,
    scale: tuple[float, float],
    postnorm: bool,
    residual_BX: Tensor,
    x_BX: Tensor,
    choice_BK: Tensor,
    share_BK: Tensor,
    pdl: bool = False,
) -> None:
    """From attention to the experts: residual, norm, and each row's experts with their weights.

    Args:
        parts_SBX: float32, attention's output in S parts; squares_BP: with it the output is divided by
            sqrt(sum of a row / width + inner_eps).
        position_B: int64; rows at 0 choose expert -1.
        scale: alpha of the residual and beta of the output.
        residual_BX, x_BX: rewritten; choice_BK: int32, share_BK: float32, written.
    """
    experts, block = len(router_EX), triton.next_power_of_2(x_BX.shape[1])
    kernel: Any = _route_kernel
    kernel[(len(x_BX),)](
        parts_SBX,
        squares_BP if squares_BP is not None else parts_SBX,
        position_B,
        norm_X,
        router_EX,
        residual_BX,
        x_BX,
        choice_BK,
        share_BK,
        *scale,
        eps,
        inner_eps,
        len(x_BX),
        X=x_BX.shape[1],
        E=experts,
        TOP_K=choice_BK.shape[1],
        PARTS=len(parts_SBX),
        SQUARES=squares_BP.shape[1] if squares_BP is not None else 0,
        WIDTH=width,
        POSTNORM=postnorm,
        SQUARES_PADDED=triton.next_power_of_2(squares_BP.shape[1]) if squares_BP is not None else 1,
        EXPERTS=triton.next_power_of_2(experts),
        AT_ONCE=max(1, min(triton.next_power_of_2(experts), 16384 // block)),
        PDL=pdl,
        BLOCK=block,
        num_warps=8,
        **launch(pdl),
    )


def decode_combine(
    parts_NX: Tensor,
    choice_BK: Tensor,
    share_BK: Tensor,
    norm_X: Tensor,
    eps: float,
    scale: tuple[float, float],
    postnorm: bool,
    residual_BX: Tensor,
    x_BX: Tensor,
    pdl: bool = False,
) -> None:
    """Sum over a row's choices of share times what its expert gave [B * K, X]; residual and the next norm."""
    kernel: Any = _combine_kernel
    kernel[(len(x_BX),)](
        parts_NX,
        choice_BK,
        share_BK,
        norm_X,
        residual_BX,
        x_BX,
        *scale,
        eps,
        X=x_BX.shape[1],
        TOP_K=choice_BK.shape[1],
        POSTNORM=postnorm,
        PDL=pdl,
        **_shape(x_BX),
        **launch(pdl),
    )
