"""The device side of the experts' grouped GEMMs.

Rows are numbered as `kernels.experts.rows_triton` does: a tile of rows has one expert, and what it holds beyond that
expert's rows is zero, so that TMA moves whole tiles. A fixed number of programs shares out the tiles that there are.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(pid, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Neighbours share an expert's weights and rows: GROUP tiles of rows under all columns."""
    first = pid // (GROUP * tiles_n) * GROUP
    size = tl.minimum(tiles_m - first, GROUP)
    within = pid % (GROUP * tiles_n)
    return first + within % size, within // size


@triton.jit
def _expert(ends_ptr, row, E: tl.constexpr, EXPERTS: tl.constexpr):
    e = tl.arange(0, EXPERTS)
    ends = tl.load(ends_ptr + e, mask=e < E, other=2147483647)
    return tl.sum((ends <= row).to(tl.int32), 0)


@triton.jit
def product_kernel(
    a_desc,
    b_desc,
    out_ptr,
    ends_ptr,
    K,
    N,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """out [rows, N] = a [rows, K] times each expert's b: [E, N, K] if TRANSPOSED, else [E, K, N]."""
    tiles_n = tl.cdiv(N, BN)
    tiles_m = tl.load(ends_ptr + E - 1) // BM
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        m, n = _tile(tile, tiles_m, tiles_n, GROUP)
        row = m * BM
        expert = _expert(ends_ptr, row, E, EXPERTS)
        acc = tl.zeros([BM, BN], tl.float32)
        for k in range(0, K, BK):
            a = a_desc.load([row, k])
            if TRANSPOSED:
                b = b_desc.load([expert, n * BN, k]).reshape(BN, BK).T
            else:
                b = b_desc.load([expert, k, n * BN]).reshape(BK, BN)
            acc = tl.dot(a, b, acc)
        at = (row + tl.arange(0, BM)).to(tl.int64)[:, None] * N
        i = n * BN + tl.arange(0, BN)
        tl.store(out_ptr + at + i[None, :], acc.to(out_ptr.dtype.element_ty), mask=i[None, :] < N)


@triton.jit
def weight_gradient_kernel(
    p_desc,
    q_desc,
    out_ptr,
    ends_ptr,
    counts_ptr,
    M,
    N,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
):
    """out [E, M, N] = p^T q over each expert's rows; p [rows, M], q [rows, N]."""
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    expert, pid = tl.program_id(1), tl.program_id(0)
    m, n = _tile(pid, tiles_m, tiles_n, GROUP)
    count = tl.load(counts_ptr + expert)
    first = tl.load(ends_ptr + expert) - tl.cdiv(count, ROWS) * ROWS
    acc = tl.zeros([BM, BN], tl.float32)
    for row in range(first, first + count, BK):
        p = p_desc.load([row, m * BM])
        q = q_desc.load([row, n * BN])
        acc = tl.dot(p.T, q, acc)
    at = expert.to(tl.int64) * M * N + (m * BM + tl.arange(0, BM))[:, None] * N + n * BN + tl.arange(0, BN)[None, :]
    inside = ((m * BM + tl.arange(0, BM))[:, None] < M) & ((n * BN + tl.arange(0, BN))[None, :] < N)
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=inside)
