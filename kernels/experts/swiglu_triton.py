"""SwiGLU of the experts' rows with the routing weight in it, and its gradients, each in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.experts.rows_triton import Rows
from kernels.silu_triton import silu_gradient


@triton.jit
def _swiglu_kernel(joined_ptr, source_ptr, end_ptr, weight_ptr, out_ptr, WIDTH, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    if row < tl.load(end_ptr):
        source = tl.load(source_ptr + row)
        weight = tl.load(weight_ptr + source, mask=source >= 0, other=0.0).to(tl.float32)
        gate = tl.load(joined_ptr + row * 2 * WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
        up = tl.load(joined_ptr + row * 2 * WIDTH + WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
        out = gate * tl.sigmoid(gate) * up * weight
        tl.store(out_ptr + row * WIDTH + i, out.to(out_ptr.dtype.element_ty), mask=i < WIDTH)


@triton.jit
def _swiglu_backward_kernel(
    dout_ptr,
    joined_ptr,
    source_ptr,
    end_ptr,
    weight_ptr,
    djoined_ptr,
    dweight_ptr,
    WIDTH,
    BLOCK: tl.constexpr,
):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    if row < tl.load(end_ptr):
        source = tl.load(source_ptr + row)
        weight = tl.load(weight_ptr + source, mask=source >= 0, other=0.0).to(tl.float32)
        dout = tl.load(dout_ptr + row * WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
        gate = tl.load(joined_ptr + row * 2 * WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
        up = tl.load(joined_ptr + row * 2 * WIDTH + WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
        silu = gate * tl.sigmoid(gate)
        dweight = tl.sum(dout * silu * up, 0).to(dweight_ptr.dtype.element_ty)
        tl.store(dweight_ptr + source, dweight, mask=source >= 0)
        dout = dout * weight
        narrow = djoined_ptr.dtype.element_ty
        tl.store(djoined_ptr + row * 2 * WIDTH + i, silu_gradient(gate, dout * up).to(narrow), mask=i < WIDTH)
        tl.store(djoined_ptr + row * 2 * WIDTH + WIDTH + i, (dout * silu).to(narrow), mask=i < WIDTH)


def swiglu(joined_NJ: Tensor, weight_TK: Tensor, rows: Rows) -> Tensor:
    """weight * silu(gate) * up of joined [N, 2 I], gate first: [N, I], rounded once."""
    count, inner = len(joined_NJ), joined_NJ.shape[1] // 2
    out_NI = torch.empty(count, inner, dtype=joined_NJ.dtype, device=joined_NJ.device)
    kernel: Any = _swiglu_kernel
    given = joined_NJ, rows.source_N, rows.ends_E[-1:], weight_TK, out_NI, inner
    kernel[(count,)](*given, **_tiling(inner))
    return out_NI


def swiglu_backward(dout_NI: Tensor, joined_NJ: Tensor, weight_TK: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Gradients of joined [N, 2 I] and of the weights [T, K]."""
    count, inner = dout_NI.shape
    djoined_NJ, dweight_TK = torch.empty_like(joined_NJ), torch.empty_like(weight_TK)
    given = dout_NI, joined_NJ, rows.source_N, rows.ends_E[-1:], weight_TK, djoined_NJ, dweight_TK, inner
    kernel: Any = _swiglu_backward_kernel
    kernel[(count,)](*given, **_tiling(inner))
    return djoined_NJ, dweight_TK


def _tiling(inner: int) -> dict[str, int]:
    block = triton.next_power_of_2(inner)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}
