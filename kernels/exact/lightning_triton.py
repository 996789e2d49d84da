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

from lightning_cispo.kernels.decoding.linear_triton import begin, launch
from lightning_cispo.kernels.launcher import launched

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


@launched
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
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """One token: its row of the tile that it lies in, whose keys and values so far the tail [H, 2, C, D] holds.

    Of the tile's rows only this one is computed, as the first of ROWS: what a tensor core takes. Rows at position 0 are
    idle: their output is 0.
    """
    row, head, block = tl.program_id(2).to(tl.int64), tl.program_id(1), tl.program_id(0)
    position = tl.load(position_ptr + row)
    own = (position % C).to(tl.int32)
    i, d = tl.arange(0, C), tl.arange(0, DIM)
    e = block * COLUMNS + tl.arange(0, COLUMNS)
    there, before = position > 0, (i < own)[:, None]
    state_at = state_ptr + (row * H + head) * D * D + d[:, None] * D + e[None, :]
    state_mask = (d[:, None] < D) & (e[None, :] < D) & there
    k_at = tail_ptr + (row * H + head) * 2 * C * D + i[:, None] * D + d[None, :]
    v_at = tail_ptr + ((row * H + head) * 2 + 1) * C * D + i[:, None] * D + e[None, :]
    # No other kernel of a step writes these: they wait for none.
    state = tl.load(state_at, mask=state_mask, other=0.0, eviction_policy="evict_first")
    k = tl.load(k_at, mask=before & (d < D)[None, :] & there, other=0.0)
    v = tl.load(v_at, mask=before & (e < D)[None, :] & there, other=0.0)
    begin(PDL)
    o_at, r = o_ptr + (row * H + head) * D + e, tl.arange(0, ROWS)
    if position <= 0:
        tl.store(o_at, tl.zeros([COLUMNS], o_ptr.dtype.element_ty), mask=e < D)
        return
    slope = tl.load(slopes_ptr + head).to(tl.float32)
    token = qkv_ptr + (row * H + head) * 3 * D
    new_q = _silu(tl.load(token + d, mask=d < D, other=0.0))
    new_k = _silu(tl.load(token + D + d, mask=d < D, other=0.0))
    new_v = _silu(tl.load(token + 2 * D + e, mask=e < D, other=0.0))
    mine = (i == own)[:, None]
    k, v = tl.where(mine, new_k[None, :], k), tl.where(mine, new_v[None, :], v)
    q = tl.where((r == 0)[:, None], new_q[None, :], tl.zeros([ROWS, DIM], new_q.dtype))
    # As in `_output`, for one of its rows.
    decay = tl.where(own >= i, tl.exp(-slope * tl.maximum(own - i, 0)), 0.0)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * decay[None, :]
    past = tl.dot(q, state.to(q.dtype), input_precision=PRECISION) * tl.exp(-slope * (own + 1))
    o = tl.dot(scores.to(v.dtype), v, past, input_precision=PRECISION)
    tl.store(o_at[None, :] + r[:, None] * 0, o.to(o_ptr.dtype.element_ty), mask=(r == 0)[:, None] & (e < D)[None, :])
    tl.store(tail_ptr + ((row * H + head) * 2 + 1) * C * D + own * D + e, new_v, mask=e < D)
    if block == 0:
        tl.store(tail_ptr + (row * H + head) * 2 * C * D + own * D + d, new_k, mask=d < D)
    if own == C - 1:
        tl.store(state_at, _advance(k, v, state, slope, C, PRECISION), mask=state_mask)


@triton.jit
def _tails_kernel(qkv_ptr, cu_ptr, tail_ptr, H: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, C: tl.constexpr):
    """Keys and values after a sequence's last whole tile."""
    sequence, head, which = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, last = tl.load(cu_ptr + sequence), tl.load(cu_ptr + sequence + 1)
    i, d = tl.arange(0, C), tl.arange(0, DIM)
    rows = last - (last - first) % C + i
    inside = (rows < last)[:, None] & (d < D)[None, :]
    x = tl.load(qkv_ptr + (rows[:, None] * H + head) * 3 * D + (1 + which) * D + d[None, :], mask=inside, other=0.0)
    at = tail_ptr + ((sequence.to(tl.int64) * H + head) * 2 + which) * C * D + i[:, None] * D + d[None, :]
    tl.store(at, _silu(x), mask=(d < D)[None, :] & (i >= 0)[:, None])


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
    qkv_BJ: Tensor,
    slopes_H: Tensor,
    position_B: Tensor,
    state_BHDD: Tensor,
    tail_BH2CD: Tensor,
    o_BHD: Tensor | None = None,
    pdl: bool = False,
) -> Tensor:
    """o [B, H, D] of the tokens at `position_B`; states (float32) and tails (after silu) are kept in place.

    qkv_BJ: contiguous. Rows at position 0 are idle. `o_BHD`: where the output goes, if somewhere.
    """
    batch, heads, dim = len(qkv_BJ), len(slopes_H), state_BHDD.shape[-1]
    if o_BHD is None:
        o_BHD = torch.empty(batch, heads, dim, dtype=qkv_BJ.dtype, device=qkv_BJ.device)
    sizes = _sizes(heads, dim, qkv_BJ.dtype)
    kernel: Any = _lightning_decode_kernel
    sizes["num_warps"] //= 2  # it holds a tile, but computes a row
    kernel[(triton.cdiv(dim, sizes["COLUMNS"]), heads, batch)](
        qkv_BJ, o_BHD, slopes_H, position_B, state_BHDD, tail_BH2CD, ROWS=16, PDL=pdl, **sizes, **launch(pdl)
    )
    return o_BHD


def tails_triton(qkv_TJ: Tensor, heads: int, cu_seqlens: Tensor) -> Tensor:
    """[S, H, keys and values, TILE, D]: silu of both after each sequence's last whole tile; then silu of zeros."""
    dim, sequences = qkv_TJ.shape[1] // (3 * heads), len(cu_seqlens) - 1
    tail = torch.empty(sequences, heads, 2, TILE, dim, dtype=qkv_TJ.dtype, device=qkv_TJ.device)
    kernel: Any = _tails_kernel
    kernel[(sequences, heads, 2)](
        qkv_TJ.contiguous(), cu_seqlens, tail, H=heads, D=dim, DIM=max(16, triton.next_power_of_2(dim)), C=TILE
    )
    return tail
