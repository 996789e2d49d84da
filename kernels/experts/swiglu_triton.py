"""SwiGLU of the experts' rows with the routing weight in it: at the end of its product; its gradients in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.experts.gemm_triton import expert_of, tile_of
from lightning_cispo.kernels.experts.rows_triton import Rows
from lightning_cispo.kernels.launcher import launched, power_of_2
from lightning_cispo.kernels.silu_triton import silu_gradient


@launched
@triton.jit
def swiglu_product_kernel(
    a_desc,
    b_desc,
    joined_desc,
    hidden_desc,
    ends_ptr,
    source_ptr,
    weight_ptr,
    K,
    N,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    KEEP: tl.constexpr,
):
    """a [rows, K] times each expert's b [E, 2, N, K]: joined [rows, 2, N], if KEEP, and hidden [rows, 1, N].

    A tile is BN columns of gate and the same of up in one product, which the halves of its sum are.
    """
    tiles_n = tl.cdiv(N, BN)
    tiles_m = tl.load(ends_ptr + E - 1) // BM
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        m, n = tile_of(tile, tiles_m, tiles_n, GROUP)
        row = m * BM
        expert = expert_of(ends_ptr, row, E, EXPERTS)
        acc = tl.zeros([BM, 2 * BN], tl.float32)
        for k in range(0, K, BK):
            a = a_desc.load([row, k])
            b = b_desc.load([expert, 0, n * BN, k]).reshape(2 * BN, BK).T
            acc = tl.dot(a, b, acc)
        gate, up = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN)), (0, 2, 1)))
        source = tl.load(source_ptr + row + tl.arange(0, BM))  # here: carried through the loop they cost 5 %
        weight = tl.load(weight_ptr + source, mask=source >= 0, other=0.0).to(tl.float32)
        narrow: tl.constexpr = hidden_desc.dtype
        if KEEP:
            joined_desc.store([row, 0, n * BN], tl.reshape(gate.to(narrow), (BM, 1, BN)))
            joined_desc.store([row, 1, n * BN], tl.reshape(up.to(narrow), (BM, 1, BN)))
        hidden = gate * tl.sigmoid(gate) * up * weight[:, None]
        hidden_desc.store([row, 0, n * BN], tl.reshape(hidden.to(narrow), (BM, 1, BN)))


@launched
@triton.jit
def _swiglu_backward_kernel(
    dout_ptr,
    joined_ptr,
    source_ptr,
    ends_ptr,
    weight_ptr,
    djoined_ptr,
    dweight_ptr,
    WIDTH,
    E: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    if row < tl.load(ends_ptr + E - 1):
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


def swiglu_backward(dout_NI: Tensor, joined_NJ: Tensor, weight_TK: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Gradients of joined [N, 2 I] and of the weights [T, K]."""
    count, inner = dout_NI.shape
    djoined_NJ, dweight_TK = torch.empty_like(joined_NJ), torch.empty_like(weight_TK)
    given = dout_NI, joined_NJ, rows.source_N, rows.ends_E, weight_TK, djoined_NJ, dweight_TK, inner
    kernel: Any = _swiglu_backward_kernel
    block = power_of_2(inner)
    kernel[(count,)](*given, E=rows.ends_E.shape[0], BLOCK=block, num_warps=min(16, max(1, block // 256)))
    return djoined_NJ, dweight_TK
