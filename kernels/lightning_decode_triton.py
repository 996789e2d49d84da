"""Lightning decode in Triton: each state is read once, updated, used and written once."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 32  # of a state that one program holds


@triton.jit
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    slopes_ptr,
    state_ptr,
    o_ptr,
    row_stride,
    head_stride,
    H: tl.constexpr,
    D: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One block of value columns of one head of one sequence."""
    row, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d = tl.arange(0, DIM_PADDED)
    e = block * COLUMNS + tl.arange(0, COLUMNS)
    decay = tl.exp(-tl.load(slopes_ptr + head).to(tl.float32))
    at = row * row_stride + head * head_stride
    q = tl.load(q_ptr + at + d, mask=d < D, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + at + d, mask=d < D, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + at + e, mask=e < D, other=0.0).to(tl.float32)
    state_at = state_ptr + (row.to(tl.int64) * H + head) * D * D + d[:, None] * D + e[None, :]
    inside = (d[:, None] < D) & (e[None, :] < D)
    state = tl.load(state_at, mask=inside, other=0.0) * decay + k[:, None] * v[None, :]
    tl.store(state_at, state, mask=inside)
    o = tl.sum(q[:, None] * state, 0)
    tl.store(o_ptr + (row * H + head) * D + e, o.to(o_ptr.dtype.element_ty), mask=e < D)


def lightning_decode_triton(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_BHDD: Tensor
) -> Tensor:
    """As `kernels.lightning.lightning_decode`. Raises ValueError unless q, k and v have like strides, the last 1."""
    batch, heads, dim = q_BHD.shape
    if not q_BHD.stride() == k_BHD.stride() == v_BHD.stride() or q_BHD.stride(2) != 1:
        raise ValueError(f"strides {q_BHD.stride()}, {k_BHD.stride()}, {v_BHD.stride()}: must agree and end in 1")
    o_BHD = torch.empty(batch, heads, dim, dtype=q_BHD.dtype, device=q_BHD.device)
    kernel: Any = _decode_kernel
    kernel[(batch, heads, triton.cdiv(dim, _COLUMNS))](
        q_BHD,
        k_BHD,
        v_BHD,
        slopes_H,
        state_BHDD,
        o_BHD,
        q_BHD.stride(0),
        q_BHD.stride(1),
        H=heads,
        D=dim,
        DIM_PADDED=triton.next_power_of_2(dim),
        COLUMNS=_COLUMNS,
    )
    return o_BHD
