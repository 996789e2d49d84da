"""Lightning decode in Triton: each state is read once, updated, used and written once."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.linear_triton import begin, launch


@triton.jit
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    gate_ptr,
    norm_ptr,
    slopes_ptr,
    slot_ptr,
    state_ptr,
    o_ptr,
    squares_ptr,
    row_stride,
    head_stride,
    H: tl.constexpr,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    GATED: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
    PDL: tl.constexpr,
):
    """One block of value columns of one head of one sequence.

    SLOTS: 0: row i's state is the i-th; 1: that of slot_ptr; 2: the i-th, but where slot_ptr holds 0 (a position).
    GATED: the output times gate and norm weight, and the sum of its squares before that.
    """
    block, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d, e = tl.arange(0, DIM_PADDED), block * COLUMNS + tl.arange(0, COLUMNS)
    out_at = o_ptr + (row * H + head) * D + e
    inside = (d[:, None] < D) & (e[None, :] < D)
    slot = row.to(tl.int64)
    if SLOTS == 1:
        slot = tl.load(slot_ptr + row).to(tl.int64)
    elif SLOTS == 2:
        slot = tl.where(tl.load(slot_ptr + row) > 0, slot, -1)
    state_at = state_ptr + (tl.maximum(slot, 0) * H + head) * D * D + d[:, None] * D + e[None, :]
    # Every byte of a state is used once: it need not stay in the cache. No kernel of the step has written it yet.
    state = tl.load(state_at, mask=inside & (slot >= 0), other=0.0, eviction_policy="evict_first")
    begin(PDL)
    if slot < 0:
        tl.store(out_at, tl.zeros([COLUMNS], o_ptr.dtype.element_ty), mask=e < D)
        if GATED:
            tl.store(squares_ptr + (row * H + head) * tl.num_programs(0) + block, 0.0)
        return
    decay = tl.exp(-tl.load(slopes_ptr + head).to(tl.float32))
    at = row.to(tl.int64) * row_stride + head * head_stride
    q = tl.load(q_ptr + at + d, mask=d < D, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + at + d, mask=d < D, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + at + e, mask=e < D, other=0.0).to(tl.float32)
    state = state * decay + k[:, None] * v[None, :]
    tl.store(state_at, state, mask=inside, eviction_policy="evict_first")
    o = tl.sum(q[:, None] * state, 0)
    if GATED:
        tl.store(squares_ptr + (row * H + head) * tl.num_programs(0) + block, tl.sum(o * o, 0))
        gate = tl.load(gate_ptr + row.to(tl.int64) * row_stride + head * D + e, mask=e < D, other=0.0)
        o *= gate * tl.load(norm_ptr + head * D + e, mask=e < D, other=0.0).to(tl.float32)
    tl.store(out_at, o.to(o_ptr.dtype.element_ty), mask=e < D)


def columns_of(dim: int) -> int:
    """Value columns of a state that one program holds: 32 KiB of it where the head is that wide."""
    return min(triton.next_power_of_2(dim), 64)


def _warps(dim: int) -> int:
    return 4


def lightning_decode_triton(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_SHDD: Tensor, slots_B: Tensor | None = None
) -> Tensor:
    """As `kernels.lightning.lightning_decode`. Raises ValueError unless q, k and v have like strides, the last 1."""
    batch, heads, dim = q_BHD.shape
    if not q_BHD.stride() == k_BHD.stride() == v_BHD.stride() or q_BHD.stride(2) != 1:
        raise ValueError(f"strides {q_BHD.stride()}, {k_BHD.stride()}, {v_BHD.stride()}: must agree and end in 1")
    o_BHD = torch.empty(batch, heads, dim, dtype=q_BHD.dtype, device=q_BHD.device)
    kernel: Any = _decode_kernel
    kernel[(triton.cdiv(dim, columns_of(dim)), heads, batch)](
        q_BHD,
        k_BHD,
        v_BHD,
        q_BHD,
        q_BHD,
        slopes_H,
        q_BHD if slots_B is None else slots_B,
        state_SHDD,
        o_BHD,
        o_BHD,
        q_BHD.stride(0),
        q_BHD.stride(1),
        H=heads,
        D=dim,
        SLOTS=int(slots_B is not None),
        GATED=False,
        DIM_PADDED=triton.next_power_of_2(dim),
        COLUMNS=columns_of(dim),
        PDL=False,
        num_warps=_warps(dim),
    )
    return o_BHD


def gated_lightning_decode(
    joined_BJ: Tensor,
    norm_W: Tensor,
    slopes_H: Tensor,
    position_B: Tensor,
    state_BHDD: Tensor,
    o_BW: Tensor,
    squares_BP: Tensor,
    pdl: bool = False,
) -> None:
    """One token a sequence, up to the norm over all heads, whose scale is left to the reader.

    Args:
        joined_BJ: float32 [B, 4 H D]: q, k and v of each head side by side, then the gates of all.
        norm_W: [H D]; slopes_H: [H]; position_B: int64, 0 for rows that are idle (state untouched, output 0).
        state_BHDD: float32 [B, H, D, D], updated in place.
        o_BW: [B, H D], written: output times gate times norm weight; squares_BP: float32 [B, H * blocks], written: sums
            of the output's squares.
    """
    batch, heads, dim, _ = state_BHDD.shape
    batch = len(joined_BJ)
    kernel: Any = _decode_kernel
    kernel[(triton.cdiv(dim, columns_of(dim)), heads, batch)](
        joined_BJ,
        joined_BJ[:, dim:],
        joined_BJ[:, 2 * dim :],
        joined_BJ[:, 3 * heads * dim :],
        norm_W,
        slopes_H,
        position_B,
        state_BHDD,
        o_BW,
        squares_BP,
        joined_BJ.stride(0),
        3 * dim,
        H=heads,
        D=dim,
        SLOTS=2,
        GATED=True,
        DIM_PADDED=triton.next_power_of_2(dim),
        COLUMNS=columns_of(dim),
        PDL=pdl,
        num_warps=_warps(dim),
        **launch(pdl),
    )
