"""The device side of the experts' grouped GEMMs.

Rows are numbered as `kernels.experts.rows_triton` does: a tile of rows has one expert, and what it holds beyond that
expert's rows is zero, so that TMA moves whole tiles. A fixed number of programs shares out the tiles that there are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_cispo.kernels.launcher import launched


@triton.jit
def tile_of(pid, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Neighbours share an expert's weights and rows: GROUP tiles of rows under all columns."""
    first = pid // (GROUP * tiles_n) * GROUP
    size = tl.minimum(tiles_m - first, GROUP)
    within = pid % (GROUP * tiles_n)
    return first + within % size, within // size


@triton.jit
def expert_of(ends_ptr, row, E: tl.constexpr, EXPERTS: tl.constexpr):
    e = tl.arange(0, EXPERTS)
    ends = tl.load(ends_ptr + e, mask=e < E, other=2147483647)
    return tl.sum((ends <= row).to(tl.int32), 0)


@triton.jit
def _store(out_desc, matrix, row, column, tile, PARTS: tl.constexpr):
    """A tile into matrix `matrix` of out, PARTS columns of it at a time: so little shared memory is left.

    The tensor memory accelerator writes while the next tile is multiplied, and leaves out what lies beyond the matrix.
    """
    BM: tl.constexpr = tile.shape[0]
    WIDE: tl.constexpr = tile.shape[1] // 2
    left, right = tl.split(tl.permute(tl.reshape(tile, (BM, 2, WIDE)), (0, 2, 1)))
    if PARTS == 2:
        out_desc.store([matrix, row, column], tl.reshape(left, (1, BM, WIDE)).to(out_desc.dtype))
        out_desc.store([matrix, row, column + WIDE], tl.reshape(right, (1, BM, WIDE)).to(out_desc.dtype))
    else:
        _store(out_desc, matrix, row, column, left, PARTS // 2)
        _store(out_desc, matrix, row, column + WIDE, right, PARTS // 2)


@launched
@triton.jit
def product_kernel(
    a_desc,
    b_desc,
    out_desc,
    ends_ptr,
    K,
    N,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """out [1, rows, N] = a [rows, K] times each expert's b: [E, N, K] if TRANSPOSED, else [E, K, N]."""
    tiles_n = tl.cdiv(N, BN)
    tiles_m = tl.load(ends_ptr + E - 1) // BM
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        m, n = tile_of(tile, tiles_m, tiles_n, GROUP)
        row = m * BM
        expert = expert_of(ends_ptr, row, E, EXPERTS)
        acc = tl.zeros([BM, BN], tl.float32)
        for k in range(0, K, BK):
            a = a_desc.load([row, k])
            if TRANSPOSED:
                b = b_desc.load([expert, n * BN, k]).reshape(BN, BK).T
            else:
                b = b_desc.load([expert, k, n * BN]).reshape(BK, BN)
            acc = tl.dot(a, b, acc)
        _store(out_desc, 0, row, n * BN, acc, PARTS)


@launched
@triton.jit
def weight_gradient_kernel(
    p_desc,
    q_desc,
    out_desc,
    ends_ptr,
    counts_ptr,
    M,
    N,
    E: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    MOST: tl.constexpr,
):
    """out [E, M, N] = p^T q over each expert's rows; p [rows, M], q [rows, N]. MOST: tiles a program has at most.

    One loop over the steps of all tiles, so that the next tile's rows are on their way while this one is stored: what
    `flatten` would make of two loops if experts had equally many rows. Its two conditions must not share a counter, or
    Triton does not pipeline it.
    """
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    each = tiles_m * tiles_n
    mine = tl.program_id(0) + tl.arange(0, MOST) * tl.num_programs(0)
    counts = tl.load(counts_ptr + mine // each, mask=mine < each * E, other=0)
    steps = tl.sum(tl.where(mine < each * E, tl.maximum(tl.cdiv(counts, BK), 1), 0), 0)
    tile = tl.program_id(0) - tl.num_programs(0)
    step, last, first, expert, m, n = -1, -1, 0, 0, 0, 0
    acc = tl.zeros([BM, BN], tl.float32)
    for _ in range(steps):
        step = tl.where(step == last, 0, step + 1)
        if step == 0:
            tile += tl.num_programs(0)
            expert = tile // each
            m, n = tile_of(tile % each, tiles_m, tiles_n, GROUP)
            count = tl.load(counts_ptr + expert)
            last = tl.maximum(tl.cdiv(count, BK), 1) - 1
            first = tl.load(ends_ptr + expert) - tl.cdiv(count, ROWS) * ROWS
            first = tl.where(count > 0, first, 1 << 30)  # beyond all rows, where zeros are read
        p = p_desc.load([first + step * BK, m * BM])
        q = q_desc.load([first + step * BK, n * BN])
        acc = tl.dot(p.T, q, acc)
        if step == last:
            _store(out_desc, expert, m * BM, n * BN, acc, PARTS)
            acc = tl.zeros([BM, BN], tl.float32)
