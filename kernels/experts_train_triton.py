"""Experts with gradient on CUDA: grouped GEMMs, and as few passes over the rows between them as there can be.

    rows = x[token]       joined = rows gate_up^T       h = weight * silu(gate) * up       y = sums of h down^T

h is formed where gate and up are still in registers, joined's gradient where h's is. The routing weight is multiplied
into h: so its gradient needs no output of the experts, and sums are only sums. float32 master weights are cast once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.experts_gemm_triton import product_kernel, swiglu_backward_kernel, swiglu_kernel, weight_gradient_kernel
from kernels.experts_rows_triton import BLOCK_ROWS, Rows, gather, number_rows, sum_rows

_PROGRAMS = 132  # one for each multiprocessor of an H100; each walks over tiles
_GROUP = 8  # tiles of rows that take turns under the same columns of a weight
_BK = 64


class TrainedExperts(torch.autograd.Function):
    """`kernels.experts.moe_experts` for bf16 rows; never waits for the device."""

    @staticmethod
    def forward(ctx, x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EJX: Tensor, down_EXI: Tensor):
        ctx.dtypes = gate_up_EJX.dtype, down_EXI.dtype
        gate_up_EJX, down_EXI = (w.to(x_TX.dtype).contiguous() for w in (gate_up_EJX, down_EXI))
        x_TX, weight_TK = x_TX.contiguous(), weight_TK.contiguous()
        rows = number_rows(expert_TK.contiguous(), len(down_EXI))
        rows_NX = gather(x_TX, rows)
        joined_NJ, hidden_NI = swiglu(rows_NX, gate_up_EJX, weight_TK, rows)
        out_NX = product(hidden_NI, down_EXI, rows, transposed=True)
        ctx.save_for_backward(rows_NX, joined_NJ, hidden_NI, weight_TK, gate_up_EJX, down_EXI, *rows)
        return sum_rows(out_NX, rows)

    @staticmethod
    def backward(ctx, dy_TX: Tensor):
        rows_NX, joined_NJ, hidden_NI, weight_TK, gate_up_EJX, down_EXI, *rest = ctx.saved_tensors
        rows = Rows(*rest)
        dout_NX = gather(dy_TX.contiguous(), rows)
        ddown_EXI = weight_gradient(dout_NX, hidden_NI, rows, ctx.dtypes[1])
        djoined_NJ, dweight_TK = swiglu_backward(dout_NX, down_EXI, joined_NJ, weight_TK, rows)
        dgate_up_EJX = weight_gradient(djoined_NJ, rows_NX, rows, ctx.dtypes[0])
        dx_TX = sum_rows(product(djoined_NJ, gate_up_EJX, rows, transposed=False), rows)
        return dx_TX, None, dweight_TK, dgate_up_EJX, ddown_EXI


def product(a_NK: Tensor, b: Tensor, rows: Rows, transposed: bool) -> Tensor:
    """Every row times its expert's b, [E, M, K] if transposed, else [E, K, M]: [N, M]."""
    width = b.shape[1] if transposed else b.shape[2]
    out = torch.empty(len(a_NK), width, dtype=a_NK.dtype, device=a_NK.device)
    sizes = _tiling(rows, columns=256)
    given = _rows_of(a_NK), _weights_of(b, 256, transposed), out, rows.ends_E, a_NK.shape[1], width
    kernel: Any = product_kernel
    kernel[_grid(rows, width, 256)](*given, TRANSPOSED=transposed, **sizes)
    return out


def swiglu(rows_NX: Tensor, gate_up_EJX: Tensor, weight_TK: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """joined [N, 2 I], gate first, and weight * silu(gate) * up [N, I]."""
    inner, width = gate_up_EJX.shape[1] // 2, rows_NX.shape[1]
    joined_NJ = torch.empty(len(rows_NX), 2 * inner, dtype=rows_NX.dtype, device=rows_NX.device)
    hidden_NI = torch.empty(len(rows_NX), inner, dtype=rows_NX.dtype, device=rows_NX.device)
    given = _rows_of(rows_NX), _weights_of(gate_up_EJX, 128, True), rows.source_N, weight_TK, joined_NJ, hidden_NI
    kernel: Any = swiglu_kernel
    kernel[_grid(rows, inner, 128)](*given, rows.ends_E, width, inner, **_tiling(rows, columns=128))
    return joined_NJ, hidden_NI


def swiglu_backward(
    dout_NX: Tensor, down_EXI: Tensor, joined_NJ: Tensor, weight_TK: Tensor, rows: Rows
) -> tuple[Tensor, Tensor]:
    """Gradients of joined [N, 2 I] and of the weights [T, K]."""
    count, width = dout_NX.shape
    inner = down_EXI.shape[2]
    djoined_NJ = torch.empty_like(joined_NJ)
    parts = torch.empty(triton.cdiv(inner, 128), count, dtype=torch.float32, device=dout_NX.device)
    given = _rows_of(dout_NX), _weights_of(down_EXI, 128, False), rows.source_N, weight_TK, joined_NJ, djoined_NJ
    kernel: Any = swiglu_backward_kernel
    sizes = _tiling(rows, columns=128)
    kernel[_grid(rows, inner, 128)](*given, parts, rows.ends_E, count, width, inner, **sizes)
    dweight_N = parts.sum(0)
    return djoined_NJ, dweight_N.index_select(0, rows.place_TK.flatten()).view_as(weight_TK).to(weight_TK.dtype)


def weight_gradient(p_NM: Tensor, q_NK: Tensor, rows: Rows, dtype: torch.dtype) -> Tensor:
    """p^T q over each expert's rows: [E, M, K] in `dtype`."""
    high, wide = p_NM.shape[1], q_NK.shape[1]
    out = torch.empty(len(rows.counts_E), high, wide, dtype=dtype, device=p_NM.device)
    given = _columns_of(p_NM, 128), _columns_of(q_NK, 256), out, rows.ends_E, rows.counts_E, high, wide
    grid = triton.cdiv(high, 128) * triton.cdiv(wide, 256), len(rows.counts_E)
    sizes = {"BM": 128, "BN": 256, "BK": _BK, "GROUP": _GROUP, "ROWS": BLOCK_ROWS}
    kernel: Any = weight_gradient_kernel
    kernel[grid](*given, **sizes, num_warps=8, num_stages=3)
    return out


def _rows_of(x: Tensor) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(x, [BLOCK_ROWS, _BK])


def _columns_of(x: Tensor, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(x, [_BK, columns])


def _weights_of(b: Tensor, columns: int, transposed: bool) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(b, [1, columns, _BK] if transposed else [1, _BK, columns])


def _grid(rows: Rows, width: int, columns: int) -> tuple[int]:
    return (min(_PROGRAMS, len(rows.source_N) // BLOCK_ROWS * triton.cdiv(width, columns)),)


def _tiling(rows: Rows, columns: int) -> dict[str, Any]:
    experts = len(rows.ends_E)
    sizes = {"E": experts, "EXPERTS": max(16, triton.next_power_of_2(experts)), "GROUP": _GROUP, "PERSISTENT": True}
    return sizes | {"BM": BLOCK_ROWS, "BN": columns, "BK": _BK, "num_warps": 8, "num_stages": 3}
