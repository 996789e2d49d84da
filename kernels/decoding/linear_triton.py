"""Matrix products of a decoding step in Triton: few rows, so that streaming the weights is all the time there is.

Weights are the left operand ([outputs, inputs] as they lie in memory), rows the right one: a tile of 64 outputs fills a
warp group's product whatever the number of rows. An output is one sum over ascending inputs, in tiles that don't depend
on the batch: a row's result is the same bits whoever shares its batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Tiles(NamedTuple):
    """Outputs, inputs and rows of one tile, and how it is run."""

    outputs: int = 64
    inputs: int = 128
    rows: int = 16
    warps: int = 4
    stages: int = 4


@triton.jit
def begin(PDL: tl.constexpr):
    """Let the next kernel be launched while this one runs, and wait for what the former ones wrote.

    Waiting is for the whole of the kernel before, which has itself waited: all of a chain's earlier writes are there.
    What a kernel may touch before is what no kernel of the chain writes: weights, positions, and its own layer's state.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def fetch_ahead(rows_at, BYTES: tl.constexpr, LINES: tl.constexpr):
    """Have the first LINES lines of 128 bytes at each pointer brought to the cache: weights wait for no kernel."""
    if LINES > 0:
        line = tl.arange(0, LINES) * (128 // BYTES)
        asm: tl.constexpr = "prefetch.global.L2 [$1]; // $0"
        tl.inline_asm_elementwise(asm, "=r,l", [rows_at[:, None] + line[None, :]], tl.int32, is_pure=False, pack=1)


@triton.jit(do_not_specialize=["rows"])
def _linear_kernel(
    x_ptr,
    first_ptr,
    second_ptr,
    third_ptr,
    out_ptr,
    rows,
    N0: tl.constexpr,
    N1: tl.constexpr,
    N2: tl.constexpr,
    K: tl.constexpr,
    SPLIT: tl.constexpr,
    GATED: tl.constexpr,
    APART: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """One tile of outputs of up to three weights side by side, over one share of the inputs.

    GATED: silu on what the first weight gives, sigmoid on the second's. APART: one weight's outputs after the other's.
    """
    tile, share = tl.program_id(1), tl.program_id(2)
    weight_ptr, size, start, column = first_ptr, N0, tile * BN, 0
    if tile >= tl.cdiv(N0, BN):
        weight_ptr, size, start, column = second_ptr, N1, (tile - tl.cdiv(N0, BN)) * BN, N0
    if N2 > 0:
        if tile >= tl.cdiv(N0, BN) + tl.cdiv(N1, BN):
            weight_ptr, size, column = third_ptr, N2, N0 + N1
            start = (tile - tl.cdiv(N0, BN) - tl.cdiv(N1, BN)) * BN
    n, r, k = start + tl.arange(0, BN), tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, BK)
    first = share * SPLIT
    # Rows and outputs beyond the last read the last one: only what is stored is masked.
    w_at = weight_ptr + tl.minimum(n, size - 1)[:, None] * K + first + k[None, :]
    x_at = x_ptr + tl.minimum(r, rows - 1)[:, None] * K + first + k[None, :]
    if tl.program_id(0) == 0:
        fetch_ahead(weight_ptr + tl.minimum(n, size - 1) * K + first, 2, AHEAD)
    begin(PDL)
    acc = tl.zeros([BN, BR], tl.float32)
    for done in range(0, SPLIT, BK):
        if K % SPLIT == 0 and SPLIT % BK == 0:
            w, x = tl.load(w_at + done), tl.load(x_at + done)
        else:
            inside = (first + done + k < K) & (done + k < SPLIT)
            w = tl.load(w_at + done, mask=inside[None, :], other=0.0)
            x = tl.load(x_at + done, mask=inside[None, :], other=0.0)
        acc = tl.dot(w, tl.trans(x), acc, input_precision="ieee")
    if GATED:
        acc = tl.sigmoid(acc) * tl.where(column > 0, 1.0, acc)
    total: tl.constexpr = N0 + N1 + N2
    if APART:
        out_at = out_ptr + column * rows + r[None, :].to(tl.int64) * size + n[:, None]
    else:
        out_at = out_ptr + (share * rows + r)[None, :].to(tl.int64) * total + (column + n)[:, None]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=(n < size)[:, None] & (r < rows)[None, :])


def decode_linear(
    x_BK: Tensor, weights: tuple[Tensor, ...], out: Tensor, gated: bool, tiles: Tiles, pdl: bool = False
) -> None:
    """Products with up to three weights [N, K] of x's dtype.

    out: [B, sum of N], side by side; [S, B, N] for S shares of the inputs, to be summed by the reader; or flat, for
        one [B, N] after the other.
    gated: silu of the first weight's products, sigmoid of the second's.
    """
    rows, inputs = x_BK.shape
    shares = len(out) if out.dim() == 3 else 1
    sizes = [len(weight) for weight in weights] + [0] * (3 - len(weights))
    padded = [*weights, *[weights[0]] * (3 - len(weights))]
    grid = (triton.cdiv(rows, tiles.rows), sum(triton.cdiv(size, tiles.outputs) for size in sizes), shares)
    kernel: Any = _linear_kernel
    kernel[grid](
        x_BK,
        *padded,
        out,
        rows,
        *sizes,
        K=inputs,
        SPLIT=triton.cdiv(triton.cdiv(inputs, shares), 16) * 16,
        GATED=gated,
        APART=out.dim() == 1,
        BN=tiles.outputs,
        BK=tiles.inputs,
        BR=tiles.rows,
        AHEAD=lines(weights[0], triton.cdiv(inputs, shares), 16),
        PDL=pdl,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **launch(pdl),
    )


def lines(weight: Tensor, inputs: int, most: int) -> int:
    """Lines of 128 bytes to fetch ahead of a row of so many inputs: a power of two within it; 0 in the interpreter."""
    whole = inputs * weight.element_size() // 128
    return min(most, 1 << whole.bit_length() - 1) if whole and weight.is_cuda else 0


def launch(pdl: bool) -> dict[str, bool]:
    """Options of a launch that may begin before the one before it has ended; the interpreter knows none."""
    return {"launch_pdl": True} if pdl else {}
