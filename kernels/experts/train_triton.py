"""Experts with gradient on Hopper GPUs: grouped GEMMs, and one pass over the rows between any two of them.

    rows = x[token]       joined = rows gate_up^T       h = weight * silu(gate) * up       y = sums of h down^T

The routing weight is multiplied into h: so its gradient needs no output of the experts, and sums are only sums. float32
master weights are cast once, and their gradients come out of the products as float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.experts.gemm_triton import product_kernel, weight_gradient_kernel
from kernels.experts.rows_triton import BLOCK_ROWS, Rows, gather, number_rows, sum_rows
from kernels.experts.swiglu_triton import swiglu, swiglu_backward

_PROGRAMS = 132  # one for each multiprocessor of an H100; each walks over tiles
_GROUP = 8  # tiles of rows that take turns under the same columns of a weight
_COLUMNS, _BK = 256, 64


class TrainedExperts(torch.autograd.Function):
    """`kernels.experts.moe.moe_experts` for bf16 rows; never waits for the device."""

    @staticmethod
    def forward(ctx, x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EJX: Tensor, down_EXI: Tensor):
        ctx.dtypes = gate_up_EJX.dtype, down_EXI.dtype
        gate_up_EJX, down_EXI = (w.to(x_TX.dtype).contiguous() for w in (gate_up_EJX, down_EXI))
        x_TX, weight_TK = x_TX.contiguous(), weight_TK.contiguous()
        rows = number_rows(expert_TK.contiguous(), len(down_EXI))
        rows_NX = gather(x_TX, rows)
        joined_NJ = product(rows_NX, gate_up_EJX, rows, transposed=True)
        hidden_NI = swiglu(joined_NJ, weight_TK, rows)
        out_NX = product(hidden_NI, down_EXI, rows, transposed=True)
        ctx.save_for_backward(rows_NX, joined_NJ, hidden_NI, weight_TK, gate_up_EJX, down_EXI, *rows)
        return sum_rows(out_NX, rows)

    @staticmethod
    def backward(ctx, dy_TX: Tensor):
        rows_NX, joined_NJ, hidden_NI, weight_TK, gate_up_EJX, down_EXI, *rest = ctx.saved_tensors
        rows = Rows(*rest)
        dout_NX = gather(dy_TX.contiguous(), rows)
        ddown_EXI = weight_gradient(dout_NX, hidden_NI, rows, ctx.dtypes[1])
        dhidden_NI = product(dout_NX, down_EXI, rows, transposed=False)
        djoined_NJ, dweight_TK = swiglu_backward(dhidden_NI, joined_NJ, weight_TK, rows)
        dgate_up_EJX = weight_gradient(djoined_NJ, rows_NX, rows, ctx.dtypes[0])
        dx_TX = sum_rows(product(djoined_NJ, gate_up_EJX, rows, transposed=False), rows)
        return dx_TX, None, dweight_TK, dgate_up_EJX, ddown_EXI


def product(a_NK: Tensor, b: Tensor, rows: Rows, transposed: bool) -> Tensor:
    """Every row times its expert's b, [E, M, K] if transposed, else [E, K, M]: [N, M]."""
    width, experts = b.shape[1] if transposed else b.shape[2], len(b)
    out = torch.empty(len(a_NK), width, dtype=a_NK.dtype, device=a_NK.device)
    a_desc = TensorDescriptor.from_tensor(a_NK, [BLOCK_ROWS, _BK])
    b_desc = TensorDescriptor.from_tensor(b, [1, _COLUMNS, _BK] if transposed else [1, _BK, _COLUMNS])
    tiles = len(rows.source_N) // BLOCK_ROWS * triton.cdiv(width, _COLUMNS)
    sizes = {"E": experts, "EXPERTS": max(16, triton.next_power_of_2(experts)), "GROUP": _GROUP}
    sizes |= {"BM": BLOCK_ROWS, "BN": _COLUMNS, "BK": _BK, "TRANSPOSED": transposed}
    kernel: Any = product_kernel
    given = a_desc, b_desc, out, rows.ends_E, a_NK.shape[1], width
    kernel[(min(_PROGRAMS, tiles),)](*given, **sizes, num_warps=8, num_stages=4)
    return out


def weight_gradient(p_NM: Tensor, q_NK: Tensor, rows: Rows, dtype: torch.dtype) -> Tensor:
    """p^T q over each expert's rows: [E, M, K] in `dtype`."""
    high, wide, experts = p_NM.shape[1], q_NK.shape[1], len(rows.counts_E)
    out = torch.empty(experts, high, wide, dtype=dtype, device=p_NM.device)
    p_desc = TensorDescriptor.from_tensor(p_NM, [_BK, BLOCK_ROWS])
    q_desc = TensorDescriptor.from_tensor(q_NK, [_BK, _COLUMNS])
    grid = triton.cdiv(high, BLOCK_ROWS) * triton.cdiv(wide, _COLUMNS), experts
    sizes = {"BM": BLOCK_ROWS, "BN": _COLUMNS, "BK": _BK, "GROUP": _GROUP, "ROWS": BLOCK_ROWS}
    kernel: Any = weight_gradient_kernel
    kernel[grid](p_desc, q_desc, out, rows.ends_E, rows.counts_E, high, wide, **sizes, num_warps=8, num_stages=3)
    return out
