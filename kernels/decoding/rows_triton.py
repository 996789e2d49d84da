"""What a decoding step does to single rows, in Triton, a program a row: residuals and norms.

The residual stream stays in float32; only what a matrix product reads is rounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.linear_triton import begin, launch


class Stream(NamedTuple):
    """What runs from layer to layer: `residual_BX` (float32), and `x_BX`, its norm for the next product.

    After an update y: h = alpha residual + beta y; x is h's norm; the residual is h or, post-norm, that norm unrounded.
    """

    residual_BX: Tensor
    x_BX: Tensor
    norm_X: Tensor
    eps: float
    postnorm: bool
    alpha: float = 1.0
    beta: float = 1.0


@triton.jit
def leave(h, weighted, residual_ptr, x_ptr, row, i, X: tl.constexpr, eps, POSTNORM: tl.constexpr):
    """The row's norm for the next product, and what the next residual adds. Returns one over the root mean square."""
    scale = 1.0 / tl.sqrt(tl.sum(h * h, 0) / X + eps)
    at = row * X + i
    tl.store(residual_ptr + at, weighted * scale if POSTNORM else h, mask=i < X)
    tl.store(x_ptr + at, (weighted * scale).to(x_ptr.dtype.element_ty), mask=i < X)
    return scale


@triton.jit
def _enter_kernel(
    token_ptr,
    embedding_ptr,
    norm_ptr,
    residual_ptr,
    x_ptr,
    count_ptr,
    counts,
    eps,
    X: tl.constexpr,
    POSTNORM: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    begin(PDL)
    for first in range(row * BLOCK, counts, tl.num_programs(0) * BLOCK):
        tl.store(count_ptr + first + i, tl.zeros([BLOCK], tl.int32), mask=first + i < counts)
    token = tl.load(token_ptr + row).to(tl.int64)
    h = tl.load(embedding_ptr + token * X + i, mask=i < X, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
    weighted = h * tl.load(norm_ptr + i, mask=i < X, other=0.0).to(tl.float32)
    leave(h, weighted, residual_ptr, x_ptr, row, i, X, eps, POSTNORM)


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
    leave(h, weighted, residual_ptr, x_ptr, row, i, X, eps, POSTNORM)


def decode_enter(token_B: Tensor, embedding_VX: Tensor, stream: Stream, count_LE: Tensor, pdl: bool = False) -> None:
    """Begin a stream with the embeddings of tokens [B], and set the rosters' counts (int32) to 0.

    The first of a chain: it never begins early, so that what the others read before they wait has been written.
    """
    kernel: Any = _enter_kernel
    kernel[(len(stream.x_BX),)](
        token_B,
        embedding_VX,
        stream.norm_X,
        stream.residual_BX,
        stream.x_BX,
        count_LE,
        count_LE.numel(),
        stream.eps,
        PDL=pdl,
        **_shape(stream),
    )


def decode_combine(parts_NX: Tensor, choice_BK: Tensor, share_BK: Tensor, stream: Stream, pdl: bool = False) -> None:
    """Update a stream with the sum over a row's choices of share times what its expert gave [B * K, X]."""
    kernel: Any = _combine_kernel
    kernel[(len(stream.x_BX),)](
        parts_NX,
        choice_BK,
        share_BK,
        stream.norm_X,
        stream.residual_BX,
        stream.x_BX,
        stream.alpha,
        stream.beta,
        stream.eps,
        TOP_K=choice_BK.shape[1],
        PDL=pdl,
        **_shape(stream),
        **launch(pdl),
    )


def _shape(stream: Stream) -> dict[str, int]:
    width = stream.x_BX.shape[1]
    block = triton.next_power_of_2(width)
    return {"X": width, "POSTNORM": stream.postnorm, "BLOCK": block, "num_warps": 4 if block <= 2048 else 8}
