"""Experts with gradient on Hopper GPUs: grouped GEMMs with few passes over the rows between them.

    rows = x[token]       joined = rows gate_up^T       h = weight * silu(gate) * up       y = sums of h down^T

The routing weight is multiplied into h: so its gradient needs no output of the experts, and sums are only sums. float32
master weights are cast once, and their gradients come out of the products as float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lightning_cispo.kernels.experts.gemm_triton import product_kernel, weight_gradient_kernel
from lightning_cispo.kernels.experts.rows_triton import BLOCK_ROWS, Rows, gather, number_rows, sum_rows
from lightning_cispo.kernels.experts.swiglu_triton import swiglu_backward, swiglu_product_kernel
from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.launcher import blocks_of, ceil_div, power_of_2

_PROGRAMS = 132  # one for each multiprocessor of an H100; each walks over tiles
_GROUP = 8  # tiles of rows that take turns under the same columns of a weight
_COLUMNS, _BK = 256, 64


class TrainedExperts(Function):
    """`kernels.experts.moe.moe_experts` for bf16 rows; never waits for the device."""

    @staticmethod
    def forward(
        ctx,
        x_TX: Tensor,
        expert_TK: Tensor,
        weight_TK: Tensor,
        gate_up_EJX: Tensor,
        down_EXI: Tensor,
        keep: bool = True,
    ):
        """Unless `keep`, nothing that only a gradient needs is written."""
        ctx.dtypes = gate_up_EJX.dtype, down_EXI.dtype
        gate_up_EJX, down_EXI = (w.to(x_TX.dtype).contiguous() for w in (gate_up_EJX, down_EXI))
        x_TX, weight_TK = x_TX.contiguous(), weight_TK.contiguous()
        rows = number_rows(expert_TK.contiguous(), down_EXI.shape[0])
        rows_NX = gather(x_TX, rows)
        joined_NJ, hidden_NI = swiglu_product(rows_NX, gate_up_EJX, weight_TK, rows, keep)
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
        return dx_TX, None, dweight_TK, dgate_up_EJX, ddown_EXI, None


def product(a_NK: Tensor, b: Tensor, rows: Rows, transposed: bool) -> Tensor:
    """Every row times its expert's b, [E, M, K] if transposed, else [E, K, M]: [N, M]."""
    experts, width = b.shape[0], b.shape[1] if transposed else b.shape[2]
    out = torch.empty(1, a_NK.shape[0], width, dtype=a_NK.dtype, device=a_NK.device)
    a_desc = blocks_of(a_NK, BLOCK_ROWS, _BK)
    b_desc = blocks_of(b, *((1, _COLUMNS, _BK) if transposed else (1, _BK, _COLUMNS)))
    out_desc, parts = _target(out, BLOCK_ROWS, _COLUMNS)
    tiles = a_NK.shape[0] // BLOCK_ROWS * ceil_div(width, _COLUMNS)
    sizes = {"E": experts, "EXPERTS": max(16, power_of_2(experts)), "GROUP": _GROUP, "PARTS": parts}
    sizes |= {"BM": BLOCK_ROWS, "BN": _COLUMNS, "BK": _BK, "TRANSPOSED": transposed}
    kernel: Any = product_kernel
    given = a_desc, b_desc, out_desc, rows.ends_E, a_NK.shape[1], width
    kernel[(min(_PROGRAMS, tiles),)](*given, **sizes, num_warps=8, num_stages=4)
    return out[0]


def swiglu_product(
    rows_NX: Tensor, gate_up_EJX: Tensor, weight_TK: Tensor, rows: Rows, keep: bool
) -> tuple[Tensor | None, Tensor]:
    """joined [N, 2 I] = rows gate_up^T, gate first, if it is to be kept, and weight * silu(gate) * up: [N, I]."""
    (count, width), (experts, double, _) = rows_NX.shape, gate_up_EJX.shape
    inner, half = double // 2, _COLUMNS // 2
    hidden_NI = torch.empty(count, inner, dtype=rows_NX.dtype, device=rows_NX.device)
    joined_NJ = torch.empty(count, double, dtype=rows_NX.dtype, device=rows_NX.device) if keep else None
    a_desc = blocks_of(rows_NX, BLOCK_ROWS, _BK)
    b_desc = blocks_of(gate_up_EJX.view(experts, 2, inner, width), 1, 2, half, _BK)
    hidden_desc = blocks_of(hidden_NI.view(count, 1, inner), BLOCK_ROWS, 1, half)
    joined_desc = hidden_desc
    if joined_NJ is not None:
        joined_desc = blocks_of(joined_NJ.view(count, 2, inner), BLOCK_ROWS, 1, half)
    sizes = {"E": experts, "EXPERTS": max(16, power_of_2(experts)), "GROUP": _GROUP, "KEEP": keep}
    sizes |= {"BM": BLOCK_ROWS, "BN": half, "BK": _BK}
    kernel: Any = swiglu_product_kernel
    given = a_desc, b_desc, joined_desc, hidden_desc, rows.ends_E, rows.source_N, weight_TK, width, inner
    grid = (min(_PROGRAMS, count // BLOCK_ROWS * ceil_div(inner, half)),)
    kernel[grid](*given, **sizes, num_warps=8, num_stages=4)
    return joined_NJ, hidden_NI


def weight_gradient(p_NM: Tensor, q_NK: Tensor, rows: Rows, dtype: torch.dtype) -> Tensor:
    """p^T q over each expert's rows: [E, M, K] in `dtype`; tiles lie so that fewer stick out."""
    high, wide, experts = p_NM.shape[1], q_NK.shape[1], rows.counts_E.shape[0]
    out = torch.empty(experts, high, wide, dtype=dtype, device=p_NM.device)
    tilings = (BLOCK_ROWS, _COLUMNS), (_COLUMNS, BLOCK_ROWS)
    tiles, (tall, broad) = min((experts * ceil_div(high, a) * ceil_div(wide, b), (a, b)) for a, b in tilings)
    p_desc = blocks_of(p_NM, _BK, tall)
    q_desc = blocks_of(q_NK, _BK, broad)
    out_desc, parts = _target(out, tall, broad)
    most = power_of_2(ceil_div(tiles, _PROGRAMS))
    sizes = {"E": experts, "BM": tall, "BN": broad, "BK": _BK, "GROUP": _GROUP, "PARTS": parts}
    kernel: Any = weight_gradient_kernel
    given = p_desc, q_desc, out_desc, rows.ends_E, rows.counts_E, high, wide
    grid = (min(_PROGRAMS, tiles),)
    kernel[grid](*given, **sizes, ROWS=BLOCK_ROWS, MOST=most, num_warps=8, num_stages=4)
    return out


def _target(out: Tensor, tall: int, broad: int) -> tuple[TensorDescriptor, int]:
    """Where tiles go, in parts that fit into shared memory beside four stages, and how many parts."""
    parts = 4 if out.dtype == torch.float32 else 2
    return blocks_of(out, 1, tall, broad // parts), parts
