"""Lightning attention whose output for a token is the same, to the bit, in a packed row and decoded alone.

Both sides run one tile after the other from a sequence's start, each of 64 tokens, with the same shapes and in the same
order. Decoding fills the tile that its token lies in as far as it is known, and computes the one row; rows of a tile do
not depend on each other, and what lies in a row's future counts for exactly nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64


@triton.jit
def _output(q, k, v, state, slope, C: tl.constexpr, PRECISION: tl.constexpr):
    """o of a tile of tokens from the state before it: [C, columns] float32."""
    i = tl.arange(0, C)
    distance = tl.maximum(i[:, None] - i[None, :], 0)
    decay = tl.where(i[:, None] >= i[None, :], tl.exp(-slope * distance), 0.0)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * decay
    before = tl.dot(q, state.to(q.dtype), input_precision=PRECISION) * tl.exp(-slope * (i + 1))[:, None]
    return tl.dot(scores.to(v.dtype), v, before, input_precision=PRECISION)


@triton.jit
def _advance(k, v, state, slope, C: tl.constexpr, PRECISION: tl.constexpr):
    """The state after a whole tile."""
    i = tl.arange(0, C)
    decayed = (k.to(tl.float32) * tl.exp(-slope * (C - 1 - i))[:, None]).to(k.dtype)
    return tl.dot(tl.trans(decayed), v, state * tl.exp(-slope * C), input_precision=PRECISION)


@triton.jit
def _silu(x):
    wide = x.to(tl.float32)
    return (wide * tl.sigmoid(wide)).to(x.dtype)


@triton.jit
def _lightning_kernel(
    qkv_ptr,
    o_ptr,
    slopes_ptr,
    cu_ptr,
    entering_ptr,
    leaving_ptr,
    H: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    C: tl.constexpr,
    ENTERING: tl.constexpr,
    LEAVING: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A block of value columns of one head along a sequence; leaves the state after its last whole tile."""
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, last = tl.load(cu_ptr + sequence), tl.load(cu_ptr + sequence + 1)
    slope = tl.load(slopes_ptr + head).to(tl.float32)
    i, d = tl.arange(0, C), tl.arange(0, DIM)
    e = block * COLUMNS + tl.arange(0, COLUMNS)
    state_at = (sequence.to(tl.int64) * H + head) * D * D + d[:, None] * D + e[None, :]
    state_mask = (d[:, None] < D) & (e[None, :] < D)
    state = tl.zeros([DIM, COLUMNS], tl.float32)
    if ENTERING:
        state = tl.load(entering_ptr + state_at, mask=state_mask, other=0.0)
    for start in range(first, last, C):
        rows = (start + i).to(tl.int64)
        at = qkv_ptr + (rows[:, None] * H + head) * 3 * D
        wide = (rows < last)[:, None] & (d[None, :] < D)
        narrow = (rows < last)[:, None] & (e[None, :] < D)
        q = _silu(tl.load(at + d[None, :], mask=wide, other=0.0))
        k = _silu(tl.load(at + D + d[None, :], mask=wide, other=0.0))
        v = _silu(tl.load(at + 2 * D + e[None, :], mask=narrow, other=0.0))
        o = _output(q, k, v, state, slope, C, PRECISION)
        tl.store(o_ptr + (rows[:, None] * H + head) * D + e[None, :], o.to(o_ptr.dtype.element_ty), mask=narrow)
        if start + C <= last:
            state = _advance(k, v, state, slope, C, PRECISION)
    if LEAVING:
        tl.store(leaving_ptr + state_at, state, mask=state_mask)


