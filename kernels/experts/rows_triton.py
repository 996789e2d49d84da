"""The experts' rows in Triton: numbering by expert, gather, sum.

Row n belongs to choice `source_N[n]` = token * K + k, and choice (t, k) is row `place_TK[t, k]`. Each expert's rows
begin at a multiple of BLOCK_ROWS, so that every tile of a GEMM has one expert; rows without a choice are zero.
Everything is computed in one fixed order: the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.launcher import ceil_div, launched, power_of_2

BLOCK_ROWS = 128
_FILLERS = 8  # programs that share an expert's rows without a choice


class Rows(NamedTuple):
    """Choices numbered by expert, stably; on the device, the host never reads them."""

    source_N: Tensor  # int32, -1 for a row without a choice; N as many as there can be
    place_TK: Tensor  # int32
    counts_E: Tensor  # int32 rows of each expert
    ends_E: Tensor  # int32 where its last block of rows ends


@launched
@triton.jit(do_not_specialize=["count", "size"])
def _count_kernel(expert_ptr, counts_ptr, source_ptr, count, size, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
    """How many choices of each expert a block has; and no row has a choice yet."""
    block, e = tl.program_id(0), tl.arange(0, EXPERTS)
    n = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(expert_ptr + n, mask=n < count, other=-1).to(tl.int32)
    chosen = (expert[:, None] == e[None, :]).to(tl.int32)
    tl.store(counts_ptr + block * EXPERTS + e, tl.sum(chosen, 0))
    for first in range(block * BLOCK, size, tl.num_programs(0) * BLOCK):
        row = first + tl.arange(0, BLOCK)
        tl.store(source_ptr + row, tl.full([BLOCK], -1, tl.int32), mask=row < size)


@launched
@triton.jit(do_not_specialize=["count"])
def _number_kernel(
    expert_ptr,
    counts_ptr,
    source_ptr,
    place_ptr,
    each_ptr,
    ends_ptr,
    count,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Every program sums up the counts of all blocks: they are few, and nobody waits."""
    block, e = tl.program_id(0), tl.arange(0, EXPERTS)
    total = tl.zeros([EXPERTS], tl.int32)
    before = tl.zeros([EXPERTS], tl.int32)
    for done in range(0, tl.num_programs(0), CHUNK):
        b = done + tl.arange(0, CHUNK)
        inside = b[:, None] < tl.num_programs(0)
        counts = tl.load(counts_ptr + b[:, None] * EXPERTS + e[None, :], mask=inside, other=0)
        total += tl.sum(counts, 0)
        before += tl.sum(tl.where(b[:, None] < block, counts, 0), 0)
    blocks = (total + ROWS - 1) // ROWS
    first = (tl.cumsum(blocks, 0) - blocks) * ROWS
    if block == 0:
        tl.store(each_ptr + e, total, mask=e < E)
        tl.store(ends_ptr + e, first + blocks * ROWS, mask=e < E)
    n = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(expert_ptr + n, mask=n < count, other=-1).to(tl.int32)
    chosen = (expert[:, None] == e[None, :]).to(tl.int32)
    rank = tl.cumsum(chosen, 0) - 1 + (first + before)[None, :]
    place = tl.sum(chosen * rank, 1)
    tl.store(place_ptr + n, place, mask=n < count)
    tl.store(source_ptr + place, n, mask=n < count)


def number_rows(expert_TK: Tensor, experts: int) -> Rows:
    """expert_TK: int64 [T, K], contiguous."""
    count, device = expert_TK.numel(), expert_TK.device
    wide = max(16, power_of_2(experts))
    block = max(16, 16384 // wide)
    blocks = max(1, ceil_div(count, block))
    size = (ceil_div(count, BLOCK_ROWS) + experts) * BLOCK_ROWS
    lengths = experts, experts, size, blocks * wide, count
    numbers = torch.empty(sum(lengths), dtype=torch.int32, device=device)  # one allocation: each costs the host 10 us
    counts_E, ends_E, source_N, counts, place_TK = numbers.split(lengths)
    place_TK = place_TK.view_as(expert_TK)
    counting: Any = _count_kernel
    counting[(blocks,)](expert_TK, counts, source_N, count, size, EXPERTS=wide, BLOCK=block, num_warps=8)
    numbering: Any = _number_kernel
    sizes = {"E": experts, "EXPERTS": wide, "BLOCK": block, "CHUNK": max(16, 2048 // wide), "ROWS": BLOCK_ROWS}
    numbering[(blocks,)](expert_TK, counts, source_N, place_TK, counts_E, ends_E, count, **sizes, num_warps=8)
    return Rows(source_N, place_TK, counts_E, ends_E)


@launched
@triton.jit(do_not_specialize=["tokens"])
def _gather_kernel(
    x_ptr,
    place_ptr,
    counts_ptr,
    ends_ptr,
    out_ptr,
    tokens,
    X,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    FILLERS: tl.constexpr,
):
    """A program reads a token once for all its rows; the last ones fill the rows without a choice with zeros."""
    program, i = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if program < tokens:
        x = tl.load(x_ptr + program.to(tl.int64) * X + i, mask=i < X)
        for k in tl.static_range(K):
            row = tl.load(place_ptr + program * K + k).to(tl.int64)
            tl.store(out_ptr + row * X + i, x, mask=i < X)
    else:
        expert, filler = (program - tokens) // FILLERS, (program - tokens) % FILLERS
        end, count = tl.load(ends_ptr + expert), tl.load(counts_ptr + expert)
        empty = tl.cdiv(count, ROWS) * ROWS - count
        at = out_ptr + (end - empty).to(tl.int64) * X + i
        for n in range(filler, empty, FILLERS):
            tl.store(at + n * X, tl.zeros([BLOCK], out_ptr.dtype.element_ty), mask=i < X)


def gather(x_TX: Tensor, rows: Rows) -> Tensor:
    """The token of every row: [N, X]. Beyond the last block nothing is written."""
    (tokens, top_k), (experts,), width = rows.place_TK.shape, rows.counts_E.shape, x_TX.shape[1]
    out_NX = torch.empty(rows.source_N.shape[0], width, dtype=x_TX.dtype, device=x_TX.device)
    block = min(2048, power_of_2(width))
    kernel: Any = _gather_kernel
    grid = tokens + experts * _FILLERS, ceil_div(width, block)
    sizes = {"K": top_k, "ROWS": BLOCK_ROWS, "BLOCK": block, "FILLERS": _FILLERS}
    kernel[grid](x_TX, rows.place_TK, rows.counts_E, rows.ends_E, out_NX, tokens, width, **sizes)
    return out_NX


@launched
@triton.jit
def _sum_kernel(rows_ptr, place_ptr, out_ptr, X, K: tl.constexpr, BLOCK: tl.constexpr):
    token, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(K):
        place = tl.load(place_ptr + token * K + k).to(tl.int64)
        total += tl.load(rows_ptr + place * X + i, mask=i < X, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * X + i, total.to(out_ptr.dtype.element_ty), mask=i < X)


def sum_rows(rows_NX: Tensor, rows: Rows) -> Tensor:
    """The sum over each token's K rows: [T, X]."""
    (tokens, top_k), width = rows.place_TK.shape, rows_NX.shape[1]
    out_TX = torch.empty(tokens, width, dtype=rows_NX.dtype, device=rows_NX.device)
    block = min(2048, power_of_2(width))
    kernel: Any = _sum_kernel
    if tokens:
        kernel[(tokens, ceil_div(width, block))](rows_NX, rows.place_TK, out_TX, width, K=top_k, BLOCK=block)
    return out_TX
