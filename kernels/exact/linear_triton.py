"""Matrix products whose every row is the same whatever other rows there are: one order of sums, forward only.

A row of a product is a chain of tensor-core instructions along the inner dimension, 16 numbers at a time. No tile cuts
that chain, so tiles may follow the number of rows: what a row comes to depends on the row and the weights alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.head_triton import decode_head
from lightning_cispo.kernels.decoding.linear_triton import Tiles
from lightning_cispo.kernels.device import on_hopper
from lightning_cispo.kernels.experts.rows_triton import BLOCK_ROWS, Rows
from lightning_cispo.kernels.experts.train_triton import product
from lightning_cispo.kernels.launcher import launched

_DEPTH = 64
_TURNS = 8
ROUTER_COLUMNS = 32  # of a float32 weight that is multiplied in three sums; a wider one is multiplied as a head is
_MANY = 512  # rows from which a product is one by whole tiles through the tensor memory accelerator
_HEAD = Tiles(128, 32, 128, 8, 4)


@triton.jit
def in_parts(x, weight, low, middle, high):
    """Three sums with x weight added, for a float32 weight that is the sum of three of x's dtype: exact products.

    Each is a chain along the inputs, and they meet at the end: it does not matter how many inputs come at a time.
    """
    most = weight.to(x.dtype)
    rest = weight - most.to(tl.float32)
    some = rest.to(x.dtype)
    low = tl.dot(x, (rest - some.to(tl.float32)).to(x.dtype), low)
    return low, tl.dot(x, some, middle), tl.dot(x, most, high)


@launched
@triton.jit
def _linear_kernel(
    x_ptr,
    weight_ptr,
    y_ptr,
    ends_ptr,
    source_ptr,
    rows,
    x_row,
    N: tl.constexpr,
    K: tl.constexpr,
    EXPERTS: tl.constexpr,
    EXPERTS_PADDED: tl.constexpr,
    GATHER: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    TURNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of y = x W^T. With EXPERTS, the rows up to ends[e] and not before ends[e - 1] meet the weights of e."""
    # A few tiles of rows take turns at each tile of weights, so that both are read from the cache.
    wide: tl.constexpr = (N + COLUMNS - 1) // COLUMNS
    started = tl.program_id(0) // (TURNS * wide) * TURNS
    turns = tl.minimum(tl.num_programs(0) // wide - started, TURNS)
    within = tl.program_id(0) - started * wide
    tile, column = started + within % turns, within // turns
    first, last = tile * ROWS, rows
    if EXPERTS > 0:
        e = tl.arange(0, EXPERTS_PADDED)
        ends = tl.load(ends_ptr + e, mask=e < EXPERTS, other=0)
        starts = tl.load(ends_ptr + e - 1, mask=(e > 0) & (e < EXPERTS), other=0)
        tiles = tl.where(e < EXPERTS, (ends - starts + ROWS - 1) // ROWS, 0)
        before = tl.cumsum(tiles, 0) - tiles
        here = (tile >= before) & (tile < before + tiles)
        if tl.sum(here.to(tl.int32), 0) == 0:
            return
        first = tl.sum(tl.where(here, starts + (tile - before) * ROWS, 0), 0)
        last = tl.sum(tl.where(here, ends, 0), 0)
        weight_ptr += tl.sum(tl.where(here, e, 0), 0).to(tl.int64) * N * K
    r = first + tl.arange(0, ROWS)
    n = column * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    source = r
    if GATHER:
        source = tl.load(source_ptr + r, mask=r < last, other=0)
    x_at = x_ptr + source.to(tl.int64)[:, None] * x_row + k[None, :]
    weight_at = weight_ptr + n.to(tl.int64)[None, :] * K + k[:, None]
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    low, middle = sums, sums
    for done in range(0, K, DEPTH):
        inside = done + k < K
        x = tl.load(x_at + done, mask=(r < last)[:, None] & inside[None, :], other=0.0)
        weight = tl.load(weight_at + done, mask=(n < N)[None, :] & inside[:, None], other=0.0)
        if SPLIT:
            low, middle, sums = in_parts(x, weight, low, middle, sums)
        else:
            sums = tl.dot(x, weight, sums, input_precision=PRECISION)
    if SPLIT:
        sums += low + middle
    at = y_ptr + r.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(at, sums.to(y_ptr.dtype.element_ty), mask=(r < last)[:, None] & (n < N)[None, :])


def tiling(rows: int, columns: int, split: bool, wide: bool, grouped: bool) -> tuple[int, int, int, int]:
    """Rows and columns of a tile, warps, stages of loads; measured on an H100. `rows`: of one expert, if grouped."""
    if wide:
        return 64, 64, 4, 2
    if split:
        return 64, 16, 4, 4
    if rows >= 256 and columns >= 256:
        return 128, 256, 8, 3 if grouped else 4
    if grouped:
        return 64, 128, 4, 4
    return 64, 64 if rows > 128 else 32, 4, 4


def dense_triton(x_TK: Tensor, weight_NK: Tensor, dtype: torch.dtype) -> Tensor:
    """x W^T in `dtype`, by the kernel that suits the device and the shapes; every one has the same bits."""
    rows, (columns, depth) = len(x_TK), weight_NK.shape
    if weight_NK.dtype != x_TK.dtype and columns > ROUTER_COLUMNS:
        y_TN = torch.empty(rows, columns, dtype=dtype, device=x_TK.device)
        if rows:
            decode_head(x_TK.contiguous(), weight_NK.contiguous(), y_TN, _HEAD)
        return y_TN
    whole = rows >= _MANY and depth % 8 == 0 and columns % 8 == 0 and dtype == weight_NK.dtype == torch.bfloat16
    if not whole or not on_hopper(x_TK.device):
        return linear_triton(x_TK, weight_NK, dtype=dtype)
    x_TK = F.pad(x_TK, (0, 0, 0, -rows % BLOCK_ROWS)) if rows % BLOCK_ROWS else x_TK.contiguous()
    ends = torch.full((1,), len(x_TK), dtype=torch.int32, device=x_TK.device)
    # One expert has every row; of the rest its numbers of rows are all that a product reads.
    return product(x_TK, weight_NK.contiguous()[None], Rows(x_TK, x_TK, ends, ends), transposed=True)[:rows]


def linear_triton(
    x_TK: Tensor,
    weight: Tensor,
    ends_E: Tensor | None = None,
    dtype: torch.dtype | None = None,
    source_N: Tensor | None = None,
) -> Tensor:
    """x W^T for weight [N, K], or for rows sorted by expert weight [E, N, K] and where each one's rows end, int32 [E].

    Float32 weights beside bf16 rows are multiplied as float32. `source_N` says which row of x each row is, if not its
    own. Returns [T, N] in `dtype`, by default x's.
    """
    rows, (*_, columns, depth) = len(x_TK if source_N is None else source_N), weight.shape
    y_TN = torch.empty(rows, columns, dtype=dtype or x_TK.dtype, device=x_TK.device)
    if not rows:
        return y_TN
    split = weight.dtype != x_TK.dtype
    experts = 0 if ends_E is None else len(ends_E)
    wide = x_TK.dtype == torch.float32
    tile_rows, tile_columns, warps, stages = tiling(rows // max(1, experts), columns, split, wide, experts > 0)
    kernel: Any = _linear_kernel
    x_TK = x_TK if x_TK.stride(1) == 1 else x_TK.contiguous()
    # Every expert may end within a tile.
    kernel[(triton.cdiv(columns, tile_columns) * (triton.cdiv(rows, tile_rows) + experts),)](
        x_TK,
        weight.contiguous(),
        y_TN,
        ends_E if ends_E is not None else x_TK,
        source_N if source_N is not None else x_TK,
        rows,
        x_TK.stride(0),
        N=columns,
        K=depth,
        EXPERTS=experts,
        EXPERTS_PADDED=triton.next_power_of_2(max(1, experts)),
        GATHER=source_N is not None,
        SPLIT=split,
        ROWS=tile_rows,
        COLUMNS=tile_columns,
        DEPTH=min(_DEPTH, max(16, triton.next_power_of_2(depth))),
        TURNS=_TURNS,
        PRECISION="ieee" if wide else "tf32",
        num_warps=warps,
        num_stages=stages,
    )
    return y_TN