@triton.jit
def _lightning_decode_kernel(
    qkv_ptr,
    o_ptr,
    slopes_ptr,
    position_ptr,
    state_ptr,
    tail_ptr,
    H: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One token: its row of the tile that it lies in, whose keys and values so far the tail [C, H, 2, D] holds."""
    row, head, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    own = (tl.load(position_ptr + row) % C).to(tl.int32)
    slope = tl.load(slopes_ptr + head).to(tl.float32)
    i, d = tl.arange(0, C), tl.arange(0, DIM)
    e = block * COLUMNS + tl.arange(0, COLUMNS)
    state_at = state_ptr + (row * H + head) * D * D + d[:, None] * D + e[None, :]
    state_mask = (d[:, None] < D) & (e[None, :] < D)
    state = tl.load(state_at, mask=state_mask, other=0.0)
    token = qkv_ptr + (row * H + head) * 3 * D
    new_q = tl.load(token + d, mask=d < D, other=0.0)
    new_k = tl.load(token + D + d, mask=d < D, other=0.0)
    new_v = tl.load(token + 2 * D + e, mask=e < D, other=0.0)
    k_at = tail_ptr + ((row * C + i[:, None]) * H + head) * 2 * D + d[None, :]
    v_at = tail_ptr + ((row * C + i[:, None]) * H + head) * 2 * D + D + e[None, :]
    raw_k = tl.load(k_at, mask=(i < own)[:, None] & (d < D)[None, :], other=0.0)
    raw_v = tl.load(v_at, mask=(i < own)[:, None] & (e < D)[None, :], other=0.0)
    mine = (i == own)[:, None]
    raw_k, raw_v = tl.where(mine, new_k[None, :], raw_k), tl.where(mine, new_v[None, :], raw_v)
    q = _silu(tl.where(mine, new_q[None, :], tl.zeros([C, DIM], new_q.dtype)))
    k, v = _silu(raw_k), _silu(raw_v)
    o = _output(q, k, v, state, slope, C, PRECISION)
    o_at = o_ptr + (row * H + head) * D + e[None, :] + i[:, None] * 0
    tl.store(o_at, o.to(o_ptr.dtype.element_ty), mask=mine & (e < D)[None, :])
    tl.store(v_at, raw_v, mask=mine & (e < D)[None, :])
    if block == 0:
        tl.store(k_at, raw_k, mask=mine & (d < D)[None, :])
    if own == C - 1:
        tl.store(state_at, _advance(k, v, state, slope, C, PRECISION), mask=state_mask)


def _sizes(heads: int, dim: int, dtype: torch.dtype) -> dict[str, Any]:
    padded = max(16, triton.next_power_of_2(dim))
    return {
        "H": heads,
        "D": dim,
        "DIM": padded,
        "COLUMNS": padded if padded <= 64 else 32,  # what the registers hold
        "C": TILE,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "num_warps": 4 if padded <= 64 else 8,
        "num_stages": 2,
    }


def lightning_triton(
    qkv_TJ: Tensor, slopes_H: Tensor, cu_seqlens: Tensor, entering: Tensor | None, final: bool
) -> tuple[Tensor, Tensor | None]:
    """Lightning attention of silu(qkv), rows [T, H * 3 D] with q, k and v of one head after the other.

    Returns o [T, H, D] and, if asked for, the states [S, H, D, D] after each sequence's last whole tile.
    """
    tokens, heads = len(qkv_TJ), len(slopes_H)
    dim, sequences = qkv_TJ.shape[1] // (3 * heads), len(cu_seqlens) - 1
    o_THD = torch.empty(tokens, heads, dim, dtype=qkv_TJ.dtype, device=qkv_TJ.device)
    after = torch.empty(sequences, heads, dim, dim, device=qkv_TJ.device) if final else None
    sizes = _sizes(heads, dim, qkv_TJ.dtype)
    kernel: Any = _lightning_kernel
    kernel[(sequences, heads, triton.cdiv(dim, sizes["COLUMNS"]))](
        qkv_TJ.contiguous(),
        o_THD,
        slopes_H,
        cu_seqlens,
        entering if entering is not None else qkv_TJ,
        after if after is not None else qkv_TJ,
        ENTERING=entering is not None,
        LEAVING=final,
        **sizes,
    )
    return o_THD, after


def lightning_decode_triton(
    qkv_BJ: Tensor, slopes_H: Tensor, position_B: Tensor, state_BHDD: Tensor, tail_BCH2D: Tensor
) -> Tensor:
    """o [B, H, D] of the tokens at `position_B`; states (float32) and tails (before silu) are kept in place."""
    batch, heads, dim = len(qkv_BJ), len(slopes_H), state_BHDD.shape[-1]
    o_BHD = torch.empty(batch, heads, dim, dtype=qkv_BJ.dtype, device=qkv_BJ.device)
    sizes = _sizes(heads, dim, qkv_BJ.dtype)
    kernel: Any = _lightning_decode_kernel
    kernel[(batch, heads, triton.cdiv(dim, sizes["COLUMNS"]))](
        qkv_BJ.contiguous(), o_BHD, slopes_H, position_B, state_BHDD, tail_BCH2D, **sizes
    )
    return o_BHD
